"""LoRA files that others made: which one is meant, whether they fit a base, and loading them.

Such a file is not trusted: it is read from safetensors alone, and what it names must be layers of
the base, since peft takes names for patterns. The stock loaders leave out weights that they do not
know, so nothing but a LoRA's own is let through, and what was loaded is counted.
"""

from __future__ import annotations

import glob
import math
import re
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from sgdmix_hub.errors import UserError, first_line, shown
from sgdmix_hub.hub.pins import Pin, local_folder

from .adapters import LARGEST_ALPHA, LORA_FILE, quiet_libraries
from .bases.loading import LoadedBase

Weights = dict[str, torch.Tensor]
OF_A_LAYER = re.compile(r"\.lora_[AB](\.default)?\.weight$")  # the ends of peft's names
UP = re.compile(r"(\.lora_B(\.default)?|[._]lora_up|[._]lora\.up|lora_linear_layer\.up)\.weight$")
# the ends of a LoRA's names, as all programs write them
HALF = re.compile(
    r"(\.lora_[AB](\.default)?|[._]lora[._](up|down)|lora_linear_layer\.(up|down))\.weight$"
)
ALPHA = re.compile(r"\.alpha$")
OF_A_DORA = re.compile(r"dora_scale|magnitude_vector")
PLAIN_NAME = re.compile(r"[\w.-]+")


def find_lora(
    pin: Pin,
    weight_name: str | None,
    setting: str,
    weight_setting: str,
    left_out: Iterable[str] = (),
) -> Path:
    """The file of a repository: the named one, `pytorch_lora_weights.safetensors` or its only one.

    `setting`, `weight_setting`: the settings that name the repository and the file. `left_out`:
    patterns of files that are no LoRA. Raises `UserError`.
    """
    folder = Path(local_folder(pin, [glob.escape(weight_name or "") or "*.safetensors"]))
    found = sorted(
        path.name
        for path in folder.glob("*.safetensors")
        if path.is_file() and not any(fnmatchcase(path.name, pattern) for pattern in left_out)
    )
    if weight_name is None and LORA_FILE in found:
        weight_name = LORA_FILE
    if weight_name is None and len(found) == 1:
        (weight_name,) = found
    if weight_name not in found:
        listed = f"it has {shown(', '.join(found))}" if found else "it has no .safetensors file"
        asked = f"has no {shown(weight_name)}" if weight_name else f"needs {weight_setting}"
        raise UserError(f"{setting} {pin.name} {asked}: {listed}")
    return folder / weight_name


def load_lora(
    base: LoadedBase,
    given: Weights,
    description: dict[str, Any],
    what: str,
    adapter_name: str,
    merged: bool,
    encoders: bool = False,
) -> None:
    """Loads a file's weights into its base, and merges them if `merged`.

    `description`: what `scaled` reads of the file's metadata. `encoders`: whether it may change
    the text encoders too. Raises `UserError`, which begins with `what`, if it is no plain LoRA,
    does not fit, or if any of its weights would have no effect.
    """
    networks = {base.family.denoiser: base.denoiser}
    if encoders:
        networks |= {encoder.model: base.network(encoder) for encoder in base.encoders}
    if (fault := fault_of_kind(given)) is not None:
        raise UserError(f"{what} {fault}")
    with quiet_libraries(), fitting(what):
        weights, names = _read(base, given, what)
        if (fault := fault_of_names(base, names, encoders)) is not None:
            raise UserError(f"{what} {fault}")
        weights = scaled(weights, description, what)
        base.pipeline.load_lora_weights(weights, adapter_name=adapter_name)
        whole = effective_weights(given, names)
        loaded = effective_layers(networks.values(), adapter_name)
        if whole == 0:
            raise UserError(f"{what} changes nothing: it was not trained, all its layers are zero")
        if loaded != whole:
            raise UserError(
                f"{what} does not fit the base model: diffusers loads {loaded} of its {whole} "
                "layers into it, so it is for another base"
            )
        if merged:
            parts = [name for name, of in networks.items() if effective_layers([of], adapter_name)]
            base.pipeline.fuse_lora(components=parts, adapter_names=[adapter_name])
            base.pipeline.unload_lora_weights()


def _read(base: LoadedBase, given: Weights, what: str) -> tuple[Weights, list[str]]:
    """`Family.lora_weights`; raises `UserError` for names that the stock loader does not read."""
    names: list[str] = []
    reason = ""
    try:
        weights, names = base.family.lora_weights(base.pipeline, given)
    except (ValueError, LookupError, AttributeError, NotImplementedError) as error:
        weights, reason = {}, f" ({first_line(error)})"
    if given and not names:
        raise UserError(
            f"{what} does not fit the base model: diffusers reads no LoRA for a base of "
            f"{base.family.title} from names like {shown(min(given))}{reason}"
        )
    return weights, names


