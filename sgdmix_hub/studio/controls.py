"""The settings of the method as controls of a page, made from the fields of their dataclass."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin

import gradio as gr  # an extra

from sgdmix_hub.settings.fields import CountOrAuto, hints_of, info_of
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.method import MethodSettings
from sgdmix_hub.settings.presets import PRESETS, apply_preset
from sgdmix_hub.settings.saliency import NEEDED_SETTINGS, SALIENCY_SOURCES

# What the page asks, under the headings that it has; choices, bounds and help are the fields'.
GROUPS = {
    "Masks": (
        "preset",
        "saliency_method",
        "threshold_method",
        "mask_refinement",
        "min_mask_confidence",
        "low_confidence",
        "largest_component",
        "fill_holes",
        "mask_dilation",
    ),
    "Targets": (
        "selection_method",
        "target_classes",
        "num_candidates",
        "crop_target",
        "max_target_reuse",
    ),
    "Mixing": ("mixing_method", "feather"),
    "Refinement": (
        "strength",
        "strength_unit",
        "foreground_strength",
        "paste_foreground",
        "kept_erosion",
        "guidance_scale",
        "num_inference_steps",
        "scheduler",
        "few_step_method",
        "timestep_spacing",
        "inpainting_method",
        "dtype",
        "safety_checker",
    ),
    "Prompts": (
        "prompt_template",
        "background_prompts",
        "background_prompt_template",
        "negative_prompt",
        "metaclass",
        "prompt_class",
    ),
    "Images to make": ("num_variants", "resolution", "resize"),
    "Sources of masks, in detail": (
        "threshold_quantile",
        "grabcut_radius",
        "grabcut_background_radius",
        "saliency_sigma",
        "saliency_layer",
        "saliency_input_size",
        "trust_test",
        "segmenter_prompt",
        "segmenter_instances",
        "rembg_model",
    ),
}
OF_BASE = ("Refinement", "Prompts")  # groups that need a diffusion model
# Settings that name columns and files, or change no more than speed: for the command line.
OFF_PAGE = (
    "mask_column",
    "bbox_column",
    "bbox_format",
    "few_step_weight_name",
    "batch_size",
    "compile",
    "regional_compile",
    "quantization",
    "vae_tiling",
    "vae_slicing",
    "cpu_offload",
    "adapter_weight_name",
)
NOT_SET = ""  # the value of a choice that leaves a setting to its default
YES, NO = "yes", "no"
FIELDS = {field.name: field for field in dataclasses.fields(MethodSettings)}


def names_on_page(has_base: bool) -> list[str]:
    """The settings that have a control, in the order of the page."""
    groups = {group: names for group, names in GROUPS.items() if has_base or group not in OF_BASE}
    return [name for names in groups.values() for name in names]


def control(name: str, start: AugmentSettings) -> gr.components.Component:
    """The control of a setting, at its value in `start`."""
    field, kind = FIELDS[name], _kind(name)
    common: dict[str, Any] = {
        "label": name,
        "info": field.metadata["help"],
        "elem_id": f"setting-{name}",
        "value": raw_value(name, getattr(start, name)),
        "interactive": True,
    }
    if kind.words is not None:
        return gr.Dropdown(choices=choices(name, start), **common)
    if kind.type is bool:
        if not kind.optional:
            return gr.Checkbox(**common)
        return gr.Dropdown(choices=choices(name, start), **common)
    if kind.is_number:
        common["info"] = f"{common['info']}; {info_of(field).bounds}"
    if kind.is_number and not kind.optional and not kind.several:
        whole = kind.type is int
        return gr.Number(precision=0 if whole else None, step=1 if whole else 0.05, **common)
    lines = 3 if kind.several and kind.type is str else 1
    return gr.Textbox(lines=lines, placeholder=left_to(name, start), **common)


def choices(name: str, start: AugmentSettings) -> list[tuple[str, str]]:
    """What a control offers: (as it is shown, its value)."""
    kind = _kind(name)
    words = [YES, NO] if kind.words is None else list(kind.words)
    if name == "saliency_method":
        words = [word for word in words if is_at_hand(word, start)]
    offered = [(word, word) for word in words]
    return [(left_to(name, start), NOT_SET), *offered] if kind.optional else offered


def is_at_hand(method: str, start: AugmentSettings) -> bool:
    """Whether what a saliency method needs was given."""
    needs = SALIENCY_SOURCES[method].needs
    if needs in NEEDED_SETTINGS:
        return getattr(start, NEEDED_SETTINGS[needs][0]) is not None
    if needs == "rembg":
        return importlib.util.find_spec("rembg") is not None
    return needs == "nothing"


def update(name: str, chosen: AugmentSettings) -> dict[str, Any]:
    """What changes of a control when the preset gives its setting another value."""
    kind = _kind(name)
    if kind.words is not None or kind.type is bool:
        return gr.update(choices=choices(name, chosen))
    return gr.update(placeholder=left_to(name, chosen))


def follows_preset(name: str) -> bool:
    """Whether the preset fills the setting if it is not set."""
    return name in PRESETS["paper"]


def left_to(name: str, start: AugmentSettings) -> str:
    """What a setting is if it is not set."""
    if not _kind(name).optional:
        return ""
    unset = apply_preset(dataclasses.replace(start, **{name: None}))
    value = getattr(unset, name)
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return f"{start.preset}: {YES if value else NO}"
    return f"{start.preset}: {value if isinstance(value, str) else f'{value:g}'}"


def raw_value(name: str, value: Any) -> Any:
    """A setting's value as its control holds it."""
    kind = _kind(name)
    if kind.several:
        separator = "\n" if kind.type is str else ", "
        parts = value or []
        return separator.join(part if isinstance(part, str) else f"{part:g}" for part in parts)
    if kind.words is not None:
        return NOT_SET if value is None else value
    if kind.type is bool and kind.optional:
        return {None: NOT_SET, True: YES, False: NO}[value]
    if kind.is_number and kind.optional:  # a number field cannot be empty
        return "" if value is None else f"{value:g}"
    return value or "" if kind.type is str else value


