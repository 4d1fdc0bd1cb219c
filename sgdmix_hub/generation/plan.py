"""The plan: one row for every image to make, with its target, seed and strength."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sgdmix_hub.data.splits import Split
from sgdmix_hub.method.strength import row_strength
from sgdmix_hub.method.targets import NO_TARGET, Target, select_targets
from sgdmix_hub.seeds import row_seed
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.saliency import distrust, is_low_confidence

from .bank import Bank, joined_labels, joined_maps
from .row_store import RowArrays
from .saliency_maps import SaliencyMaps

PLAN_SCHEMA = pa.schema(
    [
        ("source_index", pa.int64()),
        ("variant", pa.int32()),
        ("target_index", pa.int64()),
        ("seed", pa.int64()),
        ("strength", pa.float64()),
        ("saliency_distance", pa.float64()),
        ("skip", pa.string()),
    ]
)
PLAN_GROUP = 2**14  # rows per row group


@dataclass(frozen=True)
class PlanRow:
    """One image to make. `skip`: why it cannot be made.

    Indices are rows of the pinned split. A target of a bank is numbered as in bank.py.
    """

    source_index: int
    variant: int
    target_index: int
    seed: int
    strength: float
    saliency_distance: float
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
    unusable = maps.unusable | low_confidence(settings, split, maps)
    sources = _usable(split, unusable)
    targets = selected(settings, split, maps, sources, backgrounds, bank)
    for source in split.subset.tolist():
        reason, chosen = unusable.get(source), [Target(NO_TARGET, 0.0)] * settings.num_variants
        if reason is None:
            reason, chosen = "no candidate", next(targets)
        elif keeps_unmixed(settings, reason):
            chosen = [Target(source, 0.0)] * settings.num_variants
        for variant, target in enumerate(chosen):
            strength = row_strength(settings.strength, settings.seed, source, variant)
            yield PlanRow(
                source_index=source,
                variant=variant,
                target_index=target.index,
                seed=row_seed(settings.seed, source, variant),
                strength=0.0 if target.index == source else strength,
                saliency_distance=target.distance,
                skip=reason if target.index == NO_TARGET else None,
            )


def selected(
    settings: AugmentSettings,
    split: Split,
    maps: SaliencyMaps,
    sources: np.ndarray,
    backgrounds: RowArrays | None,
    bank: Bank | None,
) -> Iterator[list[Target]]:
    """The targets of usable rows, which are each other's targets unless there is a bank."""
    if bank is None:
        features = None if backgrounds is None else backgrounds[sources]
        return select_targets(sources, sources, split.labels, maps, settings, features)
    unusable = bank.maps.unusable | low_confidence(settings, bank.split, bank.maps)
    usable = np.concatenate([sources, bank.first + _usable(bank.split, unusable)])
    return select_targets(
        sources,
        usable,
        joined_labels(split, bank),
        joined_maps(maps, bank),
        settings,
        None if backgrounds is None else backgrounds[usable],
        bank.first,
    )


def _usable(split: Split, unusable: dict[int, str]) -> np.ndarray:
    return np.array([row for row in split.subset.tolist() if row not in unusable], dtype=np.int64)


def low_confidence(settings: AugmentSettings, split: Split, maps: SaliencyMaps) -> dict[int, str]:
    """Rows whose mask is not trusted, and why: they are neither mixed nor the target of others."""
    reasons, floor = {}, settings.min_mask_confidence
    if not floor:
        return reasons
    for row in split.subset.tolist():
        confidence = None if row in maps.unusable else maps.confidence(row)
        if reason := distrust(confidence, floor):
            reasons[row] = reason
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
