"""Few-step LoRA: loads one that others made, and merges it into the base's denoiser.

The adapter then stands on the base as it does without. Such a file is not trusted: it is read from
safetensors alone, its metadata is not, and it may name nothing but layers of the denoiser, since
peft takes names for patterns.
"""

from __future__ import annotations

import glob
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from sgdmix_hub.errors import UserError, first_line, shown
from sgdmix_hub.hub.pins import Pin, local_folder

from .adapters import LORA_FILE, quiet_libraries
from .bases.loading import LoadedBase

NAME = "few_step"
# the ends of the names that diffusers and peft give to a layer's LoRA
OF_A_LAYER = re.compile(
    r"\.(lora_[AB](\.default)?|lora\.(up|down)|lora_linear_layer\.(up|down))\.weight$"
)


def merge_few_step(base: LoadedBase, pin: Pin, weight_name: str | None) -> None:
    """Merges a few-step LoRA into a base in single precision. Raises `UserError`."""
    path = lora_file(pin, weight_name)
    try:
        weights = load_file(path)
        fault = fault_of_layers(base, weights)
        if fault is not None:
            raise UserError(f"few_step_lora {pin.name}: {path.name} {fault}")
        with quiet_libraries():
            base.pipeline.load_lora_weights(dict(weights), adapter_name=NAME)
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


def fault_of_layers(base: LoadedBase, weights: dict[str, torch.Tensor]) -> str | None:
    """Why a LoRA file's weights do not belong to the base's denoiser, or None."""
    pipeline: Any = base.pipeline
    with quiet_libraries():
        named, _ = pipeline.lora_state_dict(dict(weights), unet_config=base.denoiser.config)
    start = f"{base.family.denoiser}."
    outside = [name for name in named if not name.startswith(start)]
    if outside:
        return f"has weights outside the denoiser, {shown(outside[0])}: give one that has none"
    modules = dict(base.denoiser.named_modules())
    layers = {name.removeprefix(start) for name in named if not name.endswith(".alpha")}
    unknown = [name for name in sorted(layers) if OF_A_LAYER.sub("", name) not in modules]
    if unknown or not layers:
        found = f"{shown(unknown[0])}" if unknown else "no weights"
        return f"has {found}, which the base has no layer for"
    if not any(OF_A_LAYER.search(name) for name in layers):
        return "holds no LoRA weights"
    return None
