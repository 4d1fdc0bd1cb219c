"""The plan: one row for every image to make, with its target, seed and strength."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sgdmix_hub.data.splits import Split
from sgdmix_hub.method.strength import row_strengths
from sgdmix_hub.method.targets import NO_TARGET, TargetSelection
from sgdmix_hub.models.prompts import num_prompts
from sgdmix_hub.seeds import prompt_numbers, row_seeds
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.reasons import EXCLUDED, distrust, is_low_confidence

from .bank import Bank, joined_labels, joined_maps
from .row_store import RowArrays
from .saliency_maps import SaliencyMaps
from .variants import variant_counts

PLAN_SCHEMA = pa.schema(
    [
        ("source_index", pa.int64()),
        ("variant", pa.int32()),
        ("target_index", pa.int64()),
        ("seed", pa.int64()),
        ("strength", pa.float64()),
        ("saliency_distance", pa.float64()),
        ("prompt", pa.int32()),
        ("skip", pa.string()),
    ]
)
PLAN_GROUP = 2**14  # rows per row group
SOURCES_AT_ONCE = 128
NO_CANDIDATE = "no candidate"


@dataclass(frozen=True)
class PlanRow:
    """One image to make. `skip`: why it cannot be made.

    Indices are rows of the pinned split. A target of a bank is numbered as in bank.py. `prompt`:
    the number of its prompt, as `Prompts` counts them.
    """

    source_index: int
    variant: int
    target_index: int
    seed: int
    strength: float
    saliency_distance: float
    prompt: int
    skip: str | None

    @property
    def is_unmixed(self) -> bool:
        """Whether the row is its source as it is, because the mask could not be trusted."""
        return self.target_index == self.source_index


def make_plan(
    settings: AugmentSettings,
    split: Split,
    maps: SaliencyMaps,
    backgrounds: RowArrays | None = None,
    bank: Bank | None = None,
) -> Iterator[PlanRow]:
    """The variants of every source of the subset, in order. Arguments: as of `plan_parts`."""
    for part in plan_parts(settings, split, maps, backgrounds, bank):
        yield from rows_of(part)


def rows_of(part: pa.Table) -> Iterator[PlanRow]:
    """The rows of a part of a plan."""
    return (PlanRow(**row) for row in part.to_pylist())


def plan_parts(
    settings: AugmentSettings,
    split: Split,
    maps: SaliencyMaps,
    backgrounds: RowArrays | None = None,
    bank: Bank | None = None,
) -> Iterator[pa.Table]:
    """The variants of every source of the subset, in order, some sources at a time.

    Targets depend on the maps of all rows, so the plan is made once, by one process.

    Args:
        maps: (64, 64) per row.
        backgrounds: float32 (D,) per row, if the selection method needs them; with a bank, of its
            rows too.
    """
    unusable = maps.unusable | left_out(settings, split, maps)
    kept = [row for row, reason in unusable.items() if keeps_unmixed(settings, reason)]
    mixable, unmixed = ~_among(split.subset, unusable), _among(split.subset, kept)
    counts = variant_counts(settings, split.labels[split.subset], mixable, unmixed)
    all_made, selection = mixable & (counts > 0), None
    if all_made.any():
        selection = selection_of(settings, split, maps, split.subset[mixable], backgrounds, bank)
    for start in range(0, len(split.subset), SOURCES_AT_ONCE):
        block = slice(start, start + SOURCES_AT_ONCE)
        sources, count = split.subset[block], counts[block]
        of_row = np.repeat(np.arange(len(sources)), count)  # the place of each row's source
        made = all_made[block]
        targets = np.where(unmixed[block], sources, NO_TARGET)[of_row]
        distances = np.zeros(len(of_row))
        if selection is not None and made.any():
            chosen = made[of_row]
            targets[chosen], distances[chosen] = selection.targets(sources[made], count[made])
        reasons = np.array([unusable.get(row, NO_CANDIDATE) for row in sources.tolist()], object)
        yield _part(
            settings, sources[of_row], _variants(count), targets, distances, reasons[of_row]
        )


def _variants(counts: np.ndarray) -> np.ndarray:
    """0 to count - 1, for one source after the other."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _part(
    settings: AugmentSettings,
    sources: np.ndarray,
    variants: np.ndarray,
    targets: np.ndarray,
    distances: np.ndarray,
    reasons: np.ndarray,
) -> pa.Table:
    """Rows of the plan, from arrays (n,). `reasons`: why a row would have no target."""
    seeds = row_seeds(settings.seed, sources, variants)
    strengths = row_strengths(settings.strength, settings.seed, sources, variants)
    columns = {
        "source_index": sources,
        "variant": variants,
        "target_index": targets,
        "seed": seeds,
        "strength": np.where(targets == sources, 0.0, strengths),
        "saliency_distance": distances,
        "prompt": prompt_numbers(seeds, num_prompts(settings)),
        "skip": pa.array(reasons, pa.string(), mask=targets != NO_TARGET),
    }
    return pa.table(
        [pa.array(columns[field.name], field.type) for field in PLAN_SCHEMA], schema=PLAN_SCHEMA
    )


