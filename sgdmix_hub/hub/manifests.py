"""manifest.json, whose long lists are in Parquet files beside it.

Readers get one dictionary, wherever its lists are. A list of at most `LONGEST_LIST` entries is in
the manifest itself. Of a longer one the manifest states the file's sha256.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sgdmix_hub._version import FORMAT, LISTS_FORMAT
from sgdmix_hub.errors import UserError, first_line, one_line, shown
from sgdmix_hub.files import file_sha256, sealed, write_sealed
from sgdmix_hub.forms import COUNT, LARGEST_FILE, SHA256, mapping, of_kind, read_formed, record
from sgdmix_hub.settings.fetched import PUBLISHED_LISTS

from .formats import MANIFEST

LONGEST_LIST = 1000  # entries
LISTS = "lists"  # the manifest's key
ROWS_AT_ONCE = 1024  # of a list, as dictionaries
GROUP_ROWS = 2**20  # of a list's row groups, as Arrow writes them


class SkippedRows(Sequence):
    """Rows with `source_index`, `variant` and `reason`, each a dictionary that is made when it is
    asked for: as a list, two million of them would take a gigabyte.
    """

    def __init__(self, table: pa.Table):
        self.table = table

    @classmethod
    def of(cls, parts: Iterable[list[dict]]) -> SkippedRows:
        """The rows of all parts, one after the other."""
        batches = [pa.RecordBatch.from_pylist(part, HELD) for part in parts if part]
        return cls(pa.Table.from_batches(batches, HELD).combine_chunks())

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, place):
        if isinstance(place, slice):
            return SkippedRows(self.table.take(pa.array(range(len(self))[place])))
        (row,) = self.table.slice(range(len(self))[place], 1).to_pylist()
        return row

    def __iter__(self) -> Iterator[dict]:
        for batch in self.table.to_batches(ROWS_AT_ONCE):
            yield from batch.to_pylist()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)


@dataclass(frozen=True)
class LongList:
    """How a list of the manifest is held in a file: its columns, those of them whose few texts are
    in memory once, and the way there and back.
    """

    schema: pa.Schema
    texts: list[str]
    table: Callable[[Any], pa.Table]
    values: Callable[[pa.Table], Any]


SKIPPED, FILES, REAL_ROWS = PUBLISHED_LISTS
NUMBERS = [("source_index", pa.int64()), ("variant", pa.int64())]
HELD = pa.schema([*NUMBERS, ("reason", pa.dictionary(pa.int32(), pa.string()))])
LONG_LISTS = {
    SKIPPED: LongList(
        pa.schema([*NUMBERS, ("reason", pa.string())]),
        ["reason"],
        lambda rows: (rows if isinstance(rows, SkippedRows) else SkippedRows.of([rows])).table,
        SkippedRows,
    ),
    FILES: LongList(
        pa.schema([("name", pa.string()), ("sha256", pa.string()), ("bytes", pa.int64())]),
        [],
        lambda files: pa.table(
            {
                "name": list(files),
                "sha256": [facts["sha256"] for facts in files.values()],
                "bytes": [facts["bytes"] for facts in files.values()],
            }
        ),
        lambda table: {row.pop("name"): row for row in table.to_pylist()},
    ),
    # of stated: one row a class, in the order of the labels
    REAL_ROWS: LongList(
        pa.schema([("real_rows", pa.int64())]),
        [],
        lambda counts: pa.table({"real_rows": counts}),
        lambda table: table["real_rows"].to_pylist(),
    ),
}
POINTER = record({"sha256": SHA256, "bytes": COUNT, "count": COUNT})
COMPACT = record(
    {
        LISTS: mapping(
            POINTER, of_kind(f"one of {', '.join(LONG_LISTS)}", lambda name: name in LONG_LISTS)
        )
    }
)


def list_path(path: Path, name: str) -> Path:
    """The file of a list, beside the manifest at `path`."""
    return path.with_name(f"{name}.parquet")


def list_paths(path: Path) -> list[Path]:
    """All files that the manifest at `path` may have beside it."""
    return [list_path(path, name) for name in LONG_LISTS]


def write_manifest(path: Path, manifest: dict) -> dict:
    """Writes a manifest to `path`, and its long lists beside it.

    Returns the manifest as it is read: with all its lists, and the files of the long ones among
    its `files`.
    """
    holders = {name: (_holder(manifest, name), name) for name in LONG_LISTS}
    long = [
        name for name, (held, key) in holders.items() if len(held.get(key) or ()) > LONGEST_LIST
    ]
    if SKIPPED not in long:
        manifest = manifest | {SKIPPED: list(manifest[SKIPPED])}
    if not long:
        write_sealed(path, manifest)
        return manifest
    compact = manifest | {"stated": dict(manifest["stated"])}
    pointers = {}
    for name in long:
        values, file = _holder(compact, name).pop(name), list_path(path, name)
        _write_list(file, LONG_LISTS[name], values)
        facts = {"sha256": file_sha256(file), "bytes": file.stat().st_size}
        pointers[name] = facts | {"count": len(values)}
    write_sealed(path, compact | {"format": LISTS_FORMAT, LISTS: pointers})
    return manifest | {"files": manifest["files"] | _list_files(path, pointers)}


def read_manifest(path: Path) -> dict:
    """A generation's manifest with all its lists.

    Raises `UserError`, also if it or a list was changed after it was written, or has a newer format
    than this version knows. Manifests of format 1 state no format.
    """
    stated = read_formed(path, record({}, {"format": COUNT})).get("format", 1)
    if stated > LISTS_FORMAT:
        raise UserError(
            f"{shown(path)} has format {stated}, this version of sgdmix_hub reads up to "
            f"{LISTS_FORMAT}: install a newer version"
        )
    manifest = read_formed(path, MANIFEST if stated < LISTS_FORMAT else COMPACT)
    if manifest != sealed(manifest):
        raise UserError(f"{shown(path)} was changed since it was written: fetch or make it again")
    if stated == LISTS_FORMAT:
        manifest = _with_lists(path, manifest)
        fault = MANIFEST(manifest)
        if fault is not None:
            raise UserError(one_line(f"{shown(path)} is not as sgdmix_hub writes it: {fault}"))
    return manifest


def _holder(manifest: dict, name: str) -> dict:
    """The dictionary that a list is in."""
    return manifest.get("stated", {}) if name == REAL_ROWS else manifest


def _list_files(path: Path, pointers: dict[str, dict]) -> dict[str, dict]:
    """sha256 and size of the lists' files, by their names in the repository."""
    folder = path.parent
    return {
        f"{folder.parent.name}/{folder.name}/{list_path(path, name).name}": {
            "sha256": facts["sha256"],
            "bytes": facts["bytes"],
        }
        for name, facts in pointers.items()
    }


