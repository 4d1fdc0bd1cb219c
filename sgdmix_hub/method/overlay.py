"""A source image of any size over a background that was prepared at another size.

Masks and backgrounds are square: their images stretched, as a generation stretches them.
"""

from __future__ import annotations

import cv2
import numpy as np

from sgdmix_hub.data.images import aspect_box

from .backgrounds import background_box

Box = tuple[int, int, int, int]  # left, top, right, bottom


def shown_box(
    target_mask: np.ndarray, target_size: tuple[int, int], source_size: tuple[int, int]
) -> Box:
    """The part of a prepared target that gets the source's aspect ratio, in its own pixels.

    `target_mask`: bool (size, size), its foreground; sizes are widths and heights of the images.
    """
    size = len(target_mask)
    (width, height), aspect = target_size, source_size[0] / source_size[1]
    if aspect_box(width, height, aspect) == (0, 0, width, height):
        return 0, 0, size, size
    left, top, right, bottom = background_box(target_mask, width, height, aspect)
    x0, y0 = min(round(left * size / width), size - 1), min(round(top * size / height), size - 1)
    x1, y1 = max(round(right * size / width), x0 + 1), max(round(bottom * size / height), y0 + 1)
    return x0, y0, x1, y1


def cut(array: np.ndarray, box: Box) -> np.ndarray:
    """The part of an array (h, w, ...) in a box."""
    left, top, right, bottom = box
    return array[top:bottom, left:right]


def scaled(array: np.ndarray, width: int, height: int) -> np.ndarray:
    """An image or a float mask at another size; averaged where it shrinks."""
    if array.shape[:2] == (height, width):
        return array
    shrinks = width * height < array.shape[0] * array.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(array, (width, height), interpolation=interpolation)


def softened(mask: np.ndarray, feather: float) -> np.ndarray:
    """The share of the source in each pixel, float32 (size, size).

    `mask`: bool (size, size); `feather`: as in `mixing.compose`.
    """
    share = mask.astype(np.float32)
    if feather == 0.0:
        return share
    return cv2.GaussianBlur(share, (0, 0), feather * len(mask))


def overlay(image: np.ndarray, background: np.ndarray, share: np.ndarray, hard: bool) -> np.ndarray:
    """`image`, uint8 (h, w, 3), over `background` (any size), by `share` (any size): (h, w, 3).

    `hard`: every pixel comes from one of the two.
    """
    height, width = image.shape[:2]
    behind, alpha = scaled(background, width, height), scaled(share, width, height)
    if hard:
        return np.where(alpha[..., None] > 0.5, image, behind)
    return cv2.blendLinear(image, behind, alpha, 1 - alpha)
