"""One array for each row of a subset, on disk: computed in blocks by all processes, then merged.

    block-00000.npy, block-00000.json    the values of a block, then its record, which marks it done
    values.npy, unusable.json            the merged values, memory-mapped, then their record

A block does not depend on the process that makes it. Records hold checksums of the values and of
themselves. Damaged blocks are reported and made again; so are the blocks of damaged merged values.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sgdmix_hub.data.splits import Split
from sgdmix_hub.files import (
    DamagedFile,
    clear_abandoned,
    file_sha256,
    made_again,
    read_sealed,
    sync,
    temporary_beside,
    write_atomically,
    write_sealed,
)
from sgdmix_hub.runtime.ranks import on_rank_zero, say
from sgdmix_hub.runtime.stopping import alone, stop_if_requested, wait_for_file
from sgdmix_hub.storage.stores import HERE, Store

from .claims import claims
from .rows_by_need import RowsByNeed, values_digest

BLOCK_ROWS = 128
WHOLE_BYTES = 256 * 10**6  # values up to this size are brought whole by every worker
RECORD = re.compile(r"block-[0-9]{5,}\.json")
Block = tuple[np.ndarray, dict[str, str]]


class RowArrays(Protocol):
    """One array for each row, indexed by the split's rows."""

    def __getitem__(self, rows, /) -> np.ndarray:
        """The array of one row, or the stacked arrays of several rows."""
        ...


class FoundRows(RowArrays, Protocol):
    """Arrays by row, and `unusable`: row -> the reason why it has none."""

    @property
    def unusable(self) -> dict[int, str]: ...


class RowStore:
    """The values of a split's subset on disk, indexed by the split's rows.

    `unusable`: row -> the reason why it has no value; its value is zeros.
    """

    def __init__(self, folder: Path, split: Split, values: RowsByNeed | None = None):
        self._folder = folder
        self._values: Any = _mapped(folder) if values is None else values
        self._position = np.full(len(split.rows), -1, dtype=np.int64)
        self._position[split.subset] = np.arange(len(split.subset))
        self.unusable = {
            int(row): sys.intern(reason)  # few texts, of perhaps very many rows
            for row, reason in read_sealed(folder / "unusable.json")["unusable"].items()
        }

    def __getstate__(self) -> dict:
        """Without the values, which are mapped again: pickle would copy them."""
        return {name: value for name, value in vars(self).items() if name != "_values"}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state, _values=_mapped(state["_folder"]))

    def __getitem__(self, rows) -> np.ndarray:
        """The value of one row, or the stacked values of several rows."""
        return self._values[self._position[rows]]

    @property
    def values(self) -> np.ndarray:
        """The values of the whole subset, in its order, memory-mapped."""
        return self._values


def _mapped(folder: Path) -> np.ndarray:
    return np.load(folder / "values.npy", mmap_mode="r")


@dataclass(frozen=True)
class RowValues:
    """One array for each row in memory, indexed like a `RowStore`. `rows`: ascending."""

    rows: np.ndarray
    values: np.ndarray
    unusable: dict[int, str] = field(default_factory=dict)

    def __getitem__(self, rows) -> np.ndarray:
        return self.values[np.searchsorted(self.rows, rows)]


def compute_rows(
    folder: Path,
    split: Split,
    prepare: Callable[[], Callable[[np.ndarray], Block]],
    rank: int,
    world_size: int,
    store: Store = HERE,
) -> RowStore:
    """Opens the values in `folder`; computes what is missing. A collective.

    Every process makes its share of the blocks. Rank 0 merges them, the others wait for the result.

    `prepare` loads what the computation needs. It is called only if there are blocks to make. It
    returns a function of rows (k,) that gives their values (k, ...) and reasons for missing ones.
    """
    if store.reads_by_need:
        values = _values_by_need(folder, store)
        if values is not None:
            return RowStore(folder, split, values)

    def start() -> None:
        _bring(folder, store)
        _drop_damaged(folder, _blocks(split))

    on_rank_zero(start)
    merged = folder / "unusable.json"
    if not merged.exists():
        _compute_blocks(folder, split, prepare, rank, world_size, store)
        if rank == 0:
            _merge(folder, split)
            store.keep(folder / "values.npy")
            store.keep(merged)
        wait_for_file(merged)
    return RowStore(folder, split)


