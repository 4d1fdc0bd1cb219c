"""Few-step LoRA: loads one that others made, and merges it into the base's denoiser.

The adapter then stands on the merged base. The metadata of the file is not read.
"""

from __future__ import annotations

from safetensors.torch import load_file

from sgdmix_hub.hub.pins import Pin

from .bases.loading import LoadedBase
from .lora_files import find_lora, fitting, load_lora

NAME = "few_step"


def merge_few_step(
    base: LoadedBase, pin: Pin, weight_name: str | None, merged: bool = True
) -> None:
    """Merges a few-step LoRA into a base in single precision. Raises `UserError`.

    It is left beside the weights if not `merged`.
    """
    path = find_lora(pin, weight_name, "few_step_lora", "few_step_weight_name")
    what = f"few_step_lora {pin.name}: {path.name}"
    with fitting(what):
        weights = load_file(path)
    load_lora(base, weights, {}, what, NAME, merged)
