"""Row groups of Parquet files, decoded on disk: a row of a file costs a whole row group, and those
that a generation asks for lie anywhere.

A group that was read stays as an Arrow file, from which a row is one copy. The processes of a
machine share them. They take at most half of the room on their disk, and the one that was used
longest ago goes first.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sgdmix_hub.errors import UserError
from sgdmix_hub.files import clear_abandoned, write_atomically

MOST_BYTES = 20 * 10**9  # of all groups on disk
LARGEST_GROUP = 2**30  # bytes of a row group, stated and decoded
BATCH_ROWS = 64  # decoded at once
BUFFER_BYTES = 2**22  # of a column, read at once


class KeptGroups:
    """The groups in a folder, by their names."""

    def __init__(self, folder: Path):
        self.folder = folder
        clear_abandoned(folder)

    def kept(self, name: str) -> pa.Table | None:
        """A group that is there, memory-mapped."""
        path = self._path(name)
        with suppress(OSError):  # another user's, or gone
            os.utime(path)  # used now
        try:
            with pa.memory_map(str(path)) as source:
                return pa.ipc.open_file(source).read_all()
        except FileNotFoundError:
            return None
        except (OSError, pa.ArrowInvalid):  # torn: it is decoded again
            with suppress(OSError):
                path.unlink()
            return None

    def keep(self, name: str, file: pq.ParquetFile, group: int) -> pa.Table:
        """Decodes a group and keeps it; returns it in memory if there is no room.

        Raises `UserError` for a group that is larger than `LARGEST_GROUP`, whatever it states.
        """
        path = self._path(name)
        with suppress(OSError):  # a full disk, or a folder of another user
            if self._makes_room(file.metadata.row_group(group).total_byte_size):
                write_atomically(path, lambda temporary: _decode(file, group, temporary))
        found = self.kept(name)
        if found is None:
            found = pa.Table.from_batches(_decoded(file, group), file.schema_arrow)
        return found

    def _makes_room(self, wanted: int) -> bool:
        """Whether there is room for a group, for which older ones may have to go."""
        self.folder.mkdir(parents=True, exist_ok=True)
        groups = sorted(_sizes(self.folder), key=lambda group: group[0])
        held = sum(size for _, size, _ in groups)
        room = min(MOST_BYTES, (shutil.disk_usage(self.folder).free + held) // 2)
        for _, size, path in groups:
            if held + wanted <= room:
                break
            path.unlink(missing_ok=True)
            held -= size
        return held + wanted <= room

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.arrow"


def _sizes(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """When each group was used last, its size, and its file."""
    for path in folder.glob("*.arrow"):
        with suppress(FileNotFoundError):  # another process has removed it
            facts = path.stat()
            yield facts.st_mtime_ns, facts.st_size, path


def _decode(file: pq.ParquetFile, group: int, path: Path) -> None:
    with pa.ipc.new_file(str(path), file.schema_arrow) as writer:
        for batch in _decoded(file, group):
            writer.write_batch(batch)


def _decoded(file: pq.ParquetFile, group: int) -> Iterator[pa.RecordBatch]:
    """A group, some rows at a time. Equal cells are stored once, so that a small file can hold
    any number of bytes: `UserError` for more than `LARGEST_GROUP`.
    """
    size = 0
    for batch in file.iter_batches(BATCH_ROWS, row_groups=[group]):
        size += batch.nbytes
        if size > LARGEST_GROUP:
            raise UserError(
                f"a row group has more than {LARGEST_GROUP / 1e9:.1f} GB when it is decoded: leave "
                "--streaming out, or write the files again with smaller ones"
            )
        yield batch
