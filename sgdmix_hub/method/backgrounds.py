"""The background of an image: its features, for the selection method `novel-background`, and the
crop that shows the most of it.
"""

from __future__ import annotations

import cv2
import numpy as np

from sgdmix_hub.data.images import aspect_box
from sgdmix_hub.errors import one_row

from .outlines import widen

SIZE = 64
MARGIN = 0.05  # share of the image size by which the foreground is widened, to keep its edge out
BANDS = 2  # upper and lower half, since sky differs from ground
FEATURES_PER_BAND = 8


@one_row("background")
def background_features(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean and deviation of the background's Lab colours, and its mean slopes, by half.

    `pixels`: uint8 (h, w, 3) RGB; `mask`: bool (h, w), the foreground. Returns float32 (16,), the
    upper half first. A half without background gets the features of the whole background; zeros for
    an image without background.
    """
    lab = cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    slopes = [
        np.abs(cv2.Sobel(lab[..., 0], cv2.CV_32F, *direction)) for direction in ((1, 0), (0, 1))
    ]
    described = np.dstack([lab, *slopes])
    background = ~widen(mask, MARGIN)
    if not background.any():
        return np.zeros(BANDS * FEATURES_PER_BAND, np.float32)
    bands = zip(np.array_split(described, BANDS), np.array_split(background, BANDS), strict=True)
    seen = [values[inside] if inside.any() else described[background] for values, inside in bands]
    features = [[*values.mean(axis=0), *values[:, :3].std(axis=0)] for values in seen]
    return np.concatenate(features).astype(np.float32)


def background_box(
    foreground: np.ndarray, width: int, height: int, aspect: float
) -> tuple[int, int, int, int]:
    """The largest box (left, top, right, bottom) of an aspect ratio, where it shows the most
    background.

    At most nine places are tried; of equal ones the most central wins.

    `foreground`: bool (h, w) over the whole image of `width` x `height` pixels; `aspect`: width
    over height of the box.
    """
    rows, columns = foreground.shape
    sums = cv2.integral(foreground.astype(np.uint8))
    chosen = aspect_box(width, height, aspect)
    box_width, box_height = chosen[2] - chosen[0], chosen[3] - chosen[1]
    least: tuple[float, float] | None = None
    for top in _offsets(height - box_height):
        for left in _offsets(width - box_width):
            box = (left, top, left + box_width, top + box_height)
            x0 = min(round(left * columns / width), columns - 1)
            y0 = min(round(top * rows / height), rows - 1)
            x1 = max(round(box[2] * columns / width), x0 + 1)
            y1 = max(round(box[3] * rows / height), y0 + 1)
            inside = int(sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0])
            share = round(inside / ((x1 - x0) * (y1 - y0)), 6)
            off_centre = abs(2 * left + box_width - width) + abs(2 * top + box_height - height)
            if least is None or (share, off_centre) < least:
                least, chosen = (share, off_centre), box
    return chosen


def _offsets(slack: int) -> list[int]:
    """Where a box may begin along one side: at most nine places, the middle among them."""
    return sorted({round(step * slack / 8) for step in range(9)} | {slack // 2})