def compute_blocks(
    folder: Path,
    split: Split,
    prepare: Callable[[], Callable[[np.ndarray], Block]],
    rank: int,
    world_size: int,
    store: Store,
) -> None:
    """Makes blocks as one of several workers that share nothing but the store: its own share, then
    what the others have not made yet. `compute_rows` merges them. `prepare`: as there.
    """
    if store.bring(folder / "unusable.json"):
        return
    blocks, make_block = _blocks(split), None

    def done() -> set[int]:
        return {int(name[6:-5]) for name in store.names(folder) if RECORD.fullmatch(name)}

    def is_done(block: int) -> bool:
        return store.bring(_marker(folder, block))

    for block in claims(len(blocks), rank, world_size, done, is_done):
        stop_if_requested()
        make_block = make_block or prepare()
        _make_block(folder, blocks, block, make_block, store)


def _values_by_need(folder: Path, store: Store) -> RowsByNeed | None:
    """Merged values that are too many to bring; None if they are few, or not merged yet."""
    if not store.bring(folder / "unusable.json"):
        return None
    try:
        digests = read_sealed(folder / "unusable.json")["blocks"]
        values = RowsByNeed(store, folder / "values.npy", BLOCK_ROWS, digests)
    except (DamagedFile, FileNotFoundError):
        return None
    return values if values.nbytes > WHOLE_BYTES else None


def _bring(folder: Path, store: Store) -> None:
    """Brings the merged values from an object store, or else the blocks that are listed there."""
    if not store.is_remote:
        return
    if store.bring(folder / "unusable.json") and store.bring(folder / "values.npy"):
        return
    store.bring_all(folder / name for name in store.names(folder) if name.startswith("block-"))


def compute_alone(
    folder: Path, split: Split, prepare: Callable[[], Callable[[np.ndarray], Block]]
) -> RowStore:
    """As `compute_rows`, in one process that belongs to no launch: no collective.

    Other processes that ask for the same store meanwhile wait for it. A finished store is not
    read again to find damage.
    """
    merged = folder / "unusable.json"
    if not merged.exists():
        with alone(folder):
            if not merged.exists():
                _drop_damaged(folder, _blocks(split))
                _compute_blocks(folder, split, prepare, 0, 1)
                _merge(folder, split)
    return RowStore(folder, split)


def _blocks(split: Split) -> list[np.ndarray]:
    return [
        split.subset[start : start + BLOCK_ROWS]
        for start in range(0, len(split.subset), BLOCK_ROWS)
    ]


def _compute_blocks(
    folder: Path,
    split: Split,
    prepare: Callable,
    rank: int,
    world_size: int,
    store: Store = HERE,
) -> None:
    blocks = _blocks(split)
    mine = [b for b in range(rank, len(blocks), world_size) if not _marker(folder, b).exists()]
    if not mine:
        return
    make_block = prepare()
    for block in mine:
        stop_if_requested()
        _make_block(folder, blocks, block, make_block, store)


def _make_block(
    folder: Path,
    blocks: list[np.ndarray],
    block: int,
    make_block: Callable[[np.ndarray], Block],
    store: Store,
) -> None:
    values, unusable = make_block(blocks[block])
    marker = _marker(folder, block)
    _write_values(marker, values)
    store.keep(marker.with_suffix(".npy"))
    write_sealed(marker, {"values": values_digest(values), "unusable": unusable})
    store.keep(marker)


def _marker(folder: Path, block: int) -> Path:
    """A block's record; its values are beside it."""
    return folder / f"block-{block:05d}.json"


