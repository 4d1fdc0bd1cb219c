"""Counts a generation's rows by class, saliency distances and foreground areas, shard by shard."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

FINE_BINS = 1000  # over [0, 1]; merged into the bars of a histogram
MOST_BARS = 40
NOISE_COLUMNS = ("strength", "sigma_start", "effective_strength")


@dataclass(frozen=True)
class Distribution:
    """Histogram of values in [0, 1]: int64 (1000,) counts, and the sum of the values."""

    counts: np.ndarray
    total: float

    @property
    def mean(self) -> float:
        """The mean value; 0 without values."""
        return self.total / max(int(self.counts.sum()), 1)

    def bars(self) -> tuple[np.ndarray, np.ndarray]:
        """Counts (at most 40) and bar edges, over the range of values that occur."""
        filled = np.flatnonzero(self.counts)
        low, high = (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (0, FINE_BINS)
        width = -(-(high - low) // MOST_BARS)
        edges = np.arange(low, high + width, width)
        counts = np.add.reduceat(np.append(self.counts, np.zeros(width, np.int64)), edges[:-1])
        return counts, edges / FINE_BINS


@dataclass(frozen=True)
class RowStatistics:
    """Rows of every class, the distributions of two columns, and the noise level and the share of
    the steps of each strength.

    `sigma_start` and `effective_strength` are empty for rows without `sigma_start`, as earlier
    versions wrote them. `remade`: rows that took more than one attempt; None without that column.
    """

    rows_by_label: list[int]
    distance: Distribution
    area: Distribution
    sigma_start: dict[float, float] = field(default_factory=dict)
    effective_strength: dict[float, float] = field(default_factory=dict)
    remade: int | None = None


def count_rows(shards: Iterable[Path], num_classes: int) -> RowStatistics:
    """Statistics of the rows in some shards. Reads six columns, one file after the other."""
    rows = np.zeros(num_classes, np.int64)
    counts = {
        name: np.zeros(FINE_BINS, np.int64) for name in ("saliency_distance", "foreground_area")
    }
    totals = dict.fromkeys(counts, 0.0)
    sigma_start: dict[float, float] = {}
    effective_strength: dict[float, float] = {}
    remade: int | None = None
    for path in shards:
        names = pq.read_schema(path).names
        noise = NOISE_COLUMNS if NOISE_COLUMNS[1] in names else ()
        tried = [name for name in ("attempts",) if name in names]
        table = pq.read_table(path, columns=["label", *counts, *noise, *tried])
        for name in tried:
            remade = (remade or 0) + int((table.column(name).to_numpy() > 1).sum())
        if noise:
            strengths, levels, shares = (table.column(name).to_pylist() for name in noise)
            sigma_start.update(zip(strengths, levels, strict=True))
            effective_strength.update(zip(strengths, shares, strict=True))
        rows += np.bincount(table.column("label").to_numpy(), minlength=num_classes)
        for name in counts:
            values = table.column(name).to_numpy()
            places = np.clip((values * FINE_BINS).astype(np.int64), 0, FINE_BINS - 1)
            counts[name] += np.bincount(places, minlength=FINE_BINS)
            totals[name] += float(values.sum())
    distance, area = (Distribution(counts[name], totals[name]) for name in counts)
    return RowStatistics(rows.tolist(), distance, area, sigma_start, effective_strength, remade)
