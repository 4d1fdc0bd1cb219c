"""One array a row of a subset, on disk: made in blocks by any number of processes, merged once, memory-mapped.

A block is the same whatever process makes it, and its `.json` is written last: it is the block's done-marker.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .data import Split
from .files import read_json, write_atomically, write_json
from .processes import stop_if_requested, wait_for_file

BLOCK_ROWS = 128
Block = tuple[np.ndarray, dict[str, str]]


class RowStore:
    """The values of a split's subset, indexed by the split's rows; `unusable` maps a row to the reason why it has none (zeros)."""

    def __init__(self, folder: Path, split: Split):
        self._values = np.load(folder / "values.npy", mmap_mode="r")
        self._position = np.full(len(split.rows), -1, dtype=np.int64)
        self._position[split.subset] = np.arange(len(split.subset))
        self.unusable = {int(row): reason for row, reason in read_json(folder / "unusable.json").items()}

    def __getitem__(self, rows) -> np.ndarray:
        """The value of one row, or the stacked values of an array of rows."""
        return self._values[self._position[rows]]

    @property
    def values(self) -> np.ndarray:
        """The values of the whole subset in its order, memory-mapped."""
        return self._values


@dataclass(frozen=True)
class RowValues:
    """One array a row, in memory, indexed by the split's rows as a `RowStore` is; `rows` is ascending."""

    rows: np.ndarray
    values: np.ndarray
    unusable: dict[int, str] = field(default_factory=dict)

    def __getitem__(self, rows) -> np.ndarray:
        return self.values[np.searchsorted(self.rows, rows)]


def compute_rows(folder: Path, split: Split, prepare: Callable[[], Callable[[np.ndarray], Block]], rank: int, world_size: int) -> RowStore:
    """The store in `folder`, made where it is missing: every process makes its blocks, rank 0 merges, the others wait for the merged file.

    `prepare` loads what making blocks needs, and is called where there is a block to make alone; what it returns gives, for the rows of
    a block, their values (k, ...) and the reasons for rows without one.
    """
    if not (folder / "unusable.json").exists():
        _compute_blocks(folder, split, prepare, rank, world_size)
        if rank == 0:
            _merge(folder, split)
        wait_for_file(folder / "unusable.json")
    return RowStore(folder, split)


def _blocks(split: Split) -> list[np.ndarray]:
    return [split.subset[start : start + BLOCK_ROWS] for start in range(0, len(split.subset), BLOCK_ROWS)]


def _compute_blocks(folder: Path, split: Split, prepare: Callable, rank: int, world_size: int) -> None:
    blocks = _blocks(split)
    mine = [b for b in range(rank, len(blocks), world_size) if not (folder / f"block-{b:05d}.json").exists()]
    if not mine:
        return
    make_block = prepare()
    for block in mine:
        stop_if_requested()
        values, unusable = make_block(blocks[block])
        write_atomically(folder / f"block-{block:05d}.npy", lambda path, values=values: _save_array(path, values))
        write_json(folder / f"block-{block:05d}.json", unusable)


def _save_array(path: Path, values: np.ndarray) -> None:
    with open(path, "wb") as file:
        np.save(file, values)


def _take_room(path: Path) -> None:
    """Has the file system set a file's whole length aside: a full disk that is met through a memory map kills the process."""
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _merge(folder: Path, split: Split) -> None:
    blocks = _blocks(split)
    unusable: dict[str, str] = {}
    temporary = folder / f".values.{os.getpid()}.tmp"
    merged = None
    for number, rows in enumerate(blocks):
        marker = folder / f"block-{number:05d}.json"
        wait_for_file(marker)
        start = number * BLOCK_ROWS
        try:
            values = np.load(marker.with_suffix(".npy"))
        except FileNotFoundError:
            if not (folder / "unusable.json").exists():
                raise
            temporary.unlink(missing_ok=True)
            return  # another run that shares the folder has merged them
        if merged is None:
            shape = (len(split.subset), *values.shape[1:])
            merged = np.lib.format.open_memmap(temporary, mode="w+", dtype=values.dtype, shape=shape)
            _take_room(temporary)
        merged[start : start + len(rows)] = values
        unusable |= read_json(marker)
    merged.flush()
    os.replace(temporary, folder / "values.npy")
    write_json(folder / "unusable.json", unusable)
    for number in range(len(blocks)):
        (folder / f"block-{number:05d}.npy").unlink(missing_ok=True)
