"""Saliency maps of some rows of a split, in memory: more are made as they are needed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sgdmix_hub.data.splits import Split
from sgdmix_hub.generation.saliency_maps import SaliencyMaps, block_maps
from sgdmix_hub.method.saliency.sources import Source
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.presets import saliency_method

BLOCK = 4  # rows that are made before somebody is told


class KnownRows:
    """The values of the rows that were made so far, indexed by the split's rows."""

    def __init__(self) -> None:
        self.values: dict[int, np.ndarray] = {}
        self.unusable: dict[int, str] = {}

    def forget(self) -> None:
        """They are made again when they are needed."""
        self.values.clear()
        self.unusable.clear()

    def __getitem__(self, rows, /) -> np.ndarray:
        rows = np.asarray(rows)
        if rows.ndim == 0:
            return self.values[int(rows)]
        return np.stack([self.values[row] for row in rows.tolist()])


class KnownMaps:
    """The maps that one source makes of a split. `maps` has those that `make` has made."""

    def __init__(self, settings: AugmentSettings, split: Split, source: Source, key: str):
        """`key`: maps of equal keys are equal."""
        self.settings, self.split, self.source = settings, split, source
        self.known = KnownRows()
        self.maps = SaliencyMaps(self.known, key, saliency_method(settings))

    def make(self, rows: list[int]) -> Iterator[int]:
        """Makes those of the rows that are missing; yields how many are left, then works on."""
        missing = [row for row in rows if row not in self.known.values]
        for start in range(0, len(missing), BLOCK):
            yield len(missing) - start
            block = np.array(missing[start : start + BLOCK], np.int64)
            values, reasons = block_maps(self.settings, self.split, block, self.source)
            self.known.unusable |= {int(row): reason for row, reason in reasons.items()}
            self.known.values |= dict(zip(block.tolist(), values, strict=True))