def _write_values(marker: Path, values: np.ndarray) -> None:
    write_atomically(marker.with_suffix(".npy"), lambda path: save_array(path, values))


def _drop_damaged(folder: Path, blocks: list[np.ndarray]) -> None:
    """Reports and deletes damaged blocks, and deletes temporary files of dead processes."""
    clear_abandoned(folder)
    merged = folder / "unusable.json"
    if merged.exists():
        damage = _damage(
            merged, lambda record: file_sha256(folder / "values.npy") == record["values"]
        )
        if damage is None:
            return
        say(made_again(damage))
        _cut_again(folder, blocks)
        merged.unlink()
    for block in range(len(blocks)):
        marker = _marker(folder, block)
        if not marker.exists():
            continue
        damage = _damage(
            marker,
            lambda record, marker=marker: (
                values_digest(_load(marker.with_suffix(".npy"))) == record["values"]
            ),
        )
        if damage is not None:
            say(made_again(damage))
            marker.unlink()


def _damage(record: Path, fits: Callable[[dict], bool]) -> DamagedFile | None:
    """The damage to values or their record, if any. `fits` compares the values with the record."""
    values = (
        record.with_name("values.npy")
        if record.name == "unusable.json"
        else record.with_suffix(".npy")
    )
    try:
        return None if values.exists() and fits(read_sealed(record)) else DamagedFile(values)
    except DamagedFile as damage:
        return damage


def _load(path: Path) -> np.ndarray:
    """Memory-maps an array's file. Raises `DamagedFile`."""
    try:
        return np.load(path, mmap_mode="r")
    except Exception:  # numpy raises many types for a damaged header
        raise DamagedFile(path) from None


def _cut_again(folder: Path, blocks: list[np.ndarray]) -> None:
    """Splits merged values into blocks again, so that their records tell which are damaged."""
    try:
        values = _load(folder / "values.npy")
    except (DamagedFile, FileNotFoundError):
        return
    for block in range(len(blocks)):
        start = block * BLOCK_ROWS
        _write_values(
            _marker(folder, block), np.asarray(values[start : start + len(blocks[block])])
        )


def save_array(path: Path, values: np.ndarray) -> None:
    """Writes an array in NumPy's format, whatever the file's name."""
    with open(path, "wb") as file:
        np.save(file, values)


def _allocate(path: Path) -> None:
    """Allocates a file on disk: writing to a memory map on a full disk kills the process."""
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _merge(folder: Path, split: Split) -> None:
    """Merges the values of all blocks, in the order of the subset."""
    blocks = _blocks(split)
    unusable: dict[str, str] = {}
    digests = []
    temporary = temporary_beside(folder / "values.npy")
    merged = None
    for number, rows in enumerate(blocks):
        marker = _marker(folder, number)
        wait_for_file(marker)
        start = number * BLOCK_ROWS
        try:
            values = np.load(marker.with_suffix(".npy"))
        except FileNotFoundError:
            if not (folder / "unusable.json").exists():
                raise
            temporary.unlink(missing_ok=True)
            return  # another run that shares the folder was faster
        if merged is None:
            shape = (len(split.subset), *values.shape[1:])
            merged = np.lib.format.open_memmap(
                temporary, mode="w+", dtype=values.dtype, shape=shape
            )
            _allocate(temporary)
        merged[start : start + len(rows)] = values
        record = read_sealed(marker)
        unusable |= record["unusable"]
        digests.append(record["values"])
    assert merged is not None, "a subset has at least one row"
    merged.flush()
    sync(temporary)
    os.replace(temporary, folder / "values.npy")
    write_sealed(
        folder / "unusable.json",
        {
            "values": file_sha256(folder / "values.npy"),
            "blocks": digests,
            "unusable": unusable,
        },
    )
    for number in range(len(blocks)):
        _marker(folder, number).with_suffix(".npy").unlink(missing_ok=True)
