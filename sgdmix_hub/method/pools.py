"""The rows that a source's target may be drawn from.

Rows are named by their positions among the usable ones, which are ascending.
"""

from __future__ import annotations

import numpy as np


class Pools:
    """The pool of every position, ascending. It is never stored: index arithmetic draws from it.

    `group`: int (n,), the number of each position's label; `members[g]`: the positions with that
    label, ascending.
    """

    def __init__(self, labels: np.ndarray, target_classes: str):
        self.target_classes = target_classes
        _, self.group, counts = np.unique(labels, return_inverse=True, return_counts=True)
        self.members = np.split(np.argsort(self.group, kind="stable"), np.cumsum(counts)[:-1])
        self._gaps = [members - np.arange(len(members)) for members in self.members]

    def size(self, position: int) -> int:
        rows, same = len(self.group), len(self.members[self.group[position]])
        return {"any": rows - 1, "other": rows - same, "same": same - 1}[self.target_classes]

    def smallest(self) -> int:
        """The size of the smallest pool."""
        return min(self.size(int(members[0])) for members in self.members)

    def take(self, position: int, places: np.ndarray) -> np.ndarray:
        """The pool's elements at `places`, int64 in [0, size)."""
        group = self.group[position]
        if self.target_classes == "other":
            # A place moves up by one for each member of the label before it: before member m stand
            # m - (members before m) others.
            return places + np.searchsorted(self._gaps[group], places, side="right")
        if self.target_classes == "same":
            members = self.members[group]
            return members[places + (places >= np.searchsorted(members, position))]
        return places + (places >= position)

    def whole(self, position: int) -> np.ndarray:
        return self.take(position, np.arange(self.size(position)))


class BankPools(Pools):
    """The pools of sources whose targets are a bank's: the positions from `first` on."""

    def __init__(self, labels: np.ndarray, first: int):
        super().__init__(labels, "any")
        self.first = first

    def size(self, position: int) -> int:
        return len(self.group) - self.first

    def take(self, position: int, places: np.ndarray) -> np.ndarray:
        return self.first + places
