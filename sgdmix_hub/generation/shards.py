"""The shards of a plan and their records, which mark them as finished."""

from __future__ import annotations

import os
import re
import shutil
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sgdmix_hub.files import (
    DamagedFile,
    file_sha256,
    in_threads,
    read_sealed,
    write_atomically,
    write_sealed,
)
from sgdmix_hub.hub.manifests import SkippedRows
from sgdmix_hub.publishing.layout import facts_of
from sgdmix_hub.publishing.parquet import write_parquet
from sgdmix_hub.publishing.statistics import (
    RowStatistics,
    as_json,
    count_rows,
    count_table,
    from_json,
    merged,
)
from sgdmix_hub.runtime.ranks import say
from sgdmix_hub.storage.stores import HERE, Store

from .numbered import Numbered
from .plan import PlanRow

RECORD = ".json"
FIELDS = {
    "rows": int,
    "sha256": str,
    "plan_sha256": str,
    "skipped": list,
    "seconds": (int, float),
    "environment": dict,
}
IN_STORES = {"bytes": int, "statistics": dict}  # fields of records in object stores
DIGEST = re.compile("[0-9a-f]{64}")
GROUPS_IN_MEMORY = 2  # of the plan


def state_of(path: Path) -> tuple[int, int, int]:
    """What changes when a file is replaced or written to. Raises `DamagedFile` if it is missing."""
    try:
        facts = path.stat()
    except FileNotFoundError:
        raise DamagedFile(path) from None
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


