"""Counts a generation's rows by class, saliency distances and foreground areas, shard by shard."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FINE_BINS = 1000  # over [0, 1]; merged into the bars of a histogram
MOST_BARS = 40
NOISE_COLUMNS = ("strength", "sigma_start", "effective_strength")
DISTRIBUTED = ("saliency_distance", "foreground_area")
COUNTED = ("label", *DISTRIBUTED, *NOISE_COLUMNS, "attempts")


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
    """Statistics of the rows in some shards. Reads seven columns, one file after the other."""
    return merged((count_table(_read_counted(path), num_classes) for path in shards), num_classes)


def _read_counted(path: Path) -> pa.Table:
    """The columns of a shard that are counted."""
    names = set(pq.read_schema(path).names)
    return pq.read_table(path, columns=[name for name in COUNTED if name in names])


def count_table(table: pa.Table, num_classes: int) -> RowStatistics:
    """Statistics of the rows of one shard, of which other columns are ignored."""
    tried, noise = ("attempts" in table.column_names, NOISE_COLUMNS[1] in table.column_names)
    remade = int((table.column("attempts").to_numpy() > 1).sum()) if tried else None
    sigma_start: dict[float, float] = {}
    effective_strength: dict[float, float] = {}
    if noise:
        strengths, levels, shares = (table.column(name).to_pylist() for name in NOISE_COLUMNS)
        sigma_start.update(zip(strengths, levels, strict=True))
        effective_strength.update(zip(strengths, shares, strict=True))
    rows = np.bincount(table.column("label").to_numpy(), minlength=num_classes)
    distance, area = (_distribution(table.column(name).to_numpy()) for name in DISTRIBUTED)
    return RowStatistics(rows.tolist(), distance, area, sigma_start, effective_strength, remade)


def _distribution(values: np.ndarray) -> Distribution:
    places = np.clip((values * FINE_BINS).astype(np.int64), 0, FINE_BINS - 1)
    return Distribution(np.bincount(places, minlength=FINE_BINS), float(values.sum()))


def merged(parts: Iterable[RowStatistics], num_classes: int) -> RowStatistics:
    """The statistics of all parts together, which are added in their order."""
    rows = np.zeros(num_classes, np.int64)
    counts = {name: np.zeros(FINE_BINS, np.int64) for name in DISTRIBUTED}
    totals = dict.fromkeys(DISTRIBUTED, 0.0)
    sigma_start: dict[float, float] = {}
    effective_strength: dict[float, float] = {}
    remade: int | None = None
    for part in parts:
        if part.remade is not None:
            remade = (remade or 0) + part.remade
        rows += np.array(part.rows_by_label, np.int64)
        sigma_start.update(part.sigma_start)
        effective_strength.update(part.effective_strength)
        for name, found in zip(DISTRIBUTED, (part.distance, part.area), strict=True):
            counts[name] += found.counts
            totals[name] += found.total
    distance, area = (Distribution(counts[name], totals[name]) for name in DISTRIBUTED)
    return RowStatistics(rows.tolist(), distance, area, sigma_start, effective_strength, remade)


def as_json(statistics: RowStatistics) -> dict:
    """The statistics for a JSON file, without the zeros."""
    distance, area = (
        {"counts": _not_zero(found.counts), "total": found.total}
        for found in (statistics.distance, statistics.area)
    )
    return {
        "rows_by_label": _not_zero(np.array(statistics.rows_by_label, np.int64)),
        "distance": distance,
        "area": area,
        "sigma_start": sorted(statistics.sigma_start.items()),
        "effective_strength": sorted(statistics.effective_strength.items()),
        "remade": statistics.remade,
    }


def from_json(facts: dict, num_classes: int) -> RowStatistics:
    """What `as_json` has made."""
    distance, area = (
        Distribution(_with_zeros(facts[name]["counts"], FINE_BINS), facts[name]["total"])
        for name in ("distance", "area")
    )
    rows = _with_zeros(facts["rows_by_label"], num_classes).tolist()
    by_strength = (dict(facts[name]) for name in ("sigma_start", "effective_strength"))
    return RowStatistics(rows, distance, area, *by_strength, facts["remade"])


def _not_zero(counts: np.ndarray) -> dict[str, int]:
    return {str(place): int(counts[place]) for place in np.flatnonzero(counts)}


def _with_zeros(counts: dict[str, int], length: int) -> np.ndarray:
    values = np.zeros(length, np.int64)
    for place, count in counts.items():
        values[int(place)] = count
    return values
