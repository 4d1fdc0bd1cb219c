"""Two images and their foreground masks -> the mixed image. Images are uint8 (size, size, 3), masks
bool (size, size).
"""

from __future__ import annotations

import cv2
import numpy as np

from .masks import widen

INPAINT_MARGIN = 0.05  # share of the image size by which the target's foreground is widened before it is inpainted
INPAINT_RADIUS = 3  # pixels that a filled pixel looks around itself
KEPT = {
    "union": lambda source_mask, target_mask: source_mask | target_mask,
    "source": lambda source_mask, target_mask: source_mask,
    "inpaint": lambda source_mask, target_mask: source_mask,
    "none": lambda source_mask, target_mask: np.ones_like(source_mask),
}


def kept_mask(source_mask: np.ndarray, target_mask: np.ndarray, method: str) -> np.ndarray:
    """Which pixels of the mixture come from the source, bool. Raises `KeyError` on another method
    than these:

    - `union` (Eq. 9): wherever either image has foreground, so that only the target's background is
      shown;
    - `source`: the source's foreground alone, over the whole target;
    - `inpaint`: the source's foreground alone, over the target whose own foreground was inpainted;
    - `none`: everything.
    """
    return KEPT[method](source_mask, target_mask)


def compose(
    foreground: np.ndarray, background: np.ndarray, mask: np.ndarray, feather: float = 0.0
) -> np.ndarray:
    """mask * foreground + (1 - mask) * background (Eq. 10); pixel-exact without a feather.

    `feather`: sigma of a Gaussian that softens the mask's edge, as a share of the image size.
    """
    if feather == 0.0:
        return np.where(mask[..., None], foreground, background)
    sigma = feather * mask.shape[0]
    alpha = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), sigma)[..., None]
    mixed = alpha * foreground.astype(np.float32) + (1 - alpha) * background.astype(np.float32)
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def inpainting_hole(mask: np.ndarray) -> np.ndarray:
    """The pixels that inpainting fills: the foreground and a margin; none where that leaves nothing
    to fill from.
    """
    hole = widen(mask, INPAINT_MARGIN)
    return np.zeros_like(hole) if hole.all() else hole


def inpaint(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The image with the hole filled in from around it (Telea, OpenCV)."""
    return cv2.inpaint(
        image, hole.astype(np.uint8), inpaintRadius=INPAINT_RADIUS, flags=cv2.INPAINT_TELEA
    )