class Shards:
    """The shards of one plan: `shard-00000.parquet` and, written after it, `shard-00000.json`.

    In an object store a shard's name holds the start of its sha256, so that nothing replaces it:
    the record of one process never speaks for the shard of another. There the record also holds the
    shard's size and statistics, so that nobody has to read it for them.
    """

    def __init__(self, folder: Path, plan_path: Path, rows_per_shard: int, store: Store = HERE):
        self.folder = folder
        self.plan_path = plan_path
        self.plan_sha256 = file_sha256(plan_path)
        self.rows_per_shard = rows_per_shard
        self._store = store
        self._plan = pq.ParquetFile(plan_path)
        self.num_rows: int = self._plan.metadata.num_rows
        self._group = lru_cache(GROUPS_IN_MEMORY)(self._plan.read_row_group)
        groups = range(self._plan.metadata.num_row_groups)
        sizes = [self._plan.metadata.row_group(group).num_rows for group in groups]
        self._ends = list(accumulate(sizes))  # of the row groups, in rows
        self._intact: dict[int, tuple] = {}  # shard -> its file when this process has hashed it
        self.files = Numbered(folder, len(self))

    def __len__(self) -> int:
        return -(-self.num_rows // self.rows_per_shard)

    def plan_columns(self, *names: str) -> pa.Table:
        """Some columns of the whole plan."""
        return self._plan.read(list(names))

    def plan_parts(self, *names: str) -> Iterator[pa.Table]:
        """Some columns of the plan, a row group at a time."""
        for group in range(self._plan.metadata.num_row_groups):
            yield self._plan.read_row_group(group, list(names))

    def rows(self, number: int) -> list[PlanRow]:
        return self.plan_rows(number * self.rows_per_shard, self.rows_per_shard)

    def plan_rows(self, start: int, count: int) -> list[PlanRow]:
        """Rows of the plan by their positions in it. Reads only the row groups that hold them."""
        end, found = min(start + count, self.num_rows), []
        group = bisect_right(self._ends, start)
        while start < end:
            first = self._ends[group - 1] if group else 0
            stop = min(end, self._ends[group])
            rows = self._group(group).slice(start - first, stop - start).to_pylist()
            found += [PlanRow(**row) for row in rows]
            start, group = stop, group + 1
        return found

    def size(self, number: int) -> int:
        """How many rows of the plan a shard covers."""
        return min(self.rows_per_shard, self.num_rows - number * self.rows_per_shard)

    def path(self, number: int) -> Path:
        return self.files.path(number, f"shard-{number:05d}.parquet")

    def record_path(self, number: int) -> Path:
        return self.path(number).with_suffix(RECORD)

    def record(self, number: int) -> dict:
        """The record of a shard. Raises `DamagedFile`, also if its fields are not a record's."""
        path = self.record_path(number)
        record, fields = read_sealed(path), FIELDS | (IN_STORES if self._store.is_remote else {})
        fits = all(isinstance(record.get(name), kind) for name, kind in fields.items())
        if not (fits and DIGEST.fullmatch(record["sha256"]) and "device" in record["environment"]):
            raise DamagedFile(path)
        return record

    def recorded(self) -> set[int]:
        """The shards with a record, by listings, which may lack new ones."""
        return self.files.numbers(self._store, RECORD)

    def is_recorded(self, number: int) -> bool:
        return self._store.bring(self.record_path(number))

    def check(self, number: int, by_bytes: bool = True) -> bool:
        """Whether the shard is finished and of this plan. Raises `DamagedFile`.

        `by_bytes`: a shard on a disk is compared with its record, once unless the file changes. One
        in an object store is compared when it is read.
        """
        if not self.is_recorded(number):
            return False
        record = self.record(number)
        if record["plan_sha256"] != self.plan_sha256:
            return False
        if self._store.is_remote:
            return True
        path = self.path(number)
        seen = (record["sha256"], *state_of(path))
        if by_bytes and self._intact.get(number) != seen:
            if file_sha256(path) != record["sha256"]:
                raise DamagedFile(path)
            self._intact[number] = seen
        return True

    def is_finished(self, number: int) -> bool:
        """Whether the shard is finished, of this plan and undamaged."""
        try:
            return self.check(number)
        except DamagedFile:
            return False

    def unfinished(self, by_bytes: bool = True) -> list[int]:
        """The shards to make, ascending. Reports damaged ones. `by_bytes`: as `check`."""
        self._store.bring_all(map(self.record_path, range(len(self))))

        def check(number: int) -> bool | DamagedFile:
            try:
                return self.check(number, by_bytes)
            except DamagedFile as damage:
                return damage

        numbers = []
        for number, finished in enumerate(in_threads(check, range(len(self)))):
            if isinstance(finished, DamagedFile):
                say(finished.what)  # not every stage makes it again
            if finished is not True:
                numbers.append(number)
        return numbers

    def drop_unfinished(self, by_bytes: bool = True) -> list[int]:
        """The shards to make. Deletes their records, so that no rank takes one for finished.
        `by_bytes`: as `check`.
        """
        numbers = self.unfinished(by_bytes)
        for number in numbers:
            self.drop(number)
        return numbers

    def drop(self, number: int) -> None:
        """Deletes a shard's record: the shard is to be made again."""
        self._store.drop(self.record_path(number))

    def skipped(self) -> SkippedRows:
        """The skipped rows of all shards with their reasons, in the order of the plan."""
        return SkippedRows.of(self.record(number)["skipped"] for number in range(len(self)))

    def bytes(self, number: int) -> int:
        """The size of a finished shard."""
        if self._store.is_remote:
            return self.record(number)["bytes"]
        return self.path(number).stat().st_size

    def statistics(self, num_classes: int) -> RowStatistics:
        """Statistics of the rows of all shards."""
        numbers = range(len(self))
        if not self._store.is_remote:
            return count_rows(map(self.path, numbers), num_classes)
        parts = (from_json(self.record(number)["statistics"], num_classes) for number in numbers)
        return merged(parts, num_classes)

    def write(self, number: int, rows: list[dict], schema: pa.Schema, facts: dict) -> None:
        """Writes a shard, then its record, which contains `facts`. `schema`: of `Features`."""
        columns = {name: [row[name] for row in rows] for name in schema.names}
        path, table = self._here(number), pa.table(columns, schema=schema)
        write_atomically(path, lambda temporary: write_parquet(temporary, [table], schema))
        record = {
            "rows": len(rows),
            "sha256": file_sha256(path),
            "plan_sha256": self.plan_sha256,
            **facts,
        }
        if self._store.is_remote:
            record["bytes"] = path.stat().st_size
            record["statistics"] = as_json(count_table(table, 0))  # without zeros
            self._store.keep(path, at=self._kept(number, record))
        write_sealed(self.record_path(number), record)
        self._store.keep(self.record_path(number))
        self._store.release(path)

    def brought(self, number: int) -> Path:
        """A finished shard's file; of one in an object store, a checked copy.

        Raises `DamagedFile` if that is missing or has changed since its record was written.
        """
        path = self._here(number)
        if self._store.is_remote:
            record = self.record(number)
            kept = self._kept(number, record)
            if not self._store.bring(path, of=kept) or file_sha256(path) != record["sha256"]:
                self._store.release(path)
                self.drop(number)  # it is made again, like one without a record
                raise DamagedFile(kept)
        return path

    def _here(self, number: int) -> Path:
        """Where this process has a shard's file. The processes of a launch share a scratch folder,
        and two of them may make or read the same shard.
        """
        path = self.path(number)
        return path.parent / str(os.getpid()) / path.name if self._store.is_remote else path

    def _kept(self, number: int, record: dict) -> Path:
        """Where an object store keeps a shard."""
        path = self.path(number)
        return path.with_name(f"{path.stem}-{record['sha256'][:16]}.parquet")

    def publish(self, numbers: range, path: Path) -> dict:
        """Writes one published file from finished shards; returns its sha256 and size.

        A single shard is hard-linked, or copied if the file system has no links. Raises
        `DamagedFile` if a shard has changed since its record was written: it is to be made again.
        """
        if len(numbers) > 1:
            schema = pq.read_schema(self.brought(numbers[0]))
            write_parquet(path, map(self._checked_table, numbers), schema)
            return facts_of(path)
        shard, digest = self._checked(numbers[0]), self.record(numbers[0])["sha256"]
        try:
            os.link(shard, path)
            facts = {"sha256": digest, "bytes": path.stat().st_size}
        except OSError:
            shutil.copyfile(shard, path)
            facts = facts_of(path)
            if facts["sha256"] != digest:
                raise DamagedFile(shard) from None
        self._store.release(shard)
        return facts

    def _checked_table(self, number: int) -> pa.Table:
        """The rows of a finished shard. Raises `DamagedFile`."""
        self._checked(number)
        return self.table(number)

    def _checked(self, number: int) -> Path:
        """A finished shard's file, compared with its record. Raises `DamagedFile` for one that is
        to be made again.
        """
        try:
            finished = self.check(number)
        except DamagedFile:
            self.drop(number)
            raise
        if not finished:
            raise DamagedFile(self.path(number))
        return self.brought(number)

    def table(self, number: int, columns: list[str] | None = None) -> pa.Table:
        """Columns of a finished shard, or all of them."""
        table = pq.read_table(self.brought(number), columns=columns)
        self._store.release(self._here(number))
        return table
