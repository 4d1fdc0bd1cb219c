"""The progress bar of a generation."""

from __future__ import annotations

import sys
import time

from tqdm.auto import tqdm

from .shards import Shards

BAR_SECONDS = 0.5 if sys.stderr.isatty() else 30.0  # in a log, every update is a line
SECONDS_BETWEEN_LOOKS = 1.0  # at the other ranks' records
LOOKING = 0.02  # share of the time at most: a listing of many records takes long


class Progress:
    """One bar for the rows of all ranks.

    This rank's rows count when they are done, the others' when their shards are recorded. Rows of
    earlier attempts count from the start, but not towards the speed.
    """

    def __init__(self, shards: Shards, unfinished: list[int], mine: list[int], shown: bool):
        self.shards = shards
        self.others = set(unfinished) - set(mine) if shown else set()
        to_make = sum(map(shards.size, unfinished))
        total = shards.num_rows
        self.bar = tqdm(
            total=total,
            initial=total - to_make,
            desc="sgd-mix",
            unit="image",
            mininterval=BAR_SECONDS,
            disable=not shown,
        )
        self._next_look = time.monotonic() + SECONDS_BETWEEN_LOOKS

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *failure) -> None:
        self.bar.close()

    def advance(self, rows: int) -> None:
        """Counts rows that this rank has done."""
        self.bar.update(rows)
        if self.others and time.monotonic() > self._next_look:
            self.all_recorded()

    def all_recorded(self) -> bool:
        """Whether all shards of the other ranks are recorded; counts new ones."""
        if self.others:
            started = time.monotonic()
            appeared = self.others & self.shards.recorded()
            self.others -= appeared
            self.bar.update(sum(map(self.shards.size, appeared)))
            ended = time.monotonic()
            self._next_look = ended + max(SECONDS_BETWEEN_LOOKS, (ended - started) / LOOKING)
        return not self.others
