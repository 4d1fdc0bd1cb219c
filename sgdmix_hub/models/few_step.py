"""Few-step LoRA: loads one that others made, and merges it into the base's denoiser.

The adapter then stands on the base as it does without. The metadata of the file is not read.
"""

from __future__ import annotations

from safetensors import SafetensorError
from safetensors.torch import load_file

from sgdmix_hub.errors import UserError, first_line
from sgdmix_hub.hub.pins import Pin

from .adapters import quiet_libraries
from .bases.loading import LoadedBase
from .lora_files import OF_A_LAYER, fault_of_names, find_lora

NAME = "few_step"


def merge_few_step(
    base: LoadedBase, pin: Pin, weight_name: str | None, merged: bool = True
) -> None:
    """Merges a few-step LoRA into a base in single precision. Raises `UserError`.

    It is left beside the weights if not `merged`.
    """
    path = find_lora(pin, weight_name, "few_step_lora", "few_step_weight_name")
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
            if merged:
                base.pipeline.fuse_lora(components=[base.family.denoiser], adapter_names=[NAME])
                base.pipeline.unload_lora_weights()
    except (ValueError, KeyError, TypeError, RuntimeError, OSError, SafetensorError) as error:
        raise UserError(
            f"few_step_lora {pin.name} does not fit the base model: {first_line(error)}"
        ) from error


def _loaded_layers(base: LoadedBase) -> int:
    return sum(NAME in getattr(part, "lora_A", ()) for part in base.denoiser.modules())
