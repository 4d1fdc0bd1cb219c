"""What `SGDMixPipeline.from_pretrained` loads: names of models and settings -> the parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch

from sgdmix_hub.arithmetic import set_arithmetic
from sgdmix_hub.errors import UserError, shown
from sgdmix_hub.forms import LOCAL_PIN
from sgdmix_hub.hub.pins import Pin, parse_pins, resolve
from sgdmix_hub.method.saliency.segmentation import MaskFunction, MaskFunctionSource
from sgdmix_hub.method.saliency.sources import CamSource, Source, load_source
from sgdmix_hub.models.adapters import check_base, check_family
from sgdmix_hub.models.bases.supported import check_sampling
from sgdmix_hub.models.loading import (
    SegmenterPins,
    load_classifier,
    load_refiner,
    load_segmenter,
    pin_diffusion,
)
from sgdmix_hub.models.prompts import Prompts
from sgdmix_hub.models.saved import Saved, contents_of
from sgdmix_hub.settings.adapters import check_few_step, check_weight_name
from sgdmix_hub.settings.method import MethodSettings, sought_words
from sgdmix_hub.settings.presets import apply_preset, saliency_source

if TYPE_CHECKING:
    from sgdmix_hub.models.refine import Refiner

LoadSource = Callable[[torch.device], Source]
# models that a saved pipeline names besides its base
BROUGHT = ("classifier", "segmenter", "detector", "few_step_lora")


@dataclass(frozen=True)
class Named:
    """The models of a pipeline, as `org/name`, `org/name@revision` or folders."""

    base: str | None = None
    adapter: str | None = None
    classifier: str | None = None
    segmenter: str | None = None
    detector: str | None = None
    mask_function: MaskFunction | None = None
    few_step_lora: str | None = None


@dataclass(frozen=True)
class Parts:
    """A pipeline's parts. `load_source` loads its saliency source onto another device."""

    settings: MethodSettings
    refiner: Refiner | None
    source: Source
    load_source: LoadSource
    pins: dict[str, str]
    class_names: list[str] | None


class Pins:
    """The pins of the models that were named, by the settings that name them."""

    def __init__(self):
        self.published: dict[str, str] = {}
        self._resolved: dict[str, Pin] = {}

    def resolve(self, name: str) -> Pin:
        """The pin of a name, made once: the hash of a large folder takes a while."""
        if name not in self._resolved:
            self._resolved[name] = resolve(name)
        return self._resolved[name]

    def pin(self, setting: str, name: str) -> Pin:
        """The pin of what a setting names. Raises `UserError`."""
        if LOCAL_PIN.fullmatch(name):
            raise UserError(f"{setting} {shown(name)} was a local folder: give its path")
        pinned = self.resolve(name)
        self.published[setting] = str(pinned)
        return pinned


def load_parts(
    named: Named, class_names: list[str] | None, device: torch.device, method: dict[str, Any]
) -> Parts:
    """The parts of a pipeline. `method`: settings by their names. Raises `UserError`."""
    set_arithmetic()
    method = named_settings(method)
    if named.mask_function is not None:
        method = {"saliency_method": "function"} | method
    if named.segmenter is not None:
        method = {"saliency_method": "segmentation"} | method
    pins = Pins()
    named, saved = _opened(named, pins)
    settings = apply_preset(MethodSettings(**named_settings(saved.settings) | method))
    settings.validate()
    _check_source(settings, named)
    check_few_step(settings, named.few_step_lora)
    check_weight_name(settings, named.adapter)
    class_names = class_names or saved.class_names
    refiner = None
    if settings.refines:
        refiner = _load_refiner(settings, named, saved, pins, device)
        if refiner.adapter is not None:
            class_names = refiner.adapter.class_names
        refiner.check_prompts(Prompts(settings, refiner.adapter, class_names))
    load = _source_loader(settings, named, class_names, refiner, pins)
    source = load(device)
    if isinstance(source, CamSource):
        class_names = source.cam.classifier.class_names
    return Parts(settings, refiner, source, load, pins.published, class_names)


