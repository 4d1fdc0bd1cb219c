"""The target of each source: the best of N random candidates by `selection_method` (`l2`: Eq. 7).

This module refers to usable rows by their positions in `usable`, which is ascending: the lowest
position is the lowest row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Protocol

import numpy as np
import torch

from sgdmix_hub.seeds import RandomStream, generators
from sgdmix_hub.settings.generation import AugmentSettings

NO_TARGET = -1
ROWS_AT_ONCE = 256  # maps converted at once: 4 MB of float32
SOURCES_AT_ONCE = 64  # a larger matrix product is no faster
DRAWN_AT_ONCE = 2**21
PAIRS_AT_ONCE = 32  # of maps in float64: 2 MB
MANY_TAKEN = 16  # from where sorting is faster than comparing one by one

# A float32 dot product of k terms is off by at most g * sum|a b| <= g * (|a|^2 + |b|^2) / 2, g = k
# u / (1 - k u), u = 2^-24, in any order of summation (Higham, Accuracy and Stability, 3.5). k =
# 4096: g = 2.442e-4; the rest of the margin covers the roundings in float64.
DOT_ERROR = 2.5e-4


class MapsByRow(Protocol):
    """Saliency maps, float16 (64, 64), indexed by a row or by several rows."""

    def __getitem__(self, rows, /) -> np.ndarray: ...


class TargetSelection:
    """The choice of targets, for some sources after the other.

    `usable`: int, ascending rows. `labels`: int, by row. `maps`: float16 (64, 64) by row, finite.
    `backgrounds`: float32 (len(usable), D), background features of the usable rows, only for
    `novel-background`. `settings`: with their preset applied.

    The pool of a source: all other usable rows that `target_classes` allows, ascending. With a
    bank of backgrounds, whose rows are numbered from `bank_from` on, it is the bank's usable rows
    instead, and no other row is a target. A draw from it is a pure function of (seed, source,
    variant). `l2` takes the nearest map, `dissimilar` the farthest, `novel-background` the
    background farthest from the mean background of the source's label, each the lowest row of
    equals; `random` takes the first drawn.

    The variants of a source get different targets until its pool is used up; then it starts over.
    An image is the target of at most `max_target_reuse` rows, if possible. If every candidate has
    reached the cap, fall back to the whole pool; if the pool has too, take its least-used rows,
    preferring drawn candidates.

    `uses`: int (n,), how many rows a position is the target of.
    """

    def __init__(
        self,
        usable: np.ndarray,
        labels: np.ndarray,
        maps: MapsByRow,
        settings: AugmentSettings,
        backgrounds: np.ndarray | None = None,
        bank_from: int | None = None,
    ):
        classes, method = settings.target_classes, settings.selection_method
        assert classes is not None and method is not None, "a preset gives every method setting"
        self.usable, self.maps, self.settings = usable, maps, settings
        self.pools = Pools(labels[usable], classes)
        if bank_from is not None:
            self.pools = BankPools(labels[usable], int(np.searchsorted(usable, bank_from)))
        self.uses = np.zeros(len(usable), np.int64)
        self.rule = RULES[method](self, backgrounds)

    def targets(self, sources: np.ndarray, variants: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The targets of the next sources' variants, one source's after the other: rows, int64
        (sum of variants,), with `NO_TARGET`, and RMS distances of the maps, float64, with nan.
        """
        positions = np.searchsorted(self.usable, sources)
        most = int(variants.max(initial=1))
        size = _block_size(len(self.usable), self.settings.num_candidates, most)
        draws = self._draws(sources, positions, variants)
        chosen: list[int] = []
        for start in range(0, len(positions), size):
            block = positions[start : start + size]
            drawn = list(islice(draws, len(block)))
            costs = self.rule.costs_of(block, drawn)
            for position, *of_source in zip(block.tolist(), drawn, costs, strict=True):
                chosen += self._choose(position, *of_source)
        targets = np.array(chosen, np.int64)
        found = targets != NO_TARGET
        rows = np.full(len(targets), NO_TARGET, np.int64)
        rows[found] = self.usable[targets[found]]
        distances = np.full(len(targets), np.nan)
        distances[found] = self._distances(np.repeat(sources, variants)[found], rows[found])
        return rows, distances

    def _distances(self, sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """RMS difference of the maps of each pair of rows, float64 (n,)."""
        distances = np.empty(len(sources))
        first, second = np.empty(
            (2, PAIRS_AT_ONCE, *self.maps[self.usable[:1]].shape[1:])
        )  # used again
        for start in range(0, len(sources), PAIRS_AT_ONCE):
            part = slice(start, start + PAIRS_AT_ONCE)
            own, of_pair = np.unique(sources[part], return_inverse=True)
            maps = _float64(self.maps[own], first)
            others = _float64(self.maps[targets[part]], second)
            for other, place in zip(others, of_pair.tolist(), strict=True):
                other -= maps[place]
            distances[part] = _root_mean_square(others)
        return distances

    def _draws(
        self, sources: np.ndarray, positions: np.ndarray, variants: np.ndarray
    ) -> Iterator[np.ndarray]:
        """The candidates of each source's variants, int64 (variants, at most N): in the order drawn
        for `random`, else ascending.
        """
        numbers = np.concatenate([np.arange(count) for count in variants.tolist()])
        drawing = self._drawing(RandomStream.CANDIDATES, np.repeat(sources, variants), numbers)
        in_order = self.settings.selection_method == "random"
        for position, count in zip(positions.tolist(), variants.tolist(), strict=True):
            size = self.pools.size(position)
            places = np.empty((count, min(self.settings.num_candidates, size)), np.int64)
            for of_variant, rng in zip(places, drawing, strict=False):
                if size:
                    of_variant[:] = rng.choice(size, len(of_variant), replace=False)
            if not in_order:
                places.sort(axis=1)
            yield self.pools.take(position, places)

    def _drawing(
        self, stream: RandomStream, sources: np.ndarray, variants: np.ndarray | int
    ) -> Iterator[np.random.Generator]:
        return generators(stream, self.settings.seed, sources, variants)

    def _choose(self, position: int, drawn: np.ndarray, costs: np.ndarray) -> list[int]:
        """A position for every variant, counted in `uses`; `NO_TARGET` if the pool is empty."""
        size = self.pools.size(position)
        if size == 0:
            return [NO_TARGET] * len(drawn)
        chosen: list[int] = []
        for variant, (candidates, candidate_costs) in enumerate(zip(drawn, costs, strict=True)):
            taken = chosen[variant // size * size :]  # a target recurs only after the whole pool
            free = self._free(candidates, taken, self.settings.max_target_reuse)
            if free.any():
                best = self.rule.best(position, candidates[free], candidate_costs[free])
            else:
                left = self._left(position, variant, candidates, taken)
                [[left_costs]] = self.rule.costs_of(np.array([position]), [left[None]])
                best = self.rule.best(position, left, left_costs)
            self.uses[best] += 1
            chosen.append(int(best))
        return chosen

    def _free(self, candidates: np.ndarray, taken: list[int], max_reuse: int | None) -> np.ndarray:
        """bool: the candidates that this source has not taken and `max_reuse` still allows."""
        free = np.ones(len(candidates), bool)
        if max_reuse is not None:
            free = self.uses[candidates] < max_reuse
        if len(taken) > MANY_TAKEN:
            return free & ~np.isin(candidates, taken)
        for target in taken:
            free &= candidates != target
        return free

    def _left(self, position: int, variant: int, drawn: np.ndarray, taken: list[int]) -> np.ndarray:
        """The choice if no drawn candidate is free: the free rows of the pool, else its least used.

        Of the least used, drawn candidates come first.
        """
        pool = self.pools.whole(position)
        free = self._free(pool, taken, self.settings.max_target_reuse)
        if not free.any():
            least = self.uses[pool[~np.isin(pool, taken)]].min() + 1
            again = self._free(drawn, taken, least)
            if again.any():
                return drawn[again]
            free = self._free(pool, taken, least)
        left = pool[free]
        if self.settings.selection_method == "random":
            source = self.usable[position]
            return next(self._drawing(RandomStream.POOL, source, variant)).permutation(left)
        return left


def _block_size(rows: int, num_candidates: int, num_variants: int) -> int:
    """How many sources to compare with the union of their candidates in one matrix product.

    A larger block reads shared candidates once, but compares every source with the whole union.
    """
    drawn = max(min(num_candidates, rows) * num_variants, 1)
    return max(
        1, min(SOURCES_AT_ONCE, SOURCES_AT_ONCE * drawn // max(rows, 1), DRAWN_AT_ONCE // drawn)
    )


class Pools:
    """The pool of every position, ascending. It is never stored: index arithmetic draws from it.

    `group`: int (n,), the number of each position's label; `members[g]`: the positions with that
    label, ascending.
    """

    def __init__(self, labels: np.ndarray, target_classes: str):
        self.target_classes = target_classes
        _, self.group, counts = np.unique(labels, return_inverse=True, return_counts=True)
        self.members = np.split(np.argsort(self.group, kind="stable"), np.cumsum(counts)[:-1])
        self._gaps = [members - np.arange(len(members)) for members in self.members]

    def size(self, position: int) -> int:
        rows, same = len(self.group), len(self.members[self.group[position]])
        return {"any": rows - 1, "other": rows - same, "same": same - 1}[self.target_classes]

    def smallest(self) -> int:
        """The size of the smallest pool."""
        return min(self.size(int(members[0])) for members in self.members)

    def take(self, position: int, places: np.ndarray) -> np.ndarray:
        """The pool's elements at `places`, int64 in [0, size)."""
        group = self.group[position]
        if self.target_classes == "other":
            # A place moves up by one for each member of the label before it: before member m stand
            # m - (members before m) others.
            return places + np.searchsorted(self._gaps[group], places, side="right")
        if self.target_classes == "same":
            members = self.members[group]
            return members[places + (places >= np.searchsorted(members, position))]
        return places + (places >= position)

    def whole(self, position: int) -> np.ndarray:
        return self.take(position, np.arange(self.size(position)))


class BankPools(Pools):
    """The pools of sources whose targets are a bank's: the positions from `first` on."""

    def __init__(self, labels: np.ndarray, first: int):
        super().__init__(labels, "any")
        self.first = first

    def size(self, position: int) -> int:
        return len(self.group) - self.first

    def take(self, position: int, places: np.ndarray) -> np.ndarray:
        return self.first + places


class DrawOrder:
    """`random`: takes the first drawn."""

    def costs_of(self, positions: np.ndarray, drawn: list[np.ndarray]) -> list[np.ndarray]:
        return [np.zeros(chosen.shape) for chosen in drawn]

    def best(self, position: int, candidates: np.ndarray, costs: np.ndarray) -> int:
        return candidates[0]


class ComparedTogether(ABC):
    """A rule that compares several sources with all their candidates at once."""

    @abstractmethod
    def costs(self, positions: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """float64 (p, c): of every source and every candidate."""

    def costs_of(self, positions: np.ndarray, drawn: list[np.ndarray]) -> list[np.ndarray]:
        candidates = np.unique(np.concatenate([chosen.ravel() for chosen in drawn]))
        costs = self.costs(positions, candidates)
        return [
            of_source[np.searchsorted(candidates, chosen)]
            for of_source, chosen in zip(costs, drawn, strict=True)
        ]


class MapDistance(ComparedTogether):
    """Takes the nearest saliency map (`sign` 1) or the farthest (-1).

    Squared distances come from float32 dot products; candidates within their error are compared
    exactly.
    """

    def __init__(self, maps: MapsByRow, usable: np.ndarray, sign: int):
        self.maps, self.usable, self.sign = maps, usable, sign
        self.squares = np.empty(len(usable))
        for part in _parts(len(usable)):
            values = self._values(np.arange(part.start, part.stop)).astype(np.float64)
            self.squares[part] = np.einsum("ij,ij->i", values, values)

    def _values(self, positions: np.ndarray) -> np.ndarray:
        """float32 (k, 4096). Uses torch, which converts float16 ten times as fast as NumPy 2.4."""
        return torch.from_numpy(self.maps[self.usable[positions]]).float().flatten(1).numpy()

    def costs(self, positions: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """float64 (p, c): squared distances times `sign`.

        Their error is at most `DOT_ERROR` times the sum of both maps' squares.
        """
        own = self._values(positions).T
        costs = np.empty((len(positions), len(candidates)))
        for part in _parts(len(candidates)):
            dots = self._values(candidates[part]) @ own
            costs[:, part] = (
                self.squares[positions, None] + self.squares[candidates[part]] - 2.0 * dots.T
            )
        return self.sign * costs

    def best(self, position: int, candidates: np.ndarray, costs: np.ndarray) -> int:
        error = DOT_ERROR * (self.squares[position] + self.squares[candidates])
        possible = candidates[costs - error <= np.min(costs + error)]
        if len(possible) == 1:
            return possible[0]
        own = self.maps[self.usable[position]]
        exact = [
            rms_distances(own, self.maps[self.usable[possible[part]]])
            for part in _parts(len(possible))
        ]
        return possible[np.argmin(self.sign * np.concatenate(exact))]


class BackgroundNovelty(ComparedTogether):
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

    def costs(self, positions: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """float64 (p, c)"""
        costs = np.empty((len(positions), len(candidates)))
        for part in _parts(len(candidates)):
            features = self._standardised(candidates[part])
            for place, position in enumerate(positions):
                costs[place, part] = -np.square(
                    features - self.centroids[self.group[position]]
                ).sum(axis=1)
        return costs

    def best(self, position: int, candidates: np.ndarray, costs: np.ndarray) -> int:
        return candidates[np.argmin(costs)]


class Rule(Protocol):
    """A selection method: costs of many candidates at once, then the best of some."""

    def costs_of(self, positions: np.ndarray, drawn: list[np.ndarray]) -> list[np.ndarray]:
        """Of each source's candidates, (variants, k) as they are drawn: lower is better."""
        ...

    def best(self, position: int, candidates: np.ndarray, costs: np.ndarray) -> int:
        """The best of `candidates`, whose costs are given."""
        ...


# `selection_method` -> its rule, made from a selection and the background features.
RULES: dict[str, Callable[[TargetSelection, np.ndarray | None], Rule]] = {
    "random": lambda selection, backgrounds: DrawOrder(),
    "l2": lambda selection, backgrounds: MapDistance(selection.maps, selection.usable, sign=1),
    "dissimilar": lambda selection, backgrounds: MapDistance(
        selection.maps, selection.usable, sign=-1
    ),
    "novel-background": lambda selection, backgrounds: BackgroundNovelty(
        _required(backgrounds), selection.pools
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
    return _root_mean_square(candidate_maps.astype(np.float64) - source_map.astype(np.float64))


def _root_mean_square(differences: np.ndarray) -> np.ndarray:
    """Of each of (k, h, w), which it overwrites."""
    return np.sqrt(np.mean(np.square(differences, out=differences), axis=(1, 2)))


def _float64(maps: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Writes float16 (k, h, w) to the first k of `place`, and returns these. Uses torch, which
    converts float16 faster than NumPy.
    """
    torch.from_numpy(place)[: len(maps)].copy_(torch.from_numpy(maps))
    return place[: len(maps)]
