"""manifest.json, whose long lists are in Parquet files beside it.

Readers get one dictionary, wherever its lists are. A list of at most `LONGEST_LIST` entries is in
the manifest itself. Of a longer one the manifest states the file's sha256.
"""

from __future__ import annotations

from collections.abc import Callable
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


@dataclass(frozen=True)
class LongList:
    """How a list of the manifest is held in a file: its columns, and the way there and back."""

    schema: pa.Schema
    rows: Callable[[Any], list[dict]]
    values: Callable[[list[dict]], Any]


SKIPPED, FILES, REAL_ROWS = PUBLISHED_LISTS
LONG_LISTS = {
    SKIPPED: LongList(
        pa.schema([("source_index", pa.int64()), ("variant", pa.int64()), ("reason", pa.string())]),
        list,
        list,
    ),
    FILES: LongList(
        pa.schema([("name", pa.string()), ("sha256", pa.string()), ("bytes", pa.int64())]),
        lambda files: [{"name": name, **facts} for name, facts in files.items()],
        lambda rows: {row.pop("name"): row for row in rows},
    ),
    # of stated: one row a class, in the order of the labels
    REAL_ROWS: LongList(
        pa.schema([("real_rows", pa.int64())]),
        lambda counts: [{"real_rows": count} for count in counts],
        lambda rows: [row["real_rows"] for row in rows],
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
    if not long:
        write_sealed(path, manifest)
        return manifest
    compact = manifest | {"stated": dict(manifest["stated"])}
    pointers = {}
    for name in long:
        kind = LONG_LISTS[name]
        rows = kind.rows(_holder(compact, name).pop(name))
        file = list_path(path, name)
        pq.write_table(pa.Table.from_pylist(rows, schema=kind.schema), file)
        facts = {"sha256": file_sha256(file), "bytes": file.stat().st_size}
        pointers[name] = facts | {"count": len(rows)}
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


def _read_list(path: Path, name: str, facts: dict) -> list[dict]:
    """The rows of a list. Raises `UserError` unless its file is the one in the manifest."""
    try:
        is_stated = path.stat().st_size == facts["bytes"] and file_sha256(path) == facts["sha256"]
    except OSError as error:
        raise UserError(f"{shown(path)} cannot be read: {error.strerror}") from error
    if not is_stated:
        raise UserError(f"{shown(path)} is not the file of its manifest: fetch or make it again")
    try:
        file = pq.ParquetFile(path)
        fits = file.schema_arrow.equals(LONG_LISTS[name].schema)
        fits = fits and file.metadata.num_rows == facts["count"]
        groups = range(file.metadata.num_row_groups)
        size = sum(file.metadata.row_group(group).total_byte_size for group in groups)
        rows = file.read().to_pylist() if fits and size <= LARGEST_FILE else None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(one_line(f"{shown(path)} is not Parquet: {first_line(error)}")) from error
    if rows is None:
        raise UserError(f"{shown(path)} is not as sgdmix_hub writes it")
    return rows
