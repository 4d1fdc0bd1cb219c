"""One bar for the rows of all ranks."""

from __future__ import annotations

import sys
import time

from tqdm.auto import tqdm

from .shards import Shards

BAR_SECONDS = 0.5 if sys.stderr.isatty() else 30.0  # a line in a log is there for ever
SECONDS_BETWEEN_LOOKS = 1.0  # at the other ranks' records: a shared file system is slow at it


class Progress:
    """One bar for the rows of all ranks: this one's as they are done, the others' as their shards
    are recorded; what an earlier attempt finished is there from the start and does not count for
    the speed.
    """

    def __init__(self, shards: Shards, unfinished: list[int], mine: list[int], shown: bool):
        self.shards = shards
        self.others = set(unfinished) - set(mine) if shown else set()
        to_make = sum(map(shards.size, unfinished))
        total = len(shards.plan)
        self.bar = tqdm(
            total=total,
            initial=total - to_make,
            desc="sgd-mix",
            unit="image",
            mininterval=BAR_SECONDS,
            disable=not shown,
        )
        self._looked = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *failure) -> None:
        self.bar.close()

    def advance(self, rows: int) -> None:
        """This rank has done some more rows."""
        self.bar.update(rows)
        if time.monotonic() - self._looked > SECONDS_BETWEEN_LOOKS:
            self.all_recorded()

    def all_recorded(self) -> bool:
        """Whether the other ranks' shards are all there; counts those that have appeared."""
        appeared = {number for number in self.others if self.shards.is_recorded(number)}
        self.others -= appeared
        self.bar.update(sum(map(self.shards.size, appeared)))
        self._looked = time.monotonic()
        return not self.others
