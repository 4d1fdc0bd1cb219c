"""Model-free masks, and the most trustworthy one of them.

All are cut from one map, the chance of foreground (`foreground`). GrabCut finds parts that the map
lacks and goes astray in clutter, so that one is left as it is; `confidence` chooses.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from sgdmix_hub.data.images import square
from sgdmix_hub.errors import UnusableRow, one_row
from sgdmix_hub.method.confidence import confidence
from sgdmix_hub.method.masks import GrabCut, grabcut_mask
from sgdmix_hub.method.outlines import small_lab, widen
from sgdmix_hub.settings.reasons import LOW_CONFIDENCE

from .foreground import FITTED, Weights, foreground_chance
from .model_free import MAP_SIZE
from .tones import has_colours

MASK_SIZE = 256
DILATION = 0.008  # share of the image size: a lost leg costs more than a little background
NARROW = GrabCut(sharp=None)  # refines whatever it is given: these masks are coarse
# Candidate -> the chance above which it is foreground, and what refines it.
CANDIDATES: dict[str, tuple[float, GrabCut | None]] = {
    "plain": (0.4, None),
    "likely": (0.35, NARROW),
    "sure": (0.5, NARROW),
}


def chance_map(pixels: np.ndarray, weights: Weights = FITTED) -> np.ndarray:
    """The chance of foreground, float32 (256, 256) in [0, 1], of a uint8 RGB image of that size."""
    return cv2.resize(foreground_chance(pixels, weights), pixels.shape[:2])


def candidates(pixels: np.ndarray, chance: np.ndarray) -> dict[str, np.ndarray]:
    """Candidate -> its mask, bool (256, 256), where that is neither empty nor full."""
    masks = {}
    for name, (cut, grabcut) in CANDIDATES.items():
        mask = chance > cut
        if grabcut is not None:
            mask = grabcut_mask(pixels, chance, mask, grabcut)
        if mask.any() and not mask.all():
            masks[name] = mask
    return masks


def consensus(pixels: np.ndarray) -> tuple[np.ndarray, float]:
    """The most trusted candidate of a uint8 RGB image (256, 256, 3), dilated by `DILATION`, bool
    (256, 256), and its confidence in [0, 1].

    An empty mask of confidence 0 if there is no candidate.
    """
    chance = chance_map(pixels)
    masks = candidates(pixels, chance)
    if not masks:
        return np.zeros(pixels.shape[:2], bool), 0.0
    lab, small = small_lab(pixels), small_map(chance)
    trust = {name: confidence(lab, mask, small) for name, mask in masks.items()}
    best = max(trust, key=lambda name: trust[name])
    return widen(masks[best], DILATION), trust[best]


def small_map(chance: np.ndarray) -> np.ndarray:
    """The chance as confidences see it, (64, 64)."""
    return cv2.resize(chance, (MAP_SIZE, MAP_SIZE), interpolation=cv2.INTER_AREA)


@one_row("mask")
def consensus_mask(image: Image.Image, resize: str) -> tuple[np.ndarray, float]:
    """`consensus` of an RGB image of any size. The chance and the confidence were fitted on
    colours, and say nothing without (benchmarks/masks.py --grey): then the confidence is 0. Raises
    `UnusableRow` if no mask is found.
    """
    pixels = np.asarray(square(image, MASK_SIZE, resize))
    (mask, trust), coloured = consensus(pixels), has_colours(pixels)
    if not mask.any():
        cause = "nothing stands out" if coloured else "the image has no colours"
        raise UnusableRow(f"{LOW_CONFIDENCE} 0.00: {cause}")
    return mask, trust if coloured else 0.0
