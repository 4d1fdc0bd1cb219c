"""Features of an image's background, for the selection method `novel-background`."""

from __future__ import annotations

import cv2
import numpy as np

from sgdmix_hub.errors import one_row

from .masks import widen

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
