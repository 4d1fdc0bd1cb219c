"""What a call of the pipeline returns. Imports nothing of the package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from PIL import Image

Pixels = np.ndarray


def _tensor(pixels: Pixels) -> torch.Tensor:
    """float32 (3, h, w) in [0, 1] of an image, bool (h, w) of a mask."""
    if pixels.dtype == bool:
        return torch.from_numpy(pixels)
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def _array(pixels: Pixels) -> np.ndarray:
    """float32 (h, w, 3) in [0, 1] of an image, bool (h, w) of a mask."""
    return pixels if pixels.dtype == bool else pixels.astype(np.float32) / 255


def _pil(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels)


# `output_type` -> what it makes of an image, uint8 (h, w, 3), or mask, bool (h, w).
OUTPUT_TYPES: dict[str, Callable[[Pixels], Any]] = {"pil": _pil, "np": _array, "pt": _tensor}


@dataclass(frozen=True)
class SGDMixPipelineOutput:
    """One entry an image in every field. Also reads as `output["images"]`, `output[0]`, a tuple.

    Attributes:
        images: the results; None for an image that cannot be used. Images of PIL ("RGB"), or by
            `output_type` "np" float32 (h, w, 3), "pt" float32 (3, h, w), in [0, 1].
        mixed: what was refined: the source's foreground on the target's background; None if there
            is no mixture.
        masks: the foregrounds that were cut: images of PIL ("L", 0 or 255), or bool (h, w).
        mask_confidences: of the sources' masks, in [0, 1]; None if the saliency method states none.
        prompts: the text of each image's last step, empty if it was not refined.
        seeds: of each image's noise; None where a generator was given.
        reasons: why an image cannot be used; None if it can.
    """

    images: list[Any]
    mixed: list[Any]
    masks: list[Any]
    mask_confidences: list[float | None]
    prompts: list[str]
    seeds: list[int | None]
    reasons: list[str | None]

    def __getitem__(self, key: str | int | slice) -> Any:
        """A field by its name, or by its place in `to_tuple()`."""
        return getattr(self, key) if isinstance(key, str) else self.to_tuple()[key]

    def to_tuple(self) -> tuple[list, ...]:
        """The fields in their order."""
        return tuple(getattr(self, field.name) for field in fields(self))
