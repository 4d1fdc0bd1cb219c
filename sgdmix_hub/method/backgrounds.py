"""What an image's background looks like, as a vector: for the target rule that looks for new
backgrounds.
"""

from __future__ import annotations

import cv2
import numpy as np

from sgdmix_hub.errors import one_row

from .masks import widen

SIZE = 64
MARGIN = 0.05  # share of the image size by which the foreground is widened, so that none of it is described
BANDS = 2  # upper and lower half: sky is not ground
FEATURES_PER_BAND = 8


@one_row("background")
def background_features(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean and deviation of the Lab colours and mean slopes across and down, of the background in
    the upper and the lower half.

    `pixels`: uint8 (h, w, 3) RGB; `mask`: bool (h, w), the foreground. Returns float32 (16,); a
    half without background is described by the whole background, a picture without any by zeros.
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
    seen = [values[shown] if shown.any() else described[background] for values, shown in bands]
    return np.concatenate(
        [[*values.mean(axis=0), *values[:, :3].std(axis=0)] for values in seen]
    ).astype(np.float32)
