"""Two images and their foreground masks -> the mixed image.

Images are uint8 (size, size, 3), masks bool (size, size); with `aspect-buckets` (h, w, 3) and
(h, w).
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from sgdmix_hub.data.images import side_of
from sgdmix_hub.errors import UnusableRow
from sgdmix_hub.settings.reasons import NO_BACKGROUND

HOLE_MARGIN = 0.05  # share of the image size added around the target's foreground
FILL_SIZE = 256  # pixels, above which a fill is computed on a smaller image
LARGEST_HOLE = 0.75  # share of the target; a lower one refuses targets with true masks
KEPT: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "union": lambda source_mask, target_mask: source_mask | target_mask,
    "source": lambda source_mask, target_mask: source_mask,
    "inpaint": lambda source_mask, target_mask: source_mask,
    "none": lambda source_mask, target_mask: np.ones_like(source_mask),
}


def kept_mask(source_mask: np.ndarray, target_mask: np.ndarray, method: str) -> np.ndarray:
    """The pixels of the mixture that come from the source, bool (size, size), by method:

    - `union` (Eq. 9): where either image has foreground; only the target's background is shown;
    - `source`: the source's foreground; the target is shown whole;
    - `inpaint`: the source's foreground; the target's own foreground is filled first;
    - `none`: everything.

    Raises `KeyError` for any other method.
    """
    return KEPT[method](source_mask, target_mask)


def compose(
    foreground: np.ndarray, background: np.ndarray, mask: np.ndarray, feather: float = 0.0
) -> np.ndarray:
    """mask * foreground + (1 - mask) * background (Eq. 10); exact without a feather.

    `feather`: sigma of a Gaussian that softens the mask's edge, as a share of the image size.
    """
    if feather == 0.0:
        return np.where(mask[..., None], foreground, background)
    alpha = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), feather * side_of(mask))
    share = cv2.merge([alpha] * 3)
    mixed = cv2.add(
        cv2.multiply(share, foreground.astype(np.float32)),
        cv2.multiply(1 - share, background.astype(np.float32)),
    )
    return cv2.convertScaleAbs(mixed)  # rounds, and clips at 255


def inpainting_hole(mask: np.ndarray) -> np.ndarray:
    """The pixels of a target that are filled, bool (size, size): its foreground and a margin.

    Raises `UnusableRow` if they are more than `LARGEST_HOLE` of the image.
    """
    if not mask.any():
        return mask.copy()
    pixels = max(1, round(HOLE_MARGIN * side_of(mask)))
    # Faster than a dilation: its time does not grow with the margin.
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    hole = distance <= pixels
    if (share := float(hole.mean())) > LARGEST_HOLE:
        raise UnusableRow(
            f"{NO_BACKGROUND}: {share:.0%} of it, at most {LARGEST_HOLE:.0%} are filled"
        )
    return hole


def fill(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The image, uint8 (h, w, 3), with its hole, bool (h, w), filled from around it.

    Push-pull (Gortler et al., 1996): every level of a pyramid averages the known pixels of the
    finer one, until none is unknown; then each level fills the finer one's gaps. A pixel deep in
    the hole gets the mean colour of wide surroundings, a pixel at its edge that of its neighbours.
    A fill has no detail, so that a large image's is computed at `FILL_SIZE`.
    """
    if not hole.any():
        return image
    if max(hole.shape) <= FILL_SIZE:
        return _pasted(_push_pull(image.astype(np.float32), hole), image, hole)
    scale = FILL_SIZE / max(hole.shape)
    height, width = (max(1, round(side * scale)) for side in hole.shape)
    known = np.where(hole, np.uint8(0), np.uint8(255))
    values = cv2.bitwise_and(image, image, mask=known)
    small = cv2.resize(values, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    share = cv2.resize(known, (width, height), interpolation=cv2.INTER_AREA)[..., None]
    small *= 255 / np.maximum(share, np.float32(1))
    filled = _push_pull(small, share[..., 0] < 64)  # less is mostly rounding
    larger = cv2.resize(filled, hole.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return _pasted(larger, image, hole)


def _pasted(filled: np.ndarray, image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The image with the hole's pixels from `filled`, float32 of the same shape."""
    return cv2.copyTo(cv2.convertScaleAbs(filled), hole.astype(np.uint8), image.copy())


def _push_pull(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """`fill` on float32 (h, w, 3), for which the pixels in the hole do not count."""
    known = (~hole).astype(np.float32)[..., None]
    levels = [(image * known, known)]
    while (levels[-1][1] < 1).any() and max(levels[-1][1].shape[:2]) > 1:
        levels.append(_coarser(*levels[-1]))
    filled = levels.pop()[0]
    while levels:
        values, weight = levels.pop()
        height, width = weight.shape[:2]
        around = cv2.resize(filled, (width, height), interpolation=cv2.INTER_LINEAR)
        filled = values + (1 - weight) * around
    return filled


def _coarser(values: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The next level of the pyramid: weighted values (h, w, 3) and their weights (h, w, 1).

    A cell whose finer pixels are known for a quarter or more counts as known.
    """
    height, width = ((side + 1) // 2 for side in weight.shape[:2])
    scaled = [
        cv2.resize(array, (width, height), interpolation=cv2.INTER_AREA).reshape(height, width, -1)
        for array in (values, weight)
    ]
    mean = scaled[0] / np.maximum(scaled[1], 1e-6)
    weight = np.minimum(4 * scaled[1], 1)
    return mean * weight, weight