def _with_lists(path: Path, compact: dict) -> dict:
    manifest = {name: value for name, value in compact.items() if name != LISTS}
    if isinstance(manifest.get("stated"), dict):
        manifest["stated"] = dict(manifest["stated"])
    for name, facts in compact[LISTS].items():
        holder = manifest.get("stated") if name == REAL_ROWS else manifest
        if isinstance(holder, dict):  # the manifest's form is checked when it is whole
            holder[name] = LONG_LISTS[name].values(_read_list(list_path(path, name), name, facts))
    if isinstance(manifest.get("files"), dict):
        manifest["files"] |= _list_files(path, compact[LISTS])
    return manifest | {"format": FORMAT}


def _write_list(path: Path, kind: LongList, values: Any) -> None:
    table = kind.table(values)
    with pq.ParquetWriter(path, kind.schema) as file:
        for start in range(0, len(table), GROUP_ROWS):
            rows = table.slice(start, GROUP_ROWS).cast(kind.schema)
            file.write_table(rows.combine_chunks())  # chunks would move the ends of pages


def _read_list(path: Path, name: str, facts: dict) -> pa.Table:
    """The rows of a list. Raises `UserError` unless its file is the one in the manifest."""
    try:
        is_stated = path.stat().st_size == facts["bytes"] and file_sha256(path) == facts["sha256"]
    except OSError as error:
        raise UserError(f"{shown(path)} cannot be read: {error.strerror}") from error
    if not is_stated:
        raise UserError(f"{shown(path)} is not the file of its manifest: fetch or make it again")
    try:
        kind = LONG_LISTS[name]
        fits = pq.read_schema(path).equals(kind.schema)
        file = pq.ParquetFile(path, read_dictionary=kind.texts if fits else None)
        fits = fits and file.metadata.num_rows == facts["count"]
        groups = range(file.metadata.num_row_groups)
        size = sum(file.metadata.row_group(group).total_byte_size for group in groups)
        rows = file.read() if fits and size <= LARGEST_FILE else None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(one_line(f"{shown(path)} is not Parquet: {first_line(error)}")) from error
    if rows is None:
        raise UserError(f"{shown(path)} is not as sgdmix_hub writes it")
    return rows
