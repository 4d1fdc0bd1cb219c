"""Photographs without colours, whose texture takes the place of colour.

Nearly all that tells an object from its background is how their colours differ. Without colours the
local contrast is shown as two: parts of one brightness and different textures differ again.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from .photographs import Photograph, resized

SIZE = 256
FINE, COARSE = 0.008, 0.03  # shares of the image size: sigmas of the windows of contrast
GAIN = 2.0  # units of a and b for one unit of L, so that texture counts as much as brightness
LARGEST = 80.0  # units of a and b


def without_colours(row: Photograph) -> Photograph:
    """A grey copy."""
    grey = cv2.cvtColor(row.image, cv2.COLOR_RGB2GRAY)
    return replace(row, image=np.repeat(grey[..., None], 3, axis=2))


def textured(row: Photograph) -> Photograph:
    """A grey copy at 256 pixels in which texture takes the place of colour."""
    grey = resized(without_colours(row).image, SIZE)
    return replace(row, image=texture_as_colour(grey))


def texture_as_colour(pixels: np.ndarray) -> np.ndarray:
    """A uint8 RGB image (size, size, 3) of the same brightness, where a pixel's colour in Lab is
    the deviation of the brightness around it, in a small and in a larger window.
    """
    lightness = cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[..., 0]
    tones = [
        np.clip(GAIN * _deviation(lightness, sigma * len(pixels)), 0, LARGEST)
        for sigma in (FINE, COARSE)
    ]
    rgb = cv2.cvtColor(np.dstack([lightness, *tones]), cv2.COLOR_LAB2RGB)
    return np.rint(255 * np.clip(rgb, 0, 1)).astype(np.uint8)


def _deviation(values: np.ndarray, sigma: float) -> np.ndarray:
    """The standard deviation of float32 values (h, w) in a Gaussian window around each."""
    mean, square = (cv2.GaussianBlur(of, (0, 0), sigma) for of in (values, values**2))
    return np.sqrt(np.maximum(square - mean**2, 0))
