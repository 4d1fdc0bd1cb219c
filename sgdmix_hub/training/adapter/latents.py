"""Latents of all training images, on disk: encoded once, by all processes, kept across restarts.

    latents/KEY/values.npy    float16 (images, views, 2, c, h, w): mean and standard deviation of
                              the image and, with random_flip, of its mirror image; memory-mapped.
                              With aspect-buckets (images, views, 2, c, most), padded with zeros

KEY is what they depend on. A step reads the entries of its batch, so memory does not grow with the
dataset.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from sgdmix_hub.data.images import buckets
from sgdmix_hub.data.splits import Split
from sgdmix_hub.generation.row_blocks import Block
from sgdmix_hub.generation.row_store import RowStore, compute_rows
from sgdmix_hub.hub.pins import Pin
from sgdmix_hub.runtime.ranks import say
from sgdmix_hub.settings.adapter_training import AdapterSettings

from .dataset import DomainImages


def kept_latents(
    parent: Path,
    settings: AdapterSettings,
    images: DomainImages,
    base: Pin,
    encode: Callable[[torch.Tensor], torch.Tensor],
    rank: int,
    num_processes: int,
) -> RowStore:
    """Opens the latents of the images, in a folder of `parent`; encodes what is missing.

    `encode`: pixels (3, H, W) in [-1, 1] -> float16 (2, c, h, w) on the CPU. Every process encodes
    its share. A collective. Raises `Preempted`.
    """
    split = dataclasses.replace(images.split, subset=images.rows)

    def prepare() -> Callable[[np.ndarray], Block]:
        say(f"adapter: encoding {len(images.rows)} images, once")
        return lambda rows: (np.stack([_views(settings, images, row, encode) for row in rows]), {})

    folder = parent / key_of(settings, split, base)
    return compute_rows(folder, split, prepare, rank, num_processes)


def key_of(settings: AdapterSettings, split: Split, base: Pin) -> str:
    """A name for the latents of a split's subset."""
    facts = {
        "dataset": str(split.pin),
        "rows": hashlib.sha256(np.asarray(split.subset, np.int64).tobytes()).hexdigest(),
        "base": str(base),
        "resolution": settings.resolution,
        "resize": settings.resize,
        "random_flip": settings.random_flip,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _views(
    settings: AdapterSettings,
    images: DomainImages,
    row: int,
    encode: Callable[[torch.Tensor], torch.Tensor],
) -> np.ndarray:
    """float16 (views, 2, c, h, w) of one image."""
    pixels = images.pixels_of(int(row))
    views = [pixels, pixels.flip(-1)] if settings.random_flip else [pixels]
    encoded = np.stack([encode(view).numpy() for view in views])
    return padded(encoded, images, int(row)) if images.frames else encoded


def padded(encoded: np.ndarray, images: DomainImages, row: int) -> np.ndarray:
    """Latents (..., h, w) of an image as (..., most), the most that an image of any frame has."""
    factor = images.frame(row)[0] // encoded.shape[-1]
    most = max(width * height for width, height in buckets(images.resolution)) // factor**2
    flat = encoded.reshape(*encoded.shape[:-2], -1)
    return np.pad(flat, [(0, 0)] * (flat.ndim - 1) + [(0, most - flat.shape[-1])])


def unpadded(kept: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """One view's kept latents as (2, c, h, w). `size`: (h, w)."""
    return kept if kept.ndim == 4 else kept[..., : math.prod(size)].unflatten(-1, size)
