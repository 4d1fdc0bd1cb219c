"""The precision of a training's forward pass."""

from __future__ import annotations

import torch

from sgdmix_hub.errors import UserError
from sgdmix_hub.settings.fields import AUTO
from sgdmix_hub.settings.training import TrainingSettings

FIRST_WITH_BF16 = 8  # major compute capability: Ampere
PRECISIONS = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def dtype_of(settings: TrainingSettings) -> torch.dtype:
    """The dtype of the forward pass. Raises `UserError` as `precision_of` does."""
    return PRECISIONS[precision_of(settings)]


def precision_of(settings: TrainingSettings) -> str:
    """`no`, `fp16` or `bf16`: the setting, or what auto means on this machine.

    Raises `UserError` for fp16 without a GPU.
    """
    if settings.mixed_precision == "fp16" and not torch.cuda.is_available():
        raise UserError("mixed_precision fp16 needs a GPU: give auto, bf16 or no")
    if settings.mixed_precision != AUTO:
        return settings.mixed_precision
    return "bf16" if has_bf16() else "no"


def has_bf16() -> bool:
    """Whether there is a GPU, and it computes in bfloat16."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= FIRST_WITH_BF16
