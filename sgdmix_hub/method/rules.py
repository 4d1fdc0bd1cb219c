"""How the best of some candidates is found: the rules of `selection_method`.

Rows are named by their positions among the usable ones, which are ascending: the lowest position is
the lowest row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch

from .pools import Pools

ROWS_AT_ONCE = 256  # maps converted at once: 4 MB of float32
SAMPLED, DIRECTIONS = 256, 16  # maps, and what is kept of each for a first comparison
COMPARED_FIRST = 4  # candidates

# A float32 dot product of k terms is off by at most g * sum|a b| <= g * (|a|^2 + |b|^2) / 2, g = k
# u / (1 - k u), u = 2^-24, in any order of summation (Higham, Accuracy and Stability, 3.5). k =
# 4096: g = 2.442e-4; the rest of the margin covers the roundings in float64.
DOT_ERROR = 2.5e-4
# What float32 takes off a sketch (below) is at most this share of its map's length.
SKETCH_ERROR = 1e-5


class MapsByRow(Protocol):
    """Saliency maps, float16 (64, 64), indexed by a row or by several rows."""

    def __getitem__(self, rows, /) -> np.ndarray: ...


class Rule(Protocol):
    """A selection method."""

    def best(self, position: int, candidates: np.ndarray) -> int:
        """The best of the candidates, at least one: of equals the lowest row."""
        ...


class DrawOrder:
    """`random`: takes the first drawn."""

    def best(self, position: int, candidates: np.ndarray) -> int:
        return int(candidates[0])


class MapDistance:
    """Takes the nearest saliency map (`sign` 1) or the farthest (-1).

    Most candidates are left out by a sketch of their maps: their places along the 16 directions
    in which a sample of the maps differs most, and the length of the rest. Distances of sketches
    bound those of the maps. Of what is left, squared distances come from float32 dot products;
    candidates within their error are compared exactly.
    """

    def __init__(self, maps: MapsByRow, usable: np.ndarray, sign: int):
        self.maps, self.usable, self.sign = maps, usable, sign
        self._own = -1, np.empty(0, np.float32)  # the last source, whose variants come together
        directions = self._directions()
        self.squares = np.empty(len(usable))
        self.places = np.empty((len(usable), len(directions)), np.float32)
        self.rests = np.empty(len(usable), np.float32)
        for part in _parts(len(usable)):
            values = self._values(np.arange(part.start, part.stop)).astype(np.float64)
            self.squares[part] = np.einsum("ij,ij->i", values, values)
            places = values @ directions.T
            self.places[part] = places
            inside = np.einsum("ij,ij->i", places, places)
            self.rests[part] = np.sqrt(np.maximum(self.squares[part] - inside, 0.0))

    def _directions(self) -> np.ndarray:
        """float64 (at most 16, 4096), orthonormal: which ones changes how many candidates are left
        out, never the choice.
        """
        count = len(self.usable)
        sample = np.unique(np.linspace(0, count - 1, min(count, SAMPLED)).astype(int))
        values = self._values(sample).astype(np.float64)
        return np.linalg.svd(values - values.mean(axis=0), full_matrices=False)[2][:DIRECTIONS]

    def _values(self, positions: np.ndarray) -> np.ndarray:
        """float32 (k, 4096). Uses torch, which converts float16 ten times as fast as NumPy 2.4."""
        return torch.from_numpy(self.maps[self.usable[positions]]).float().flatten(1).numpy()

    def least(self, position: int, candidates: np.ndarray) -> np.ndarray:
        """float64 (c,): at most the candidates' costs."""
        along = (self.places[candidates] - self.places[position]).astype(np.float64)
        inside = np.einsum("ij,ij->i", along, along)
        rests = self.rests[candidates].astype(np.float64)
        across = rests - self.sign * float(self.rests[position])
        lengths = np.sqrt(self.squares[candidates]) + np.sqrt(self.squares[position])
        distances = np.sqrt(inside + across * across) - self.sign * SKETCH_ERROR * lengths
        return self.sign * np.square(np.maximum(distances, 0.0))

    def costs(self, position: int, candidates: np.ndarray) -> np.ndarray:
        """float64 (c,): squared distances times `sign`.

        Their error is at most `DOT_ERROR` times the sum of both maps' squares.
        """
        if self._own[0] != position:
            self._own = position, self._values(np.array([position]))[0]
        own = self._own[1]
        dots = np.concatenate(
            [self._values(candidates[part]) @ own for part in _parts(len(candidates))]
        ).astype(np.float64)
        return self.sign * (self.squares[position] + self.squares[candidates] - 2.0 * dots)

    def best(self, position: int, candidates: np.ndarray) -> int:
        least = self.least(position, candidates)
        order = np.argsort(least, kind="stable")
        first, others = order[:COMPARED_FIRST], order[COMPARED_FIRST:]
        costs, most = self._compared(position, candidates[first])
        others = others[least[others] <= most]
        if len(others):
            more, most_of_others = self._compared(position, candidates[others])
            costs, most = np.concatenate([costs, more]), min(most, most_of_others)
        compared = candidates[np.concatenate([first, others])]
        error = self._error(position, compared)
        possible = np.sort(compared[costs - error <= most])
        if len(possible) == 1:
            return int(possible[0])
        own = self.maps[self.usable[position]]
        exact = [
            rms_distances(own, self.maps[self.usable[possible[part]]])
            for part in _parts(len(possible))
        ]
        return int(possible[np.argmin(self.sign * np.concatenate(exact))])

    def _compared(self, position: int, candidates: np.ndarray) -> tuple[np.ndarray, float]:
        """The candidates' costs, and what the lowest is at most."""
        costs = self.costs(position, candidates)
        return costs, float(np.min(costs + self._error(position, candidates)))

    def _error(self, position: int, candidates: np.ndarray) -> np.ndarray:
        return DOT_ERROR * (self.squares[position] + self.squares[candidates])


