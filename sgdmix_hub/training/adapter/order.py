"""Which row the n-th sample of a training shows: a function of (seed, n)."""

from __future__ import annotations

import numpy as np

from sgdmix_hub.data.images import Frame
from sgdmix_hub.seeds import RandomStream, generator


class SampleOrder:
    """An endless sequence of samples: every epoch shows each row once, in a new order."""

    def __init__(self, rows: np.ndarray, seed: int):
        """`rows`: int64 (n,), n >= 1."""
        self.rows, self.seed, self.length = rows, seed, len(rows)
        self._epoch, self._order = -1, rows

    def __getitem__(self, number: int) -> int:
        """The position in `rows` of the sample with this number."""
        epoch, position = divmod(number, self.length)
        if epoch != self._epoch:
            self._order = self.epoch(generator(RandomStream.ORDER, self.seed, epoch))
            self._epoch = epoch
        return int(self._order[position])

    def epoch(self, random: np.random.Generator) -> np.ndarray:
        """Positions in `rows`, int64 (length,), in the order of an epoch."""
        return random.permutation(len(self.rows))


class FrameOrder(SampleOrder):
    """The samples of one optimizer step have one frame, so that every batch can be stacked.

    An epoch shows each row once, and some rows once more, to fill the last step of their frame.
    """

    def __init__(self, rows: np.ndarray, frames: list[Frame], seed: int, total_batch_size: int):
        """`frames`: of the rows."""
        super().__init__(rows, seed)
        self.total_batch_size = total_batch_size
        self.groups = [
            np.array([place for place, of_row in enumerate(frames) if of_row == frame])
            for frame in sorted(set(frames))
        ]
        self.length = sum(map(self._filled, self.groups))

    def epoch(self, random: np.random.Generator) -> np.ndarray:
        steps = [np.resize(random.permutation(group), self._filled(group)) for group in self.groups]
        by_step = np.concatenate(steps).reshape(-1, self.total_batch_size)
        return random.permutation(by_step).ravel()

    def _filled(self, group: np.ndarray) -> int:
        return -(-len(group) // self.total_batch_size) * self.total_batch_size