def selection_of(
    settings: AugmentSettings,
    split: Split,
    maps: SaliencyMaps,
    usable: np.ndarray,
    backgrounds: RowArrays | None,
    bank: Bank | None,
) -> TargetSelection:
    """The choice among the `usable` rows of the split or, if there is one, those of the bank."""
    labels, joined, first = split.labels, maps, None
    if bank is not None:
        unusable = bank.maps.unusable | low_confidence(settings, bank.split, bank.maps)
        rows = bank.split.subset[~_among(bank.split.subset, unusable)]
        usable = np.concatenate([usable, bank.first + rows])
        labels, joined, first = joined_labels(split, bank), joined_maps(maps, bank), bank.first
    features = None if backgrounds is None else backgrounds[usable]
    return TargetSelection(usable, labels, joined, settings, features, first)


def _among(rows: np.ndarray, chosen: Collection[int]) -> np.ndarray:
    """bool (n,): which of the rows are among the chosen."""
    return np.isin(rows, np.fromiter(chosen, np.int64, len(chosen)))


def left_out(settings: AugmentSettings, split: Split, maps: SaliencyMaps) -> dict[int, str]:
    """Rows that are left out on purpose, and why."""
    excluded = dict.fromkeys(settings.excluded_rows or [], EXCLUDED)
    return low_confidence(settings, split, maps) | excluded


def low_confidence(settings: AugmentSettings, split: Split, maps: SaliencyMaps) -> dict[int, str]:
    """Rows whose mask is not trusted, and why: they are neither mixed nor the target of others."""
    reasons, floor = {}, settings.min_mask_confidence
    if not floor:
        return reasons
    for row in map(int, split.subset):
        confidence = None if row in maps.unusable else maps.confidence(row)
        if reason := distrust(confidence, floor):
            reasons[row] = sys.intern(reason)  # a hundred texts for a million rows
    return reasons


def keeps_unmixed(settings: AugmentSettings, reason: str) -> bool:
    """Whether a row that is not mixed for this reason is kept as it is."""
    return settings.low_confidence == "keep-unmixed" and is_low_confidence(reason)


def table_of(rows: Iterable[PlanRow]) -> pa.Table:
    """Rows of a plan as a table."""
    return pa.Table.from_pylist([vars(row) for row in rows], schema=PLAN_SCHEMA)


def write_plan(path: Path, plan: Iterable[pa.Table]) -> None:
    """Writes the parts of a plan in row groups of one size: it may have millions of rows."""
    with pq.ParquetWriter(path, PLAN_SCHEMA) as file:
        for group in _groups(plan):
            file.write_table(group.combine_chunks())  # chunks would move the ends of pages


def _groups(plan: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows of all parts in tables of `PLAN_GROUP`, and the last ones."""
    held: list[pa.Table] = []
    count = 0
    for part in plan:
        while count + len(part) >= PLAN_GROUP:
            cut = PLAN_GROUP - count
            yield pa.concat_tables([*held, part.slice(0, cut)])
            held, count, part = [], 0, part.slice(cut)
        held.append(part)
        count += len(part)
    if count:
        yield pa.concat_tables(held)
