"""Model-free masks, and the most trustworthy one of them.

All are cut from one map, the chance of foreground (`foreground`). GrabCut finds parts that the map
lacks and goes astray in clutter, so that one is left as it is; `confidence` chooses. What an image
without colours is read as, and with which weights, is in `grey`.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from sgdmix_hub.data.images import square
from sgdmix_hub.errors import one_row
from sgdmix_hub.method import confidence
from sgdmix_hub.method.confidence import Chance
from sgdmix_hub.method.masks import GrabCut, grabcut_mask
from sgdmix_hub.method.outlines import small_lab, widen

from .foreground import FITTED, FITTED_GREY, Weights, foreground_chance
from .grey import is_grey, texture_as_colour
from .model_free import MAP_SIZE

MASK_SIZE = 256
DILATION = 0.008  # share of the image size: a lost leg costs more than a little background
NARROW = GrabCut(sharp=None)  # refines whatever it is given: these masks are coarse
# Candidate -> the chance above which it is foreground, and what refines it.
CANDIDATES: dict[str, tuple[float, GrabCut | None]] = {
    "plain": (0.4, None),
    "likely": (0.35, NARROW),
    "sure": (0.5, NARROW),
}


@dataclass(frozen=True)
class Fit:
    """Weights of the chance of foreground, and of the confidence of the masks cut from it."""

    foreground: Weights
    trust: Chance


COLOURED = Fit(FITTED, confidence.COLOURED)
GREY = Fit(FITTED_GREY, confidence.GREY)


def read(pixels: np.ndarray) -> tuple[np.ndarray, Fit]:
    """A uint8 RGB image as its foreground is looked for in it, and the weights for such images."""
    return (texture_as_colour(pixels), GREY) if is_grey(pixels) else (pixels, COLOURED)


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
    seen, fit = read(pixels)
    chance = chance_map(seen, fit.foreground)
    masks = candidates(seen, chance)
    if not masks:
        return np.zeros(pixels.shape[:2], bool), 0.0
    lab, small = small_lab(seen), small_map(chance)
    trust = {
        name: confidence.confidence(lab, mask, small, fit.trust) for name, mask in masks.items()
    }
    best = max(trust, key=lambda name: trust[name])
    return widen(masks[best], DILATION), trust[best]


def small_map(chance: np.ndarray) -> np.ndarray:
    """The chance as confidences see it, (64, 64)."""
    return cv2.resize(chance, (MAP_SIZE, MAP_SIZE), interpolation=cv2.INTER_AREA)


@one_row("mask")
def consensus_mask(image: Image.Image, resize: str) -> tuple[np.ndarray, float]:
    """`consensus` of an RGB image of any size."""
    return consensus(np.asarray(square(image, MASK_SIZE, resize)))
