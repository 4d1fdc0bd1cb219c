"""What is seen of an image's superpixels that tells an object from its background.

Colours, places and paths only, all of them relative to the image's border or to its other
superpixels: no colour, texture or sharpness counts as such.
"""

from __future__ import annotations

import cv2
import numpy as np

from .model_free import MAP_SIZE, border_distances, lowest_barriers, to_unit_range
from .regions import Regions, background_probability, distances

NEAR = 0.15  # share of the image size: sigma of what a superpixel's colour is compared with
FINE, COARSE = 6.0, 15.0  # units of Lab: sigmas of likeness
RANKING_SCALE = 10.0  # units of Lab over which the affinity of two superpixels falls to 1 / e
RANKING_REACH = 0.99  # as in the paper of manifold ranking
LARGEST = 4.0  # deviations from the image's mean; what lies beyond counts as this


def region_features(pixels: np.ndarray, regions: Regions) -> dict[str, np.ndarray]:
    """Name -> float64 (k,), of the superpixels of a uint8 RGB image (size, size, 3), of which there
    are at least two of different colours.

    - `ranked`, `ranked_first`: unlike the four borders, by manifold ranking after its second and
      first stage (Yang et al., "Saliency Detection via Graph-Based Manifold Ranking", CVPR 2013);
    - `nearest`: colour distance to the most alike superpixel on the border;
    - `second_side`, `third_side`: Mahalanobis distance of the colour to the borders' colours, of
      the second and third nearest of the four borders;
    - `barrier`, `third_barrier`: minimum barrier distance to the nearest and third nearest border;
    - `contrast`: to what is near and probably background; `neighbours`: to its neighbours;
    - `fine_area`, `fine_spread`, `coarse_spread`, `fine_border`: of the superpixels of like colour,
      how large they are, how far apart, and the share of them on the border;
    - `edge`: distance to the nearest border, as a share of the image size.

    Those that have no unit of their own are in deviations from the image's mean, the others in
    logarithms, log(1 + x).
    """
    small = cv2.resize(pixels, (MAP_SIZE, MAP_SIZE), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    colour, place = distances(regions.colours), distances(regions.places)
    first, second = manifold_ranking(regions, colour)
    barriers = _by_side(regions, lowest_barriers(_to_sides(lab), _from_sides(lab)).sum(axis=-1))
    sides = _by_side(regions, np.moveaxis(border_distances(lab), 0, -1))
    background = background_probability(regions, colour)
    fine, coarse = (
        np.exp(-(colour**2) / (2 * sigma**2)) * regions.areas for sigma in (FINE, COARSE)
    )
    fine_area = fine.sum(axis=1)
    in_logs = {
        "nearest": nearest_on_border(regions, colour),
        "second_side": sides[1],
        "barrier": barriers[0],
        "third_barrier": barriers[2],
        "ranked_first": first,
        "neighbours": (colour * regions.neighbours).sum(axis=1) / regions.neighbours.sum(axis=1),
        "fine_border": fine[:, regions.on_border].sum(axis=1) / fine_area,
        "fine_spread": _spread(fine, regions.places),
        "coarse_spread": _spread(coarse, regions.places),
        "edge": np.minimum(regions.places, 1 - regions.places).min(axis=1),
    }
    relative = {
        "ranked": second,
        "contrast": (colour * np.exp(-(place**2) / (2 * NEAR**2))) @ background,
        "third_side": sides[2],
        "fine_area": fine_area,
    }
    return {name: np.log1p(value) for name, value in in_logs.items()} | {
        name: _deviations(value, regions.areas) for name, value in relative.items()
    }


def manifold_ranking(regions: Regions, colour: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far each superpixel is unlike the borders, and how far it is like those that are; both
    float (k,) in [0, 1]. `colour`: distances in Lab (k, k).
    """
    joined = regions.neighbours | np.logical_and.outer(regions.on_border, regions.on_border)
    near = regions.neighbours.astype(np.float32)
    joined |= near @ near > 0
    np.fill_diagonal(joined, False)
    affinity = np.exp(-colour / RANKING_SCALE) * joined
    ranking = np.linalg.inv(np.diag(affinity.sum(axis=1)) - RANKING_REACH * affinity)
    np.fill_diagonal(ranking, 0)
    unlike = [1 - to_unit_range(ranking @ side) for side in regions.sides]
    first = to_unit_range(np.prod(unlike, axis=0))
    return first, to_unit_range(ranking @ (first > first.mean()))


def nearest_on_border(regions: Regions, colour: np.ndarray) -> np.ndarray:
    """Colour distance to the most alike other superpixel on the border, (k,); 0 without one."""
    border = np.flatnonzero(regions.on_border)
    to_border = colour[:, border]
    to_border[border, np.arange(len(border))] = np.inf
    nearest = to_border.min(axis=1)
    return np.where(np.isfinite(nearest), nearest, 0.0)


def _to_sides(lab: np.ndarray) -> np.ndarray:
    """Lab (h, w, 3) for the paths to each border, float32 (h, w, 4, 3)."""
    return np.repeat(lab[:, :, None], 4, axis=2)


def _from_sides(lab: np.ndarray) -> np.ndarray:
    """Barriers before any path, (h, w, 4, 3): zero on the upper, lower, left and right border."""
    barriers = np.full((*lab.shape[:2], 4, 3), np.inf, np.float32)
    barriers[0, :, 0] = barriers[-1, :, 1] = barriers[:, 0, 2] = barriers[:, -1, 3] = 0
    return barriers


def _by_side(regions: Regions, values: np.ndarray) -> np.ndarray:
    """Values of pixels for each border, (h, w, 4), as means of superpixels, the least first."""
    scaled = cv2.resize(np.ascontiguousarray(values, np.float32), regions.numbers.shape[::-1])
    return np.sort([regions.mean(scaled[..., side]) for side in range(4)], axis=0)


def _spread(likeness: np.ndarray, places: np.ndarray) -> np.ndarray:
    """How far apart the like superpixels are: the deviation of their places, (k,)."""
    share = likeness / likeness.sum(axis=1, keepdims=True)
    variance = share @ (places**2).sum(axis=1) - ((share @ places) ** 2).sum(axis=1)
    return np.sqrt(np.maximum(variance, 0))


def _deviations(values: np.ndarray, areas: np.ndarray) -> np.ndarray:
    mean = areas @ values
    deviation = np.sqrt(areas @ (values - mean) ** 2) + 1e-6
    return np.clip((values - mean) / deviation, -LARGEST, LARGEST)
