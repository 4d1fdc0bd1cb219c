"""How well a mask's outline follows the edges of its image. Radii are shares of the image size."""

from __future__ import annotations

import cv2
import numpy as np

from sgdmix_hub.data.images import resize_mask, side_of

SIZE = 128  # outlines are judged at SIZE x SIZE pixels
CONTRAST_RADIUS = 0.02  # of the surroundings whose colours are compared
SHIFT = 0.03  # by which an outline is moved in and out
INVISIBLE = 0.1  # units of Lab, below which a contrast counts as none


def small_lab(image: np.ndarray) -> np.ndarray:
    """A uint8 RGB image (size, size, 3) as Lab, float32 (SIZE, SIZE, 3)."""
    interpolation = cv2.INTER_AREA if image.shape[0] > SIZE else cv2.INTER_CUBIC
    small = cv2.resize(image, (SIZE, SIZE), interpolation=interpolation)
    return cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def contrast(lab: np.ndarray, mask: np.ndarray, radius: float = CONTRAST_RADIUS) -> float:
    """Colour difference across a mask's outline, in units of Lab.

    The mean, over the outline, of the distance between the mean colours just inside and just
    outside. The image's frame is no outline. 0 for a mask without outline. `lab`: float32
    (SIZE, SIZE, 3); `mask`: bool (size, size).
    """
    inside = _small(mask)
    eroded = cv2.erode(inside, np.ones((3, 3), np.uint8))
    outline = (inside > eroded)[1:-1, 1:-1]
    if not outline.any():
        return 0.0
    window = (2 * max(1, round(radius * SIZE)) + 1,) * 2
    weight = inside.astype(np.float32)[..., None]
    share = cv2.blur(weight, window)[..., None]
    within = cv2.blur(lab * weight, window) / np.maximum(share, 1e-6)
    without = cv2.blur(lab * (1 - weight), window) / np.maximum(1 - share, 1e-6)
    difference = np.linalg.norm(within - without, axis=2)[1:-1, 1:-1]
    return float(difference[outline].mean())


def sharpness(lab: np.ndarray, mask: np.ndarray) -> float:
    """The contrast of an outline over that of the same outline moved in or out by `SHIFT`.

    The larger of the two counts. Above 1 the outline lies on an edge of the image.
    """
    radius = SHIFT / 2
    moved = max(
        contrast(lab, widen(mask, SHIFT), radius), contrast(lab, ~widen(~mask, SHIFT), radius)
    )
    return contrast(lab, mask, radius) / max(moved, INVISIBLE)


def widen(mask: np.ndarray, radius: float) -> np.ndarray:
    """The bool mask dilated by a disc of at least one pixel."""
    return cv2.dilate(mask.astype(np.uint8), _disc(mask, radius)).astype(bool)


def narrow(mask: np.ndarray, radius: float) -> np.ndarray:
    """The bool mask eroded by a disc of at least one pixel. The frame of the image erodes nothing,
    and a part that is thinner than the disc is gone.
    """
    return cv2.erode(mask.astype(np.uint8), _disc(mask, radius)).astype(bool)


def _disc(mask: np.ndarray, radius: float) -> np.ndarray:
    pixels = max(1, round(radius * side_of(mask)))
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1))


def _small(mask: np.ndarray) -> np.ndarray:
    return resize_mask(mask, SIZE).astype(np.uint8)
