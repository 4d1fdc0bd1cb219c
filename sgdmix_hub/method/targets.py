"""The target of each source: the best of N random candidates by `selection_method` (`l2`: Eq. 7).

This module refers to usable rows by their positions in `usable`, which is ascending: the lowest
position is the lowest row.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from sgdmix_hub.seeds import RandomStream, generators
from sgdmix_hub.settings.generation import AugmentSettings

from .pools import BankPools, Pools
from .rules import RULES, MapsByRow, root_mean_square

NO_TARGET = -1
PAIRS_AT_ONCE = 32  # of maps in float64: 2 MB
MANY_TAKEN = 16  # from where sorting is faster than comparing one by one


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
        self.rule = RULES[method](maps, usable, self.pools, backgrounds)

    def targets(self, sources: np.ndarray, variants: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The targets of the next sources' variants, one source's after the other: rows, int64
        (sum of variants,), with `NO_TARGET`, and RMS distances of the maps, float64, with nan.
        """
        positions = np.searchsorted(self.usable, sources)
        draws = self._draws(sources, positions, variants)
        chosen = map(self._choose, positions.tolist(), draws)
        targets = np.array([target for of_source in chosen for target in of_source], np.int64)
        rows = np.full(len(targets), NO_TARGET, np.int64)
        distances = np.full(len(targets), np.nan)
        if (found := targets != NO_TARGET).any():
            rows[found] = self.usable[targets[found]]
            distances[found] = self._distances(np.repeat(sources, variants)[found], rows[found])
        return rows, distances

    def _distances(self, sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """RMS difference of the maps of each pair of rows, float64 (n,)."""
        distances = np.empty(len(sources))
        shape = self.maps[sources[:1]].shape[1:]
        first, second = np.empty((2, PAIRS_AT_ONCE, *shape))  # used again
        for start in range(0, len(sources), PAIRS_AT_ONCE):
            part = slice(start, start + PAIRS_AT_ONCE)
            own, of_pair = np.unique(sources[part], return_inverse=True)
            maps = _float64(self.maps[own], first)
            others = _float64(self.maps[targets[part]], second)
            for other, place in zip(others, of_pair.tolist(), strict=True):
                other -= maps[place]
            distances[part] = root_mean_square(others)
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

    def _choose(self, position: int, drawn: np.ndarray) -> list[int]:
        """A position for every variant, counted in `uses`; `NO_TARGET` if the pool is empty."""
        size = self.pools.size(position)
        if size == 0:
            return [NO_TARGET] * len(drawn)
        chosen: list[int] = []
        for variant, candidates in enumerate(drawn):
            taken = chosen[variant // size * size :]  # a target recurs only after the whole pool
            free = self._free(candidates, taken, self.settings.max_target_reuse)
            if free.any():
                best = self.rule.best(position, candidates[free])
            else:
                best = self.rule.best(position, self._left(position, variant, candidates, taken))
            self.uses[best] += 1
            chosen.append(best)
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


def _float64(maps: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Writes float16 (k, h, w) to the first k of `place`, and returns these. Uses torch, which
    converts float16 faster than NumPy.
    """
    torch.from_numpy(place)[: len(maps)].copy_(torch.from_numpy(maps))
    return place[: len(maps)]
