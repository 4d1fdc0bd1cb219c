"""What an image's background looks like, as a vector: for the target rule that looks for new backgrounds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress

import cv2
import numpy as np

from .config import AugmentSettings
from .data import Split, square
from .errors import UnusableRow, one_row
from .masks import foreground_mask, share_of, widen
from .row_store import Block, RowStore, compute_rows
from .saliency_store import SaliencyMaps, saliency_root, stored_mask

SIZE = 64
MARGIN = 0.05  # share of the image size by which the foreground is widened, so that none of it is described
BANDS = 2  # upper and lower half: sky is not ground
FEATURES_PER_BAND = 8
MASK_SETTINGS = (
    "threshold_method",
    "threshold_quantile",
    "mask_refinement",
    "largest_component",
    "fill_holes",
    "mask_dilation",
)


@one_row("background")
def background_features(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean and deviation of the Lab colours and mean slopes across and down, of the background in the upper and the lower half.

    `pixels`: uint8 (h, w, 3) RGB; `mask`: bool (h, w), the foreground. Returns float32 (16,); a half without background is described by
    the whole background, a picture without any by zeros.
    """
    lab = cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    slopes = [np.abs(cv2.Sobel(lab[..., 0], cv2.CV_32F, *direction)) for direction in ((1, 0), (0, 1))]
    described = np.dstack([lab, *slopes])
    background = ~widen(mask, MARGIN)
    if not background.any():
        return np.zeros(BANDS * FEATURES_PER_BAND, np.float32)
    bands = zip(np.array_split(described, BANDS), np.array_split(background, BANDS), strict=True)
    seen = [values[shown] if shown.any() else described[background] for values, shown in bands]
    return np.concatenate([[*values.mean(axis=0), *values[:, :3].std(axis=0)] for values in seen]).astype(np.float32)


def compute_backgrounds(settings: AugmentSettings, split: Split, maps: SaliencyMaps, rank: int, world_size: int) -> RowStore:
    """The features of every image of the subset that has a saliency map, zeros elsewhere; each made once by some process of the launch."""
    inputs = {name: getattr(settings, name) for name in MASK_SETTINGS} | {"maps": maps.key}
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()

    def prepare() -> Callable[[np.ndarray], Block]:
        return lambda rows: (np.stack([features_of(settings, split, maps, row) for row in rows]), {})

    return compute_rows(saliency_root(settings) / f"backgrounds-{digest[:16]}", split, prepare, rank, world_size)


def features_of(settings: AugmentSettings, split: Split, maps: SaliencyMaps, row: int) -> np.ndarray:
    """The features of one image of a split, float32 (16,); zeros where it has no saliency map, or no mask."""
    if int(row) not in maps.unusable:
        with suppress(UnusableRow):
            image, stored = split.image(row), stored_mask(settings, split, row)
            pixels = np.asarray(square(image, SIZE, settings.resize))
            share = None if stored is None else share_of(stored, image.size, None, SIZE, settings.resize)
            return background_features(pixels, foreground_mask(pixels, maps[row], settings, share))
    return np.zeros(BANDS * FEATURES_PER_BAND, np.float32)
