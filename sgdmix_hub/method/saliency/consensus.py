"""Model-free masks of several maps, and the most trustworthy one of them.

No map is right everywhere. Minimum barrier fails for objects that touch several borders, robust
background for objects as smooth as their surroundings, and a preference for the middle for objects
at the side; each gives a candidate, refined by GrabCut, and `confidence` chooses.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from sgdmix_hub.data.images import square
from sgdmix_hub.errors import one_row
from sgdmix_hub.method.confidence import confidence
from sgdmix_hub.method.masks import GrabCut, grabcut_mask, threshold
from sgdmix_hub.method.outlines import small_lab, widen

from .model_free import MAP_SIZE, minimum_barrier
from .robust_background import robust_background

MASK_SIZE = 256
BACKGROUND_SIZE = 128  # of robust background: at 256 the masks are no better
MIDDLE_SIGMA = 0.3  # share of the image size: of the preference for the middle
DILATION = 0.008  # share of the image size: a lost leg costs more than a little background
# GrabCut that stays near a coarse mask, and one that finds what the coarse mask lacks.
NARROW = GrabCut(sharp=None)
WIDE = GrabCut(probable_radius=0.1, background_radius=0.3, sharp=None)
# Map -> what refines its mask. More candidates made the choice worse, not better.
REFINED_BY = {"barrier": NARROW, "both": WIDE, "middle": NARROW}


def candidate_maps(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """The maps of every candidate, float32 (256, 256) in [0, 1], of a uint8 RGB image of that size.

    Minimum barrier is computed at 64x64: finer maps follow texture, and their masks are no better.
    """
    frame = pixels.shape[:2]
    small, medium = (
        cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA)
        for size in (MAP_SIZE, BACKGROUND_SIZE)
    )
    barrier = cv2.resize(minimum_barrier(small), frame)
    background = cv2.resize(robust_background(medium), frame)
    y, x = np.mgrid[: len(pixels), : len(pixels)] / (len(pixels) - 1) - 0.5
    middle = np.exp(-(x * x + y * y) / (2 * MIDDLE_SIGMA**2)).astype(np.float32)
    return {"barrier": barrier, "both": (barrier + background) / 2, "middle": barrier * middle}


def candidates(pixels: np.ndarray, maps: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Map -> its refined mask, bool (256, 256), where that is neither empty nor full."""
    masks = {}
    for name, saliency_map in maps.items():
        coarse = saliency_map > threshold(saliency_map)
        mask = grabcut_mask(pixels, saliency_map, coarse, REFINED_BY[name])
        if mask.any() and not mask.all():
            masks[name] = mask
    return masks


def consensus(pixels: np.ndarray) -> tuple[np.ndarray, float]:
    """The most trusted candidate of a uint8 RGB image (256, 256, 3), dilated by `DILATION`, bool
    (256, 256), and its confidence in [0, 1].

    An empty mask of confidence 0 if there is no candidate.
    """
    maps = candidate_maps(pixels)
    masks = candidates(pixels, maps)
    if not masks:
        return np.zeros(pixels.shape[:2], bool), 0.0
    lab = small_lab(pixels)
    trust = {name: confidence(lab, mask, _small(maps[name])) for name, mask in masks.items()}
    best = max(trust, key=lambda name: trust[name])
    return widen(masks[best], DILATION), trust[best]


def _small(saliency_map: np.ndarray) -> np.ndarray:
    return cv2.resize(saliency_map, (MAP_SIZE, MAP_SIZE), interpolation=cv2.INTER_AREA)


@one_row("mask")
def consensus_mask(image: Image.Image, resize: str) -> tuple[np.ndarray, float]:
    """`consensus` of an RGB image of any size."""
    return consensus(np.asarray(square(image, MASK_SIZE, resize)))
