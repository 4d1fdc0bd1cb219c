"""How many files and commits a generation comes to, and which limits it would meet."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from sgdmix_hub.hub.staging import commits_of
from sgdmix_hub.publishing.parquet import MOST_FILES, files_of

LARGEST_FILE = 50 * 10**9  # bytes of a file, as the Hub recommends
MANY_SHARDS = 20_000


@dataclass(frozen=True)
class Extent:
    """What a generation comes to.

    `rows`: of every shard. `row_bytes`: of one row, on average. `to_make`: rows that are not made
    yet. `room`: free bytes on the disk of the output folder; None for an object store.
    """

    rows: list[int]
    row_bytes: float
    to_make: int
    room: int | None

    @property
    def shard_bytes(self) -> list[int]:
        return [round(rows * self.row_bytes) for rows in self.rows]

    @property
    def file_bytes(self) -> list[int]:
        """Bytes of every published file."""
        sizes = self.shard_bytes
        return [sum(sizes[number] for number in numbers) for numbers in files_of(sizes)]

    @property
    def needed_room(self) -> int:
        """Bytes that the disk of the output folder still has to take.

        A published file of one shard is a link to it, one of several is another copy.
        """
        copied = len(self.file_bytes) < len(self.rows)
        return round(self.to_make * self.row_bytes) + copied * sum(self.file_bytes)


def free_room(folder: Path) -> int:
    """Free bytes on the disk that a folder is on, or will be on."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def files_text(extent: Extent) -> str:
    """How many files a run keeps while it works, and how it publishes them."""
    files, shards = extent.file_bytes, len(extent.rows)
    commits = commits_of({str(number): size for number, size in enumerate(files)})
    published = "in one commit"
    if commits > 1:
        published = f"in {commits:,} commits, of which the last shows the version"
    text = f"{len(files):,} shards of the dataset, published {published}; "
    return f"{text}{2 * shards:,} in state/ meanwhile"


def limits_of(extent: Extent) -> list[str]:
    """Which limits a run would meet, each with what to do about it, in words."""
    limits = []
    largest, shards, rows = max(extent.file_bytes), len(extent.rows), max(extent.rows)
    if largest > LARGEST_FILE:
        advice = "make the images smaller (--resolution, --image_format)"
        if (fitting := int(LARGEST_FILE / extent.row_bytes)) < rows:
            advice = f"give --rows_per_shard {max(1, fitting)}"
        limits.append(
            f"the largest published file would have {largest / 1e9:,.0f} GB; the Hub recommends at "
            f"most {LARGEST_FILE // 10**9}, in at most {MOST_FILES:,} files: {advice}, or "
            "generate parts under several --config_name"
        )
    if shards > MANY_SHARDS:
        limits.append(
            f"{shards:,} shards: with fewer, --rows_per_shard {8 * rows}, everything is faster"
        )
    if extent.room is not None and extent.needed_room > extent.room:
        limits.append(
            f"the disk of output_dir has {extent.room / 1e9:,.1f} GB of room, and the run needs "
            f"{extent.needed_room / 1e9:,.1f}: make room, or write to an object store"
        )
    return limits
