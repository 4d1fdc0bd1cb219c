"""One array for each row of a subset, on disk: computed in blocks by all processes, then merged.

    values.npy, unusable.json    the merged values, memory-mapped, then their record

The record holds checksums of the values and of itself. Damaged blocks are reported and made
again; so are the blocks of damaged merged values.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
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
    write_sealed,
)
from sgdmix_hub.runtime.ranks import Rank, on_rank_zero, say, wait_for_everyone
from sgdmix_hub.runtime.stopping import alone, wait_for_file
from sgdmix_hub.seeds import RandomStream, generator
from sgdmix_hub.storage.stores import HERE, Store

from . import row_blocks
from .claims import Order, claims, order_of
from .row_blocks import Blocks, Prepare
from .rows_by_need import RowsByNeed

SAMPLED_BLOCKS = 32  # of values of which a part was made
WHOLE_BYTES = 256 * 10**6  # values up to this size are brought whole by every worker


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
    prepare: Prepare,
    rank: int,
    world_size: int,
    store: Store = HERE,
) -> RowStore:
    """Opens the values in `folder`; computes what is missing. A collective.

    Every process makes its share of the blocks. Rank 0 merges them, the others wait for the result.
    `prepare`: as of `Blocks.make`; called only if there are blocks to make.
    """
    if store.reads_by_need:
        values = _values_by_need(folder, store)
        if values is not None:
            return RowStore(folder, split, values)
    blocks = Blocks(folder, split, store)

    def start() -> None:
        _bring(folder, blocks, store)
        _drop_damaged(folder, blocks)

    on_rank_zero(start)
    merged = folder / "unusable.json"
    if not merged.exists():
        _make_share(blocks, prepare, rank, world_size)
        if rank == 0:
            _merge(folder, blocks)
            store.keep(folder / "values.npy")
            store.keep(merged)
        wait_for_file(merged)
    return RowStore(folder, split)


def compute_blocks(
    folder: Path,
    split: Split,
    prepare: Prepare,
    rank: int,
    world_size: int,
    store: Store,
    order: Order = order_of,
) -> None:
    """Makes blocks as one of several workers that share nothing but the store: its own share, then
    what the others have not made yet. `compute_rows` merges them. `prepare`: as there.
    """
    if store.bring(folder / "unusable.json"):
        return
    blocks = Blocks(folder, split, store)
    blocks.settle()
    blocks.make(
        claims(len(blocks), rank, world_size, blocks.recorded, blocks.is_recorded, order), prepare
    )


@dataclass(frozen=True)
class BegunRows:
    """Values of which a part was made. `sample`: some of them.

    `made`: blocks of `count`; `seconds`: that this process took for one.
    """

    sample: RowValues
    made: int
    count: int
    seconds: float


def begin_rows(
    folder: Path, split: Split, prepare: Prepare, rank: Rank, store: Store, seconds: float
) -> BegunRows | None:
    """Makes blocks for some seconds, two on every rank at least, drawn from those that are missing.
    None if all are made then, for `compute_rows` to merge. A collective.
    """
    blocks = Blocks(folder, split, store)

    def start() -> list[int]:
        _bring(folder, blocks, store)
        _drop_damaged(folder, blocks)
        return [] if (folder / "unusable.json").exists() else blocks.missing()

    missing = on_rank_zero(start)
    order = generator(RandomStream.CLAIMS, rank.index).permutation(
        missing[rank.index :: rank.count]
    )
    times: list[float] = []
    blocks.make(_for_seconds(order.tolist(), seconds, times), prepare)
    wait_for_everyone()
    missing = on_rank_zero(blocks.missing) if missing else []
    if not missing:
        return None
    made = np.setdiff1d(np.arange(len(blocks)), missing)
    drawn = np.sort(generator(RandomStream.CLAIMS, 0).permutation(made)[:SAMPLED_BLOCKS])
    warm = times[1:] if len(times) > 2 else times
    spent = (warm[-1] - warm[0]) / max(len(warm) - 1, 1)
    return BegunRows(_in_memory(blocks, drawn.tolist()), len(made), len(blocks), spent)


def _in_memory(blocks: Blocks, numbers: list[int]) -> RowValues:
    """The values of finished blocks, ascending."""
    unusable: dict[int, str] = {}
    for number in numbers:
        reasons = blocks.record(number)["unusable"]
        unusable |= {int(row): reason for row, reason in reasons.items()}
    rows = np.concatenate([blocks.rows[number] for number in numbers])
    return RowValues(rows, np.concatenate(list(map(blocks.values, numbers))), unusable)


def _for_seconds(numbers: list[int], seconds: float, times: list[float]) -> Iterator[int]:
    """The first two numbers, and more until that time has passed since the first was done. `times`:
    gets the moments between them; the first block warms up.
    """
    for number in numbers:
        times.append(time.monotonic())
        if len(times) > 2 and times[-1] - times[1] > seconds:
            return
        yield number
    times.append(time.monotonic())


def _values_by_need(folder: Path, store: Store) -> RowsByNeed | None:
    """Merged values that are too many to bring; None if they are few, or not merged yet."""
    if not store.bring(folder / "unusable.json"):
        return None
    try:
        digests = read_sealed(folder / "unusable.json")["blocks"]
        values = RowsByNeed(store, folder / "values.npy", row_blocks.BLOCK_ROWS, digests)
    except (DamagedFile, FileNotFoundError):
        return None
    return values if values.nbytes > WHOLE_BYTES else None


def _bring(folder: Path, blocks: Blocks, store: Store) -> None:
    """Brings the merged values from an object store, or else the blocks that are listed there."""
    if not store.is_remote:
        return
    if store.bring(folder / "unusable.json") and store.bring(folder / "values.npy"):
        return
    blocks.bring_all()


def compute_alone(folder: Path, split: Split, prepare: Prepare) -> RowStore:
    """As `compute_rows`, in one process that belongs to no launch: no collective.

    Other processes that ask for the same store meanwhile wait for it. A finished store is not
    read again to find damage.
    """
    merged = folder / "unusable.json"
    if not merged.exists():
        with alone(folder):
            if not merged.exists():
                blocks = Blocks(folder, split)
                _drop_damaged(folder, blocks)
                _make_share(blocks, prepare, 0, 1)
                _merge(folder, blocks)
    return RowStore(folder, split)


def _make_share(blocks: Blocks, prepare: Prepare, rank: int, world_size: int) -> None:
    blocks.make([n for n in blocks.missing() if n % world_size == rank], prepare)


def _drop_damaged(folder: Path, blocks: Blocks) -> None:
    """Reports and deletes damaged values, and deletes temporary files of dead processes."""
    clear_abandoned(folder)
    merged = folder / "unusable.json"
    if merged.exists():
        damage = _damage(folder, merged)
        if damage is None:
            return
        say(made_again(damage))
        blocks.settle()
        blocks.cut_again(folder / "values.npy")
        merged.unlink()
    blocks.settle()
    blocks.drop_damaged()


def _damage(folder: Path, merged: Path) -> DamagedFile | None:
    """The damage to merged values or their record, if any."""
    values = folder / "values.npy"
    try:
        whole = values.exists() and file_sha256(values) == read_sealed(merged)["values"]
    except DamagedFile as damage:
        return damage
    return None if whole else DamagedFile(values)


def _allocate(path: Path) -> None:
    """Allocates a file on disk: writing to a memory map on a full disk kills the process."""
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _merge(folder: Path, blocks: Blocks) -> None:
    """Merges the values of all blocks, in the order of the subset."""
    unusable: dict[str, str] = {}
    digests = []
    temporary = temporary_beside(folder / "values.npy")
    merged, end = None, 0
    for number, rows in enumerate(blocks.rows):
        wait_for_file(blocks.marker(number))
        start, end = end, end + len(rows)
        try:
            values = blocks.values(number)
        except FileNotFoundError:
            if not (folder / "unusable.json").exists():
                raise
            temporary.unlink(missing_ok=True)
            return  # another run that shares the folder was faster
        if merged is None:
            shape = (sum(map(len, blocks.rows)), *values.shape[1:])
            merged = np.lib.format.open_memmap(
                temporary, mode="w+", dtype=values.dtype, shape=shape
            )
            _allocate(temporary)
        merged[start:end] = values
        record = blocks.record(number)
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
    blocks.drop_values()
