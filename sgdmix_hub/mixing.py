"""Two images and their foreground masks -> the mixed image. Images are uint8 (size, size, 3), masks bool (size, size)."""

from __future__ import annotations

import cv2
import numpy as np

from .masks import widen

INPAINT_MARGIN = 0.05  # share of the image size by which the target's foreground is widened before it is inpainted
INPAINT_RADIUS = 3  # pixels that a filled pixel looks around itself


def mix(
    source: np.ndarray, target: np.ndarray, source_mask: np.ndarray, target_mask: np.ndarray, method: str, feather: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """The mixed image and the mask of what was kept from the source, bool.

    - `union` (Eq. 9-10): the source wherever either image has foreground, the target's background elsewhere;
    - `source`: the source's foreground over the whole target;
    - `inpaint`: the source's foreground over the target whose own foreground was inpainted (Telea, OpenCV).

    `feather`: sigma of a Gaussian that softens the edge, as a share of the image size.
    """
    if method == "union":
        kept, background = source_mask | target_mask, target
    elif method == "source":
        kept, background = source_mask, target
    else:
        kept, background = source_mask, inpaint_foreground(target, target_mask)
    return compose(source, background, kept, feather), kept


def compose(foreground: np.ndarray, background: np.ndarray, mask: np.ndarray, feather: float = 0.0) -> np.ndarray:
    """mask * foreground + (1 - mask) * background; pixel-exact without a feather."""
    if feather == 0.0:
        return np.where(mask[..., None], foreground, background)
    sigma = feather * mask.shape[0]
    alpha = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), sigma)[..., None]
    mixed = alpha * foreground.astype(np.float32) + (1 - alpha) * background.astype(np.float32)
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def inpaint_foreground(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image with its foreground filled in from around it. The image as it is where the mask leaves nothing to fill from."""
    hole = widen(mask, INPAINT_MARGIN)
    if hole.all():
        return image
    return cv2.inpaint(image, hole.astype(np.uint8), inpaintRadius=INPAINT_RADIUS, flags=cv2.INPAINT_TELEA)