@contextmanager
def fitting(what: str) -> Generator[None]:
    """Raises `UserError`, which begins with `what`, for what libraries raise of a file."""
    try:
        yield
    except (ValueError, LookupError, TypeError, RuntimeError, OSError, SafetensorError) as error:
        raise UserError(f"{what} does not fit the base model: {first_line(error)}") from error


def fault_of_kind(names: Iterable[str]) -> str | None:
    """Why a file with weights of these names is no plain LoRA, or None."""
    others = [name for name in names if not HALF.search(name) and not ALPHA.search(name)]
    if not others:
        return None
    if any(OF_A_DORA.search(name) for name in others):
        return "is a DoRA, which is not supported: give a plain LoRA"
    return f"has {shown(others[0])}, which no plain LoRA has: give one"


def fault_of_names(base: LoadedBase, names: Iterable[str], encoders: bool = False) -> str | None:
    """Why the names of a LoRA's weights, in peft's format, are not of the base, or None.

    `encoders`: whether it may also have weights of the text encoders, whose layers libraries name
    in several ways: these names are only checked to be plain ones of a LoRA, see
    `effective_layers`.
    """
    start = f"{base.family.denoiser}."
    others = [f"{encoder.model}." for encoder in base.encoders] if encoders else []
    modules, count = dict(base.denoiser.named_modules()), 0
    for name in names:
        count += 1
        is_half = PLAIN_NAME.fullmatch(name) and HALF.search(name)
        if is_half and name.startswith(tuple(others)):
            continue
        if not name.startswith(start):
            where = "the denoiser and the text encoders" if encoders else "the denoiser"
            return f"has weights outside {where}, {shown(name)}: give one that has none"
        layer, found = OF_A_LAYER.subn("", name.removeprefix(start))
        if not found or layer not in modules:
            return f"has {shown(name)}, which the base has no layer for"
    return None if count else "has no weights"


def scaled(weights: Weights, description: dict[str, Any], what: str) -> Weights:
    """The weights with the alpha of the description in them, which is all that is read of it.

    The loader takes weights without an alpha at alpha = rank.
    """
    result = dict(weights)
    for network in {name.partition(".")[0] for name in weights}:
        values = {
            setting: description[f"{network}.{setting}"]
            for setting in ("lora_alpha", "use_rslora", "alpha_pattern")
            if f"{network}.{setting}" in description
        }
        if not values:
            continue
        alpha = values.get("lora_alpha", 8)  # peft's own default
        is_number = isinstance(alpha, (int, float)) and not isinstance(alpha, bool)
        if not is_number or not 0 < alpha <= LARGEST_ALPHA:
            raise UserError(f"{what} states lora_alpha {shown(alpha)}: it cannot be used")
        if values.get("alpha_pattern"):
            raise UserError(f"{what} has another alpha for some layers, which is not supported")
        for name, value in weights.items():
            if name.startswith(f"{network}.") and UP.search(name):
                rank = value.shape[1]
                factor = alpha / (math.sqrt(rank) if values.get("use_rslora") is True else rank)
                result[name] = value if factor == 1 else value * factor
    return result


def effective_weights(weights: Weights, names: list[str]) -> int:
    """How many layers a LoRA file changes: those whose second matrix is not zero.

    `names`: of the same weights in peft's format, where one that stands for several layers
    (kohya's q, k and v in one) is several.
    """
    ups = [value for name, value in weights.items() if UP.search(name)]
    split = sum(bool(UP.search(name)) for name in names) - len(ups)
    return sum(bool(value.any()) for value in ups) + split


def effective_layers(networks: Iterable[torch.nn.Module], adapter_name: str) -> int:
    """How many layers of the networks a loaded LoRA changes."""
    parts: list[Any] = [part for network in networks for part in network.modules()]
    loaded = [part.lora_B[adapter_name] for part in parts if adapter_name in _loras(part)]
    return sum(bool(half.weight.any()) for half in loaded)


def _loras(part: torch.nn.Module) -> Any:
    """The second halves of the LoRA of a layer, by adapter."""
    return getattr(part, "lora_B", ())


def use_all_adapters(pipeline: Any) -> None:
    """Turns on every LoRA that was loaded beside a pipeline's weights; loading one turns the others
    off.
    """
    loaded = pipeline.get_list_adapters().values()
    names = list(dict.fromkeys(name for of_part in loaded for name in of_part))
    if names:
        pipeline.set_adapters(names)