class BackgroundNovelty:
    """`novel-background`: takes the background that differs most from those of the source's label.

    Features are standardised over the usable rows; constant ones are dropped. The cost is minus the
    squared Euclidean distance to the mean m of the label's backgrounds b. The mean square distance
    to all of them differs from that by a constant: sum |c - b|^2 / k = |c - m|^2 + sum |b - m|^2 /
    k. So the candidate with the largest RMS distance to them is the one farthest from m.
    """

    def __init__(self, backgrounds: np.ndarray, pools: Pools):
        varies = np.ptp(backgrounds, axis=0) > 0
        self.backgrounds = backgrounds[:, varies]
        self.group = pools.group
        self.mean = self.backgrounds.mean(axis=0, dtype=np.float64)
        self.deviation = self.backgrounds.std(axis=0, dtype=np.float64)
        self.centroids = [self._standardised(members).mean(axis=0) for members in pools.members]

    def _standardised(self, positions: np.ndarray) -> np.ndarray:
        """float64 (k, D)"""
        return (self.backgrounds[positions] - self.mean) / self.deviation

    def best(self, position: int, candidates: np.ndarray) -> int:
        centroid = self.centroids[self.group[position]]
        distances = [
            np.square(self._standardised(candidates[part]) - centroid).sum(axis=1)
            for part in _parts(len(candidates))
        ]
        return int(candidates[np.argmax(np.concatenate(distances))])


MakeRule = Callable[[MapsByRow, np.ndarray, Pools, np.ndarray | None], Rule]
# `selection_method` -> its rule, made of maps, usable rows, pools and background features.
RULES: dict[str, MakeRule] = {
    "random": lambda maps, usable, pools, backgrounds: DrawOrder(),
    "l2": lambda maps, usable, pools, backgrounds: MapDistance(maps, usable, sign=1),
    "dissimilar": lambda maps, usable, pools, backgrounds: MapDistance(maps, usable, sign=-1),
    "novel-background": lambda maps, usable, pools, backgrounds: BackgroundNovelty(
        _required(backgrounds), pools
    ),
}


def _required(backgrounds: np.ndarray | None) -> np.ndarray:
    if backgrounds is None:
        raise ValueError("selection_method novel-background needs features of the backgrounds")
    return backgrounds


def _parts(length: int) -> Iterator[slice]:
    """[0, length) in parts whose maps fit into memory and cache."""
    for start in range(0, length, ROWS_AT_ONCE):
        yield slice(start, min(start + ROWS_AT_ONCE, length))


def rms_distances(source_map: np.ndarray, candidate_maps: np.ndarray) -> np.ndarray:
    """RMS difference of one map (h, w) to each of (k, h, w), float64 (k,); argmin is Eq. 7."""
    return root_mean_square(candidate_maps.astype(np.float64) - source_map.astype(np.float64))


def root_mean_square(differences: np.ndarray) -> np.ndarray:
    """Of each of (k, h, w), which it overwrites."""
    return np.sqrt(np.mean(np.square(differences, out=differences), axis=(1, 2)))
