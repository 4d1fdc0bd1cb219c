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

from .row_store import RowArrays, RowMaps

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
    """One image to make. Indices are rows of the pinned split; `skip`: why it cannot be made."""

    source_index: int
    variant: int
    target_index: int
    seed: int
    strength: float
    saliency_distance: float
    skip: str | None


def make_plan(
    settings: AugmentSettings, split: Split, maps: RowMaps, backgrounds: RowArrays | None = None
) -> Iterator[PlanRow]:
    """The variants of every source of the subset, in order.

    Targets depend on the maps of all rows, so the plan is made once, by one process.

    Args:
        maps: (64, 64) per row.
        backgrounds: float32 (D,) per row, if the selection method needs them.
    """
    usable = np.array(
        [row for row in split.subset if int(row) not in maps.unusable], dtype=np.int64
    )
    targets = select_targets(
        usable,
        usable,
        split.labels,
        maps,
        settings,
        None if backgrounds is None else backgrounds[usable],
    )
    for source in split.subset.tolist():
        reason, chosen = maps.unusable.get(source), [Target(NO_TARGET, 0.0)] * settings.num_variants
        if reason is None:
            reason, chosen = "no candidate", next(targets)
        for variant, target in enumerate(chosen):
            yield PlanRow(
                source_index=source,
                variant=variant,
                target_index=target.index,
                seed=row_seed(settings.seed, source, variant),
                strength=row_strength(settings.strength, settings.seed, source, variant),
                saliency_distance=target.distance,
                skip=reason if target.index == NO_TARGET else None,
            )


def write_plan(path: Path, plan: Iterable[PlanRow]) -> None:
    """Writes the rows in groups, as they come: a plan may have millions."""
    rows = iter(plan)
    with pq.ParquetWriter(path, PLAN_SCHEMA) as file:
        while group := [vars(row) for row in islice(rows, PLAN_GROUP)]:
            file.write_table(pa.Table.from_pylist(group, schema=PLAN_SCHEMA))
