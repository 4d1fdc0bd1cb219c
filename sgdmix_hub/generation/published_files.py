"""The Parquet files of a dataset, each made from some of its shards.

In an object store each file goes to its place in `repo/` when it is made; on a disk it waits in
`state/files/` for `repo/` to appear. A record in `records/` holds its sha256 and the shards in
it. So an interrupted attempt goes on behind it, several workers or ranks can share the work, and
what an attempt has made it does not read again; what it finds on a disk, it does. `repo/` is
complete when its manifest is there.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from sgdmix_hub.files import (
    DamagedFile,
    file_sha256,
    read_sealed,
    sync_entry,
    temporary_beside,
    write_sealed,
)
from sgdmix_hub.output_folder import OutputFolder
from sgdmix_hub.publishing.layout import RepoLayout
from sgdmix_hub.publishing.parquet import FILE_BYTES, files_of
from sgdmix_hub.runtime.stopping import POLL_SECONDS, stop_if_requested
from sgdmix_hub.storage.stores import Store, StoredFile

from .claims import claims, order_of
from .shards import Shards


class PublishedFiles:
    """The files of a generation whose shards are all finished.

    `are_many`: whether they are worth a record each, and the help of other ranks. An object knows
    which files it, or another rank of its launch, has made or compared.
    """

    def __init__(self, shards: Shards, layout: RepoLayout, output: OutputFolder, store: Store):
        self.shards = shards
        sizes = [shards.bytes(number) for number in range(len(shards))]
        self.files = files_of(sizes)
        self.are_many = len(self.files) < len(sizes) or sum(sizes) > FILE_BYTES
        self._layout, self._output, self._store = layout, output, store
        self._compared: set[int] = set()

    def name(self, number: int) -> str:
        """The name of a file in the repository."""
        return self._layout.shard(number, len(self.files))

    def make_all(self) -> dict[str, dict]:
        """Makes the files that are not there yet; returns the facts of all, by their names. Raises
        `DamagedFile`.
        """
        facts = {}
        for number in range(len(self.files)):
            stop_if_requested()
            record = self._intact(number) or self._make(number, self.are_many)
            facts[self.name(number)] = {key: record[key] for key in ("sha256", "bytes")}
        return facts

    def make_claimed(self, rank: int, world_size: int) -> None:
        """Makes files as one of several workers: its own share first, then what is left. Raises
        `DamagedFile`.
        """
        for number in claims(
            len(self.files), rank, world_size, set, lambda number: bool(self._recorded(number))
        ):
            stop_if_requested()
            self._make(number)

    def stored(self, rank: int, world_size: int) -> dict[str, StoredFile]:
        """All files in the store, by their names in the repository, in the order in which a worker
        takes them. They are made.
        """
        found = {}
        for number in order_of(len(self.files), rank, world_size):
            record, name = self._recorded(number), self.name(number)
            if record is not None:
                place = self._output.repo / name
                found[name] = StoredFile(self._store, place, record["bytes"], record["sha256"])
        return found

    def make_share(self, rank: int, world_size: int) -> None:
        """Makes the share of one of a launch's ranks; rank 0 then waits for those of the others.
        Raises `DamagedFile`.
        """
        for number in range(rank, len(self.files), world_size):
            stop_if_requested()
            if not self._intact(number):
                self._make(number)
        for number in range(len(self.files)) if rank == 0 else ():
            while not self._recorded(number):
                stop_if_requested()
                time.sleep(POLL_SECONDS)
            self._compared.add(number)

    def move_into(self, building: Path) -> None:
        """Moves files on a disk to their places in `building`, and forgets their records."""
        for number in range(len(self.files)):
            os.replace(self._waiting(number), building / self.name(number))
            self._record_path(number).unlink(missing_ok=True)
        with suppress(OSError):  # a file that another worker has made meanwhile
            self._record_path(0).parent.rmdir()
            self._folder.rmdir()

    def _make(self, number: int, is_recorded: bool = True) -> dict:
        numbers = self.files[number]
        self._folder.mkdir(parents=True, exist_ok=True)
        # another process may make the same file, or on another machine have the same number
        path = temporary_beside(self._waiting(number))
        path.unlink(missing_ok=True)
        facts = self.shards.publish(numbers, path)
        record = {"shards": self._digests(numbers)} | facts
        if self._store.is_remote:
            self._store.keep(path, at=self._output.repo / self.name(number))
            path.unlink()
        else:
            sync_entry(path)
            os.replace(path, self._waiting(number))
            path.unlink(missing_ok=True)  # a second name of the same file is not replaced
        if is_recorded:
            write_sealed(self._record_path(number), record)
            self._store.keep(self._record_path(number))
        return record

    def _recorded(self, number: int) -> dict | None:
        """The record of a file that is there, made of these shards."""
        path = self._record_path(number)
        try:
            record = read_sealed(path) if self._store.bring(path) else None
        except DamagedFile:
            return None
        if record is None or record["shards"] != self._digests(self.files[number]):
            return None
        return record if self._size(number) == record["bytes"] else None

    def _intact(self, number: int) -> dict | None:
        """The record of a file, which is compared if an earlier attempt has left it on a disk; in a
        store, who reads it compares.
        """
        record = self._recorded(number)
        if record is None or self._store.is_remote or number in self._compared:
            return record
        is_same = file_sha256(self._waiting(number)) == record["sha256"]
        return record if is_same else None

    def _size(self, number: int) -> int | None:
        """Bytes of a file that is there."""
        if not self._store.is_remote:
            return self._store.size(self._waiting(number))
        name = self.name(number)
        return self._sizes.get(name) or self._store.size(self._output.repo / name)

    @cached_property
    def _sizes(self) -> dict[str, int]:
        return self._store.sizes(self._output.repo)

    def _digests(self, numbers: range) -> list[str]:
        return [self.shards.record(number)["sha256"] for number in numbers]

    @property
    def _folder(self) -> Path:
        return self._output.state / "files"

    def _waiting(self, number: int) -> Path:
        """Where a file on a disk is before `repo/` appears."""
        return self._folder / Path(self.name(number)).name

    def _record_path(self, number: int) -> Path:
        return (self._folder / "records" / self._waiting(number).name).with_suffix(".json")
