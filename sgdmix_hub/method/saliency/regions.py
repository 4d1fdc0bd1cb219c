"""An image's superpixels, and which of them are background by how they meet its border."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra
from skimage.segmentation import slic

SUPERPIXELS = 250
COMPACTNESS = 0.1  # scikit-image scales the colours to [0, 1]: at 1 the superpixels are squares
COLOUR_SIGMA = 10.0  # units of Lab; of likeness, as in the paper of `background_probability`
BORDER_SIGMA = 1.0


@dataclass(frozen=True)
class Regions:
    """An image's superpixels.

    `numbers`: int (h, w), each pixel's superpixel; `areas`: shares of the image (k,); `colours`:
    Lab means (k, 3); `places`: centres, row and column, (k, 2) as shares of the image size;
    `neighbours`: bool (k, k); `sides`: bool (4, k), which of them lie on the upper, lower, left and
    right border.
    """

    numbers: np.ndarray
    areas: np.ndarray
    colours: np.ndarray
    places: np.ndarray
    neighbours: np.ndarray
    sides: np.ndarray

    @property
    def on_border(self) -> np.ndarray:
        """bool (k,)"""
        return np.logical_or.reduce(self.sides)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """The mean of values of pixels, float (h, w), in each superpixel, float64 (k,)."""
        return _mean(self.numbers, values)


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
    areas = np.bincount(numbers.ravel(), minlength=count) / numbers.size
    height, width = numbers.shape
    y, x = np.mgrid[:height, :width] / max(height, width)
    neighbours = np.zeros((count, count), bool)
    neighbours[numbers[:-1].ravel(), numbers[1:].ravel()] = True
    neighbours[numbers[:, :-1].ravel(), numbers[:, 1:].ravel()] = True
    neighbours |= neighbours.T
    np.fill_diagonal(neighbours, False)
    sides = np.zeros((4, count), bool)
    for side, line in zip(
        sides, (numbers[0], numbers[-1], numbers[:, 0], numbers[:, -1]), strict=True
    ):
        side[line] = True
    colours = np.stack([_mean(numbers, lab[..., channel]) for channel in range(3)], axis=1)
    places = np.stack([_mean(numbers, y), _mean(numbers, x)], axis=1)
    return Regions(numbers, areas, colours, places, neighbours, sides)


def background_probability(regions: Regions, colour_distances: np.ndarray) -> np.ndarray:
    """How likely each superpixel is background, float64 (k,) in [0, 1].

    From its boundary connectivity (Zhu et al., "Saliency Optimization from Robust Background
    Detection", CVPR 2014): the length of its region on the image's border over the root of the
    region's area, where a region is soft: what is near by geodesic colour distance.
    """
    joined = regions.neighbours | np.logical_and.outer(regions.on_border, regions.on_border)
    np.fill_diagonal(joined, False)
    # Differences as small as those of nearest neighbours are texture.
    nearest = np.where(regions.neighbours, colour_distances, np.inf).min(axis=1)
    beyond = np.maximum(colour_distances - nearest[np.isfinite(nearest)].mean(), 0)
    first, second = np.nonzero(np.triu(joined))
    steps = beyond[first, second] + 1e-6  # a step of 0 would be no edge
    geodesic = dijkstra(csr_matrix((steps, (first, second)), shape=joined.shape), directed=False)
    likeness = np.exp(-(geodesic**2) / (2 * COLOUR_SIGMA**2))
    connectivity = likeness[:, regions.on_border].sum(axis=1) / np.sqrt(likeness.sum(axis=1))
    return 1 - np.exp(-(connectivity**2) / (2 * BORDER_SIGMA**2))


def distances(points: np.ndarray) -> np.ndarray:
    """Euclidean distances between all rows of points (k, d), float64 (k, k)."""
    return np.linalg.norm(points[:, None] - points[None], axis=2)


def _mean(numbers: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.bincount(numbers.ravel(), values.ravel()) / np.bincount(numbers.ravel())