def named_settings(method: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments as fields of `MethodSettings`.

    Raises `UserError` for an unknown name, or for a setting that is given by two names.
    """
    if {"dtype", "torch_dtype"} <= method.keys():
        raise UserError("dtype and torch_dtype are two names of one setting: give one")
    named = {"dtype" if name == "torch_dtype" else name: value for name, value in method.items()}
    if "safety_checker" in named and named["safety_checker"] is None:  # as for diffusers
        named["safety_checker"] = False
    unknown = named.keys() - {field.name for field in fields(MethodSettings)}
    if unknown:
        raise UserError(f"no such setting: {shown(min(unknown))}")
    return named


def method_settings(settings: MethodSettings) -> MethodSettings:
    """The settings without those of a generation around the method."""
    return MethodSettings(
        **{field.name: getattr(settings, field.name) for field in fields(MethodSettings)}
    )


def adapter_origin(
    refiner: Refiner | None, published: dict[str, str]
) -> tuple[Pin, Pin, str | None] | None:
    """The pins of a pipeline's adapter and of its base, and the base's licence as the adapter
    recorded it; None without an adapter. `published`: all pins of the pipeline.
    """
    pins = parse_pins(published)
    if refiner is None or "adapter" not in pins:
        return None
    folder = recorded = None
    if refiner.adapter is not None:
        folder, recorded = refiner.adapter.folder, refiner.adapter.facts.get("base_license")
    elif refiner.foreign is not None:
        folder = str(refiner.foreign.lora.parent)
    adapter = pins["adapter"]
    here = replace(adapter, path=folder) if adapter.is_local else adapter
    return here, pins["pretrained_model_name_or_path"], recorded


def _opened(named: Named, pins: Pins) -> tuple[Named, Saved]:
    """The models by what they are. A saved pipeline brings its models, if no others are named."""
    name = named.adapter or named.base
    if name is None:
        return named, Saved()
    contents = contents_of(pins.resolve(name))
    saved = contents.saved or Saved()
    if contents.has_adapter:
        named = replace(named, base=_beside(named), adapter=name)
    elif contents.saved is not None:
        named = replace(named, base=_beside(named), adapter=None)
    brought = {
        "base": saved.pins.get("pretrained_model_name_or_path"),
        **{setting: saved.pins.get(setting) for setting in BROUGHT},
    }
    return (
        replace(named, **{part: getattr(named, part) or pin for part, pin in brought.items()}),
        saved,
    )


def _beside(named: Named) -> str | None:
    """The base that is named beside an adapter or a saved pipeline, if one is."""
    return None if named.adapter is None else named.base


def _check_source(settings: MethodSettings, named: Named) -> None:
    """Raises `UserError` if what the saliency method needs is not named."""
    needs = saliency_source(settings).needs
    given = {"classifier": named.classifier, "segmenter": named.segmenter}
    if needs in given and given[needs] is None:
        raise UserError(
            f"{settings.saliency_method} needs a {needs}: give {needs}='org/name' or a folder"
        )
    if (needs == "function") != (named.mask_function is not None):
        raise UserError("mask_function and saliency_method 'function' belong together")


def _load_refiner(
    settings: MethodSettings, named: Named, saved: Saved, pins: Pins, device: torch.device
) -> Refiner:
    if named.base is None and named.adapter is None:
        raise UserError(
            "strength above 0 needs a base model or an adapter; strength=0 mixes without a model"
        )
    diffusion = pin_diffusion(settings, named.adapter, named.base, pins.pin, named.few_step_lora)
    family = check_sampling(diffusion.base, settings.scheduler, settings.timestep_spacing)
    family.check_precision("dtype", settings.dtype)
    if diffusion.adapter is not None:
        check_family(diffusion.adapter, family)
        check_base(diffusion.adapter, diffusion.base)
    saved_base = saved.pins.get("pretrained_model_name_or_path")
    if saved_base is not None and not diffusion.base.holds_same_as(Pin.parse(saved_base)):
        raise UserError(
            f"the pipeline was saved with {saved_base}, not with {diffusion.base}: give that base"
        )
    return load_refiner(
        settings,
        diffusion.base,
        diffusion.adapter,
        device,
        few_step_lora=diffusion.few_step_lora,
        foreign=diffusion.foreign,
    )


def _source_loader(
    settings: MethodSettings,
    named: Named,
    class_names: list[str] | None,
    refiner: Refiner | None,
    pins: Pins,
) -> LoadSource:
    """Pins the models of the saliency source and returns what loads it onto a device."""
    needs, function = saliency_source(settings).needs, named.mask_function
    adapter = None if refiner is None else refiner.adapter
    if function is not None:
        return lambda device: MaskFunctionSource(function, settings.resize)
    if needs == "classifier" and named.classifier is not None:
        classifier = pins.pin("classifier", named.classifier)
        owner = "given class_names" if adapter is None else "adapter"
        return lambda device: load_source(
            settings, load_classifier(classifier, class_names, device, owner)
        )
    if needs == "segmenter" and named.segmenter is not None:
        asked = SegmenterPins(
            pins.pin("segmenter", named.segmenter),
            None if named.detector is None else pins.pin("detector", named.detector),
            sought_words(settings, None if adapter is None else adapter.facts["metaclass"]),
        )
        return lambda device: load_source(
            settings, load_segmenter(asked, settings.segmenter_instances, settings.resize, device)
        )
    return lambda device: load_source(settings)
