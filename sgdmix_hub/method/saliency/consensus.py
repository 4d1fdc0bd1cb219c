"""Model-free masks that check each other: several sources, refined, and the most trustworthy one.

No source is right everywhere. Minimum barrier fails for objects that touch several borders, robust
background for objects as smooth as their surroundings, and a preference for the middle for objects
at the side; each is a candidate, refined in two ways, and `confidence` chooses.
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
MIDDLE_SIGMA = 0.3  # share of the image size: of the preference for the middle
DILATION = 0.008  # share of the image size: a lost leg costs more than a little background
# GrabCut that stays near a coarse mask, and one that finds what the coarse mask lacks. Neither is
# right everywhere: the wide one is better on smooth backgrounds, the narrow one on cluttered ones.
REFINED_BY = {
    "narrow": GrabCut(sharp=None),
    "wide": GrabCut(probable_radius=0.1, background_radius=0.3, sharp=None),
}


def candidate_maps(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """The maps of every candidate, float32 (256, 256) in [0, 1], of a uint8 RGB image of that size.

    Minimum barrier is computed at 64x64: finer maps follow texture, and their masks are no better.
    """
    small = cv2.resize(pixels, (MAP_SIZE, MAP_SIZE), interpolation=cv2.INTER_AREA)
    barrier = cv2.resize(minimum_barrier(small), pixels.shape[:2])
    background = robust_background(pixels)
    y, x = np.mgrid[: len(pixels), : len(pixels)] / (len(pixels) - 1) - 0.5
    middle = np.exp(-(x * x + y * y) / (2 * MIDDLE_SIGMA**2)).astype(np.float32)
    return {
        "barrier": barrier,
        "background": background,
        "both": (barrier + background) / 2,
        "middle": barrier * middle,
    }


def candidates(pixels: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """(map, refinement) -> a mask, bool (256, 256), that is neither empty nor full."""
    masks = {}
    for name, saliency_map in candidate_maps(pixels).items():
        coarse = saliency_map > threshold(saliency_map)
        for refinement, grabcut in REFINED_BY.items():
            mask = grabcut_mask(pixels, saliency_map, coarse, grabcut)
            if mask.any() and not mask.all():
                masks[name, refinement] = mask
    return masks


def consensus(pixels: np.ndarray) -> tuple[np.ndarray, float]:
    """The most trusted candidate of a uint8 RGB image (256, 256, 3), dilated by `DILATION`, bool
    (256, 256), and its confidence in [0, 1].

    An empty mask of confidence 0 if there is no candidate.
    """
    lab, masks = small_lab(pixels), candidates(pixels)
    if not masks:
        return np.zeros(pixels.shape[:2], bool), 0.0
    trust = {}
    for source, refinement in masks:
        others = [mask for key, mask in masks.items() if key[0] != source]
        variants = [
            mask for key, mask in masks.items() if key[0] == source and key[1] != refinement
        ]
        key = (source, refinement)
        trust[key] = confidence(lab, masks[key], others, variants)
    best = max(trust, key=lambda key: trust[key])
    return widen(masks[best], DILATION), trust[best]


@one_row("mask")
def consensus_mask(image: Image.Image, resize: str) -> tuple[np.ndarray, float]:
    """`consensus` of an RGB image of any size."""
    return consensus(np.asarray(square(image, MASK_SIZE, resize)))
