"""The plan: one row for every image to make, with its target, seed and strength."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sgdmix_hub.data.splits import Split
from sgdmix_hub.method.strength import row_strength
from sgdmix_hub.method.targets import NO_TARGET, Target, select_targets
from sgdmix_hub.models.prompts import num_prompts
from sgdmix_hub.seeds import prompt_number, row_seed
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.saliency import EXCLUDED, distrust, is_low_confidence

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
    """The variants of every source of the subset, in order.

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
    usable, made = split.subset[mixable], mixable & (counts > 0)
    sources = split.subset[made]
    targets = selected(settings, split, maps, sources, usable, backgrounds, bank, counts[made])
    for source, count in zip(map(int, split.subset), map(int, counts), strict=True):
        reason, chosen = unusable.get(source), [Target(NO_TARGET, 0.0)] * count
        if reason is None:
            reason, chosen = NO_CANDIDATE, next(targets) if count else []
        elif keeps_unmixed(settings, reason):
            chosen = [Target(source, 0.0)] * count
        for variant, target in enumerate(chosen):
            strength = row_strength(settings.strength, settings.seed, source, variant)
            seed = row_seed(settings.seed, source, variant)
            yield PlanRow(
                source_index=source,
                variant=variant,
                target_index=target.index,
                seed=seed,
                strength=0.0 if target.index == source else strength,
                saliency_distance=target.distance,
                prompt=prompt_number(seed, num_prompts(settings)),
                skip=reason if target.index == NO_TARGET else None,
            )


def selected(
    settings: AugmentSettings,
    split: Split,
    maps: SaliencyMaps,
    sources: np.ndarray,
    usable: np.ndarray,
    backgrounds: RowArrays | None,
    bank: Bank | None,
    variants: np.ndarray | None = None,
) -> Iterator[list[Target]]:
    """The targets of `sources`: the `usable` rows of the split or, if there is one, of the bank."""
    labels, joined, first = split.labels, maps, None
    if bank is not None:
        unusable = bank.maps.unusable | low_confidence(settings, bank.split, bank.maps)
        rows = bank.split.subset[~_among(bank.split.subset, unusable)]
        usable = np.concatenate([usable, bank.first + rows])
        labels, joined, first = joined_labels(split, bank), joined_maps(maps, bank), bank.first
    features = None if backgrounds is None else backgrounds[usable]
    return select_targets(sources, usable, labels, joined, settings, features, variants, first)


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


def write_plan(path: Path, plan: Iterable[PlanRow]) -> None:
    """Writes the rows in groups, as they come: a plan may have millions."""
    rows = iter(plan)
    with pq.ParquetWriter(path, PLAN_SCHEMA) as file:
        while group := [vars(row) for row in islice(rows, PLAN_GROUP)]:
            file.write_table(pa.Table.from_pylist(group, schema=PLAN_SCHEMA))
