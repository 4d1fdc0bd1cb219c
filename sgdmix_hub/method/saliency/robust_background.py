"""Saliency of an image against what is certainly background: no model, superpixels only.

Zhu et al., "Saliency Optimization from Robust Background Detection", CVPR 2014: a region is
background if much of its outline lies on the image's border, salient if its colour differs from
the background near it; a quadratic cost then makes neighbours of like colour alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra
from skimage.segmentation import slic

from .model_free import to_unit_range

SUPERPIXELS = 250
COMPACTNESS = 20
COLOUR_SIGMA = 10.0  # Lab; this, the next three and the cost's weights are the paper's
SPACE_SIGMA = 0.4  # share of the image size
BORDER_SIGMA = 1.0
BACKGROUND_WEIGHT = 5.0
LEAST_AFFINITY = 0.1


@dataclass(frozen=True)
class Regions:
    """An image's superpixels.

    `numbers`: int (h, w), each pixel's superpixel; `colours`: Lab means (k, 3); `places`: centres
    (k, 2) as shares of the image size; `neighbours`: bool (k, k); `on_border`: bool (k,).
    """

    numbers: np.ndarray
    colours: np.ndarray
    places: np.ndarray
    neighbours: np.ndarray
    on_border: np.ndarray


def robust_background(pixels: np.ndarray) -> np.ndarray:
    """Saliency of a uint8 RGB image (h, w, 3), float32 (h, w) in [0, 1].

    Zeros for an image of one superpixel or one colour.
    """
    regions = superpixels(pixels)
    count = len(regions.colours)
    distances = _distances(regions.colours)
    if count < 2 or not distances.any():
        return np.zeros(pixels.shape[:2], np.float32)
    joined = regions.neighbours | np.logical_and.outer(regions.on_border, regions.on_border)
    np.fill_diagonal(joined, False)
    # Differences as small as those of nearest neighbours are texture.
    nearest = np.where(regions.neighbours, distances, np.inf).min(axis=1)
    beyond = np.maximum(distances - nearest[np.isfinite(nearest)].mean(), 0)
    background = background_probability(beyond, joined, regions.on_border)
    near = np.exp(-(_distances(regions.places) ** 2) / (2 * SPACE_SIGMA**2))
    contrast = to_unit_range((distances * near) @ background).astype(np.float64)
    return to_unit_range(_optimized(contrast, background, beyond, joined))[regions.numbers]


def superpixels(pixels: np.ndarray) -> Regions:
    """The superpixels (SLIC) of a uint8 RGB image (h, w, 3)."""
    lab = cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    numbers = slic(
        lab,
        n_segments=SUPERPIXELS,
        compactness=COMPACTNESS,
        max_num_iter=5,
        convert2lab=False,
        start_label=0,
    )
    count = int(numbers.max()) + 1
    area = np.bincount(numbers.ravel(), minlength=count)
    height, width = numbers.shape
    y, x = np.mgrid[:height, :width] / max(height, width)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(numbers.ravel(), values.ravel(), count) / area

    neighbours = np.zeros((count, count), bool)
    neighbours[numbers[:-1].ravel(), numbers[1:].ravel()] = True
    neighbours[numbers[:, :-1].ravel(), numbers[:, 1:].ravel()] = True
    neighbours |= neighbours.T
    np.fill_diagonal(neighbours, False)
    on_border = np.zeros(count, bool)
    for line in (numbers[0], numbers[-1], numbers[:, 0], numbers[:, -1]):
        on_border[line] = True
    colours = np.stack([mean(lab[..., channel]) for channel in range(3)], axis=1)
    return Regions(numbers, colours, np.stack([mean(y), mean(x)], axis=1), neighbours, on_border)


def background_probability(
    colour_distances: np.ndarray, joined: np.ndarray, on_border: np.ndarray
) -> np.ndarray:
    """How likely each superpixel is background, float64 (k,) in [0, 1].

    From its boundary connectivity: the length of its region on the image's border over the root of
    the region's area, where a region is soft: what is near by geodesic colour distance.
    """
    first, second = np.nonzero(np.triu(joined))
    steps = colour_distances[first, second] + 1e-6  # a step of 0 would be no edge
    graph = csr_matrix((steps, (first, second)), shape=joined.shape)
    geodesic = dijkstra(graph, directed=False)
    likeness = np.exp(-(geodesic**2) / (2 * COLOUR_SIGMA**2))
    connectivity = likeness[:, on_border].sum(axis=1) / np.sqrt(likeness.sum(axis=1))
    return 1 - np.exp(-(connectivity**2) / (2 * BORDER_SIGMA**2))


def _optimized(
    contrast: np.ndarray, background: np.ndarray, colour_distances: np.ndarray, joined: np.ndarray
) -> np.ndarray:
    """The saliency (k,) of least cost: near 1 where the contrast is high, near 0 in the background,
    alike among neighbours, and neighbours of neighbours, of like colour.
    """
    count = len(contrast)
    linked = joined | (joined.astype(np.float32) @ joined.astype(np.float32) > 0)
    np.fill_diagonal(linked, False)
    affinity = np.exp(-(colour_distances**2) / (2 * COLOUR_SIGMA**2)) + LEAST_AFFINITY
    affinity = np.where(linked, affinity, 0.0)
    foreground = np.where(contrast < contrast.mean(), 0.0, contrast)
    cost = np.diag(affinity.sum(axis=1) + BACKGROUND_WEIGHT * background + foreground) - affinity
    return np.linalg.solve(cost + 1e-6 * np.eye(count), foreground)


def _distances(points: np.ndarray) -> np.ndarray:
    """Euclidean distances between all rows of points (k, d), float64 (k, k)."""
    return np.linalg.norm(points[:, None] - points[None], axis=2)
