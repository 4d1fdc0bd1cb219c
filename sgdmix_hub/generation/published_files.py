"""The Parquet files of a dataset, each made from some of its shards.

In an object store each file goes to its place in `repo/` when it is made, and is recorded in
`state/files/` with its sha256 and the shards it holds: an interrupted attempt goes on behind it,
and several workers can share the work. `repo/` is complete when its manifest is there.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

from sgdmix_hub.files import DamagedFile, read_sealed, write_sealed
from sgdmix_hub.output_folder import OutputFolder
from sgdmix_hub.publishing.layout import RepoLayout, facts_of
from sgdmix_hub.publishing.parquet import files_of
from sgdmix_hub.runtime.stopping import stop_if_requested
from sgdmix_hub.storage.stores import Store

from .claims import claims
from .shards import Shards


class PublishedFiles:
    """The files of a generation whose shards are all finished."""

    def __init__(self, shards: Shards, layout: RepoLayout, output: OutputFolder, store: Store):
        self.shards = shards
        self.files = files_of([shards.bytes(number) for number in range(len(shards))])
        self._layout, self._output, self._store = layout, output, store

    def name(self, number: int) -> str:
        """The name of a file in the repository."""
        return self._layout.shard(number, len(self.files))

    def make_all(self) -> dict[str, dict]:
        """Writes all files into the unfinished `repo/`; in an object store, those that are not
        there yet. Returns the facts of those in the store, by their names. Raises `DamagedFile`.
        """
        if not self._store.is_remote:
            for number, numbers in enumerate(self.files):
                self.shards.publish(numbers, self._output.building / self.name(number))
            return {}
        facts = {}
        for number in range(len(self.files)):
            stop_if_requested()
            record = self._recorded(number) or self._make(number)
            facts[self.name(number)] = {key: record[key] for key in ("sha256", "bytes")}
        return facts

    def make_claimed(self, rank: int, world_size: int) -> None:
        """Makes files in an object store as one of several workers: its own share first, then what
        is left. Raises `DamagedFile`.
        """
        self._output.building.mkdir(parents=True, exist_ok=True)
        for number in claims(
            len(self.files), rank, world_size, set, lambda number: bool(self._recorded(number))
        ):
            stop_if_requested()
            self._make(number)

    def _make(self, number: int) -> dict:
        numbers, name = self.files[number], self.name(number)
        path = self._output.building / str(os.getpid())  # another process may make the same file
        self.shards.publish(numbers, path)
        record = {"shards": self._digests(numbers)} | facts_of(path)
        self._store.keep(path, at=self._output.repo / name)
        write_sealed(self._record_path(number), record)
        self._store.keep(self._record_path(number))
        path.unlink()
        return record

    def _recorded(self, number: int) -> dict | None:
        """The record of a file that is there, made of these shards."""
        path = self._record_path(number)
        try:
            record = read_sealed(path) if self._store.bring(path) else {}
        except DamagedFile:
            return None
        is_made = (
            record.get("shards") == self._digests(self.files[number])
            and self._sizes.get(self.name(number)) == record["bytes"]
        )
        return record if is_made else None

    @cached_property
    def _sizes(self) -> dict[str, int]:
        return self._store.sizes(self._output.repo)

    def _digests(self, numbers: range) -> list[str]:
        return [self.shards.record(number)["sha256"] for number in numbers]

    def _record_path(self, number: int) -> Path:
        return self._output.state / "files" / f"{Path(self.name(number)).stem}.json"
