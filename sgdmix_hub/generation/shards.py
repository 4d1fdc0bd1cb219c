"""The shards of a plan and their records, which mark them as finished."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features

from sgdmix_hub.files import (
    DamagedFile,
    file_sha256,
    made_again,
    read_sealed,
    write_atomically,
    write_sealed,
)
from sgdmix_hub.publishing.parquet import write_parquet
from sgdmix_hub.runtime.ranks import say

from .plan import PlanRow


class Shards:
    """The shards of one plan: `shard-00000.parquet` and, written after it, `shard-00000.json`."""

    def __init__(self, folder: Path, plan_path: Path, rows_per_shard: int):
        self.folder = folder
        self.plan_path = plan_path
        self.plan = pq.read_table(plan_path)
        self.plan_sha256 = file_sha256(plan_path)
        self.rows_per_shard = rows_per_shard

    def __len__(self) -> int:
        return -(-len(self.plan) // self.rows_per_shard)

    def rows(self, number: int) -> list[PlanRow]:
        return self.plan_rows(number * self.rows_per_shard, self.rows_per_shard)

    def plan_rows(self, start: int, count: int) -> list[PlanRow]:
        """Rows of the plan by their positions in it."""
        return [PlanRow(**row) for row in self.plan.slice(start, count).to_pylist()]

    def size(self, number: int) -> int:
        """How many rows of the plan a shard covers."""
        return min(self.rows_per_shard, len(self.plan) - number * self.rows_per_shard)

    def path(self, number: int) -> Path:
        return self.folder / f"shard-{number:05d}.parquet"

    def record_path(self, number: int) -> Path:
        return self.path(number).with_suffix(".json")

    def record(self, number: int) -> dict:
        """The record of a shard. Raises `DamagedFile`."""
        return read_sealed(self.record_path(number))

    def is_recorded(self, number: int) -> bool:
        return self.record_path(number).exists()

    def check(self, number: int) -> bool:
        """Whether the shard is finished and of this plan. Raises `DamagedFile`."""
        if not self.is_recorded(number):
            return False
        record = self.record(number)
        if record["plan_sha256"] != self.plan_sha256:
            return False
        if not self.path(number).exists() or file_sha256(self.path(number)) != record["sha256"]:
            raise DamagedFile(self.path(number))
        return True

    def is_finished(self, number: int) -> bool:
        """Whether the shard is finished, of this plan and undamaged."""
        try:
            return self.check(number)
        except DamagedFile:
            return False

    def unfinished(self) -> list[int]:
        """The shards to make, ascending. Reports damaged ones."""
        numbers = []
        for number in range(len(self)):
            try:
                finished = self.check(number)
            except DamagedFile as damage:
                say(made_again(damage))
                finished = False
            if not finished:
                numbers.append(number)
        return numbers

    def drop_unfinished(self) -> list[int]:
        """The shards to make. Deletes their records, so that no rank takes one for finished."""
        numbers = self.unfinished()
        for number in numbers:
            self.record_path(number).unlink(missing_ok=True)
        return numbers

    def skipped(self) -> list[dict]:
        """The skipped rows of all shards with their reasons, in the order of the plan."""
        return [record for number in range(len(self)) for record in self.record(number)["skipped"]]

    def write(self, number: int, rows: list[dict], features: Features, facts: dict) -> None:
        """Writes a shard, then its record, which contains `facts`."""
        columns = {name: [row[name] for row in rows] for name in features}
        schema = features.arrow_schema
        table = pa.table(columns, schema=schema)
        write_atomically(
            self.path(number), lambda temporary: write_parquet(temporary, [table], schema)
        )
        record = {
            "rows": len(rows),
            "sha256": file_sha256(self.path(number)),
            "plan_sha256": self.plan_sha256,
            **facts,
        }
        write_sealed(self.record_path(number), record)

    def publish(self, numbers: range, path: Path) -> None:
        """Writes one published file from finished shards.

        A single shard is hard-linked, or copied if the file system has no links. Raises
        `DamagedFile` if one of several has changed since its record was written.
        """
        if len(numbers) > 1:
            schema = pq.read_schema(self.path(numbers[0]))
            write_parquet(path, map(self._table, numbers), schema)
            return
        try:
            os.link(self.path(numbers[0]), path)
        except OSError:
            shutil.copyfile(self.path(numbers[0]), path)

    def _table(self, number: int) -> pa.Table:
        """The rows of a finished shard. Raises `DamagedFile`."""
        if not self.check(number):
            raise DamagedFile(self.path(number))
        return pq.read_table(self.path(number))
