"""The chance that a pixel is foreground: two logistic models, first of superpixels, then of pixels.

The first reads `region_features`. The second also reads what the first found for pixels of like
colour, in the whole image and nearby: it draws the outline and the thin parts that superpixels
lack. benchmarks/mask_foreground.py fits the weights, on photographs and on drawn birds.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import map_coordinates

from sgdmix_hub.method.outlines import small_lab

from .region_features import region_features
from .regions import superpixels

SIZE = 128  # pixels of the chances; as `outlines.small_lab`
SMOOTHING = 0.7  # pixels: the outlines of superpixels are rough
SUREST = 0.003  # a chance never counts as nearer to 0 or 1
NEARBY_CELLS = 5  # across the image, in which pixels are neighbours
IMAGE_STEP, NEARBY_STEP = 5.0, 6.0  # units of Lab in which colours are alike
PRIOR = 1e-3  # pixels of the image's mean chance in every cell


@dataclass(frozen=True)
class Weights:
    """Of both models: name -> weight in the log-odds, and the bias."""

    regions: dict[str, float]
    regions_bias: float
    pixels: dict[str, float]
    pixels_bias: float


FITTED = Weights(
    regions={
        "nearest": 1.01,
        "second_side": 2.002,
        "barrier": 0.85,
        "third_barrier": -0.138,
        "ranked_first": 2.151,
        "neighbours": -0.349,
        "fine_border": -2.83,
        "fine_spread": -0.525,
        "coarse_spread": 8.997,
        "edge": -1.942,
        "ranked": 0.671,
        "contrast": -0.423,
        "third_side": 0.144,
        "fine_area": 0.416,
    },
    regions_bias=-9.36,
    pixels={
        "region": 0.309,
        "image": 0.276,
        "nearby": 0.869,
    },
    pixels_bias=0.439,
)


def foreground_chance(pixels: np.ndarray, weights: Weights = FITTED) -> np.ndarray:
    """The chance of foreground, float32 (128, 128) in [0, 1], of a uint8 RGB image (size, size, 3).

    Zeros for an image of one superpixel or one colour.
    """
    chance = region_chance(pixels, weights)
    if not chance.any():
        return chance
    seen = pixel_evidence(small_lab(pixels), chance)
    return _chance(seen, weights.pixels, weights.pixels_bias)


def region_chance(pixels: np.ndarray, weights: Weights) -> np.ndarray:
    """The first model's chance, smoothed, float32 (128, 128)."""
    regions = superpixels(cv2.resize(pixels, (SIZE, SIZE), interpolation=cv2.INTER_AREA))
    if len(regions.areas) < 2 or not np.ptp(regions.colours, axis=0).any():
        return np.zeros((SIZE, SIZE), np.float32)
    seen = region_features(pixels, regions)
    chance = _chance(seen, weights.regions, weights.regions_bias)
    return cv2.GaussianBlur(chance[regions.numbers], (0, 0), SMOOTHING)


def pixel_evidence(lab: np.ndarray, chance: np.ndarray) -> dict[str, np.ndarray]:
    """Name -> log-odds (h, w): the chance itself, and the mean chance of pixels of like colour in
    the image and nearby. `lab`: float32 (h, w, 3).
    """
    return {
        "region": log_odds(chance),
        "image": log_odds(like_coloured(lab, chance, IMAGE_STEP, 1)),
        "nearby": log_odds(like_coloured(lab, chance, NEARBY_STEP, NEARBY_CELLS)),
    }


def like_coloured(lab: np.ndarray, values: np.ndarray, step: float, cells: int) -> np.ndarray:
    """The mean of values, float (h, w), over pixels of like colour and place, float (h, w).

    A bilateral grid (Chen et al., SIGGRAPH 2007): sums in cells of `step` units of Lab, and of a
    share 1 / `cells` of the image's sides, smoothed and read linearly.
    """
    axes = [channel / step for channel in np.moveaxis(lab, -1, 0)]
    if cells > 1:
        height, width = values.shape
        y, x = np.mgrid[:height, :width]
        axes += [y * (cells / height), x * (cells / width)]
    axes = [axis - np.floor(axis.min()) for axis in axes]
    shape = tuple(int(np.ceil(axis.max())) + 2 for axis in axes)
    places = np.stack([axis.ravel() for axis in axes])
    cell = np.ravel_multi_index(tuple(np.rint(places).astype(int)), shape)
    size = int(np.prod(shape))
    sums, counts = (
        _smoothed(np.bincount(cell, of, size).reshape(shape)) for of in (values.ravel(), None)
    )
    means = (sums + PRIOR * float(values.mean())) / (counts + PRIOR)
    return map_coordinates(means, places, order=1, mode="nearest").reshape(values.shape)


def log_odds(chance: np.ndarray) -> np.ndarray:
    within = np.clip(chance, SUREST, 1 - SUREST)
    return np.log(within / (1 - within))


def _smoothed(grid: np.ndarray) -> np.ndarray:
    """The grid convolved with (1, 2, 1) / 4 along every axis, with zeros around."""
    for axis in range(grid.ndim):
        moved = np.moveaxis(grid, axis, 0)
        wide = 2 * moved
        wide[1:] += moved[:-1]
        wide[:-1] += moved[1:]
        grid = np.moveaxis(wide / 4, 0, axis)
    return grid


def _chance(seen: dict[str, np.ndarray], weights: dict[str, float], bias: float) -> np.ndarray:
    odds = np.sum([weights[name] * value for name, value in seen.items()], axis=0) + bias
    return (1 / (1 + np.exp(-odds))).astype(np.float32)
