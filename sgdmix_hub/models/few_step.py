"""Few-step LoRA: loads one that others made, and merges it into the base's denoiser.

The adapter then stands on the base as it does without. Such a file is not trusted: it is read from
safetensors alone, its metadata is not, and it may name nothing but layers of the denoiser, since
peft takes names for patterns.
"""

from __future__ import annotations

import glob
import re
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from sgdmix_hub.errors import UserError, first_line, shown
from sgdmix_hub.hub.pins import Pin, local_folder

from .adapters import LORA_FILE, quiet_libraries
from .bases.loading import LoadedBase

NAME = "few_step"
OF_A_LAYER = re.compile(r"\.lora_[AB](\.default)?\.weight$")  # the ends of peft's names


def merge_few_step(base: LoadedBase, pin: Pin, weight_name: str | None) -> None:
    """Merges a few-step LoRA into a base in single precision. Raises `UserError`."""
    path = lora_file(pin, weight_name)
    try:
        with quiet_libraries():
            weights, names = base.family.lora_weights(base.pipeline, load_file(path))
            fault = fault_of_names(base, names)
            if fault is not None:
                raise UserError(f"few_step_lora {pin.name}: {path.name} {fault}")
            base.pipeline.load_lora_weights(weights, adapter_name=NAME)
            layers = {OF_A_LAYER.sub("", name) for name in names}
            if (loaded := _loaded_layers(base)) != len(layers):
                raise UserError(
                    f"few_step_lora {pin.name}: diffusers reads {loaded} of the {len(layers)} "
                    f"layers of {path.name}"
                )
            base.pipeline.fuse_lora(components=[base.family.denoiser], adapter_names=[NAME])
            base.pipeline.unload_lora_weights()
    except (ValueError, KeyError, TypeError, RuntimeError, OSError, SafetensorError) as error:
        raise UserError(
            f"few_step_lora {pin.name} does not fit the base model: {first_line(error)}"
        ) from error


def lora_file(pin: Pin, weight_name: str | None) -> Path:
    """The file of a repository, `pytorch_lora_weights.safetensors` or its only one.

    Raises `UserError`.
    """
    folder = Path(local_folder(pin, [glob.escape(weight_name or "") or "*.safetensors"]))
    found = sorted(path.name for path in folder.glob("*.safetensors") if path.is_file())
    if weight_name is None and LORA_FILE in found:
        weight_name = LORA_FILE
    if weight_name is None and len(found) == 1:
        (weight_name,) = found
    if weight_name not in found:
        listed = f"it has {shown(', '.join(found))}" if found else "it has no .safetensors file"
        asked = f"has no {shown(weight_name)}" if weight_name else "needs few_step_weight_name"
        raise UserError(f"few_step_lora {pin.name} {asked}: {listed}")
    return folder / weight_name


def fault_of_names(base: LoadedBase, names: list[str]) -> str | None:
    """Why the names of a LoRA's weights are not of the base's denoiser, or None."""
    start = f"{base.family.denoiser}."
    outside = [name for name in names if not name.startswith(start)]
    if outside:
        return f"has weights outside the denoiser, {shown(outside[0])}: give one that has none"
    modules = dict(base.denoiser.named_modules())
    for name in names:
        layer, found = OF_A_LAYER.subn("", name.removeprefix(start))
        if not found or layer not in modules:
            return f"has {shown(name)}, which the base has no layer for"
    return None if names else "has no weights"


def _loaded_layers(base: LoadedBase) -> int:
    return sum(NAME in getattr(part, "lora_A", ()) for part in base.denoiser.modules())
