"""Which image each source is mixed with: N candidates drawn at random, the one with the nearest saliency map (Eq. 7)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CANDIDATE_STREAM, SEED_STREAM = 0, 1
NO_TARGET = -1


@dataclass(frozen=True)
class Target:
    """The target of one (source, variant): its row, or `NO_TARGET` without a candidate; `distance` is the RMS difference of the maps."""

    index: int
    distance: float


def select_targets(
    source: int,
    pool: np.ndarray,
    maps: np.ndarray,
    num_candidates: int,
    num_variants: int,
    seed: int,
    method: str = "l2",
) -> list[Target]:
    """The targets of one source's variants, each different from the ones before while the candidates allow it.

    `pool`: rows that may be drawn, ascending, the source itself not among them; `maps`: float (n, 64, 64), indexed by row. The draw is a
    pure function of (seed, source, variant). `l2` takes the nearest candidate (ties: the lowest row), `random` the first drawn.
    """
    chosen: list[Target] = []
    used: set[int] = set()
    for variant in range(num_variants):
        rng = np.random.default_rng([seed, source, variant, CANDIDATE_STREAM])
        candidates = rng.choice(pool, size=min(num_candidates, len(pool)), replace=False)
        fresh = np.array([c for c in candidates if int(c) not in used], dtype=np.int64)
        if fresh.size == 0:
            unused = pool[~np.isin(pool, list(used))]
            fresh = unused if unused.size else candidates
        if fresh.size == 0:
            chosen.append(Target(index=NO_TARGET, distance=float("nan")))
            continue
        if method == "l2":
            fresh = np.sort(fresh)
            best = int(np.argmin(rms_distances(maps[source], maps[fresh])))
        else:
            best = 0
        index = int(fresh[best])
        distance = float(rms_distances(maps[source], maps[index][None])[0])
        used.add(index)
        chosen.append(Target(index=index, distance=distance))
    return chosen


def rms_distances(source_map: np.ndarray, candidate_maps: np.ndarray) -> np.ndarray:
    """float64 (k,): RMS difference of one map (h, w) to each of (k, h, w). Its argmin is Eq. 7's."""
    difference = candidate_maps.astype(np.float32) - source_map.astype(np.float32)
    return np.sqrt(np.mean(np.square(difference, dtype=np.float64), axis=(1, 2)))


def row_seed(seed: int, source: int, variant: int) -> int:
    """The noise seed of one row, in [0, 2**63): a pure function of (seed, source_index, variant)."""
    return int(np.random.default_rng([seed, source, variant, SEED_STREAM]).integers(2**63 - 1))