def setting_value(name: str, raw: Any) -> Any:
    """What a control holds as the setting's value; None if it is not set."""
    kind = _kind(name)
    if raw is None or (isinstance(raw, str) and not raw.strip()):
        return None
    if kind.several:
        separator = "\n" if kind.type is str else ","
        parts = [part.strip() for part in str(raw).split(separator) if part.strip()]
        return [number_or_text(part) for part in parts] if kind.type is float else parts
    if kind.type is bool and isinstance(raw, str):
        return raw == YES
    if kind.is_number and isinstance(raw, str):
        raw = number_or_text(raw)
    if kind.type is int and isinstance(raw, float) and raw.is_integer():
        return int(raw)
    return raw


def chosen_values(names: Iterable[str], raws: Iterable[Any]) -> dict[str, Any]:
    """The settings that controls hold, by name; those that are not set are left out."""
    values = {name: setting_value(name, raw) for name, raw in zip(names, raws, strict=True)}
    return {name: value for name, value in values.items() if value is not None}


def number_or_text(text: str) -> float | str:
    """A number, or the text as it is if it is none."""
    try:
        return float(text)
    except ValueError:
        return text


@dataclasses.dataclass(frozen=True)
class Kind:
    """The type of a field: of its value or of a list's items, the words it may be, if they are
    known, and whether it may be None.
    """

    type: type
    words: tuple[str, ...] | None
    optional: bool
    several: bool

    @property
    def is_number(self) -> bool:
        return self.type in (int, float)


def _kind(name: str) -> Kind:
    hint = hints_of(MethodSettings)[name]
    options = get_args(hint)
    optional = type(None) in options
    if optional:
        (hint,) = (option for option in options if option is not type(None))
    if get_origin(hint) is Literal:
        return Kind(str, get_args(hint), optional, False)
    if get_origin(hint) is list:
        return Kind(get_args(hint)[0], None, optional, True)
    return Kind(int if hint is CountOrAuto else hint, None, optional, False)
