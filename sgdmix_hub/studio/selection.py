"""Which rows of a version are shown, and in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

Bound = float | None


@dataclass(frozen=True)
class Selection:
    """`labels`: the classes to show, all if empty. `ranges`: column -> lowest and highest value.
    `keys`: only these rows (source_index, variant), if given.
    """

    labels: Sequence[int] = ()
    ranges: Mapping[str, tuple[Bound, Bound]] = field(default_factory=dict)
    keys: frozenset[tuple[int, int]] | None = None
    sort_by: str | None = None
    descending: bool = False

    @property
    def is_everything(self) -> bool:
        """Whether all rows are shown as they are stored."""
        return not (self.labels or self.ranges or self.sort_by) and self.keys is None


def selected_positions(columns: Mapping[str, np.ndarray], selection: Selection) -> np.ndarray:
    """Positions of the selected rows, int64 (k,), in their order. Rows without a value come last,
    and lie in no range.
    """
    kept = np.ones(len(columns["label"]), bool)
    if selection.labels:
        kept &= np.isin(columns["label"], list(selection.labels))
    for name, (lowest, highest) in selection.ranges.items():
        if lowest is not None:
            kept &= columns[name] >= lowest
        if highest is not None:
            kept &= columns[name] <= highest
    if selection.keys is not None:
        keys = zip(columns["source_index"].tolist(), columns["variant"].tolist(), strict=True)
        kept &= np.array([key in selection.keys for key in keys], bool)
    positions = np.flatnonzero(kept)
    if selection.sort_by is None:
        return positions
    values = columns[selection.sort_by][positions].astype(np.float64)
    order = np.argsort(-values if selection.descending else values, kind="stable")
    return positions[order]
