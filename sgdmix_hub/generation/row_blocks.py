"""The blocks of one array for each row of a subset, until all of them are merged (row_store.py).

    block-00000.npy, block-00000.json    the values of a block, then its record, which marks it done

A block does not depend on the process that makes it. Records hold checksums of the values and of
themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from sgdmix_hub.data.splits import Split
from sgdmix_hub.files import DamagedFile, made_again, read_sealed, write_atomically, write_sealed
from sgdmix_hub.runtime.ranks import say
from sgdmix_hub.runtime.stopping import stop_if_requested
from sgdmix_hub.storage.stores import HERE, Store

from .numbered import Numbered
from .rows_by_need import values_digest

BLOCK_ROWS = 128
RECORD = ".json"
Block = tuple[np.ndarray, dict[str, str]]
Prepare = Callable[[], Callable[[np.ndarray], Block]]


class Blocks:
    """The blocks of a split's subset in a folder and its store. `rows`: those of each block."""

    def __init__(self, folder: Path, split: Split, store: Store = HERE):
        starts = range(0, len(split.subset), BLOCK_ROWS)
        self.rows = [split.subset[start : start + BLOCK_ROWS] for start in starts]
        self._store, self._files = store, Numbered(folder, len(self.rows))

    def __len__(self) -> int:
        return len(self.rows)

    def marker(self, number: int) -> Path:
        """A block's record; its values are beside it."""
        return self._files.path(number, f"block-{number:05d}{RECORD}")

    def settle(self) -> None:
        """As `Numbered.settle`."""
        self._files.settle(self._store)

    def bring_all(self) -> None:
        """Brings the blocks that a store lists."""
        self._store.bring_all(self._files.paths(self._store))

    def recorded(self) -> set[int]:
        """The blocks with a record, by listings, which may lack new ones."""
        return self._files.numbers(self._store, RECORD)

    def is_recorded(self, number: int) -> bool:
        return self._store.bring(self.marker(number))

    def missing(self) -> list[int]:
        """The blocks whose record is not in the folder."""
        return [number for number in range(len(self)) if not self.marker(number).exists()]

    def make(self, numbers: Iterable[int], prepare: Prepare) -> None:
        """Makes blocks one after the other. `prepare` is called if there is one: it loads what the
        computation needs, and returns a function of rows (k,) that gives their values (k, ...) and
        reasons for missing ones.
        """
        make_block = None
        for number in numbers:
            stop_if_requested()
            make_block = make_block or prepare()
            values, unusable = make_block(self.rows[number])
            marker = self.marker(number)
            write_values(marker, values)
            self._store.keep(marker.with_suffix(".npy"))
            write_sealed(marker, {"values": values_digest(values), "unusable": unusable})
            self._store.keep(marker)

    def values(self, number: int) -> np.ndarray:
        """Raises `FileNotFoundError`."""
        return np.load(self.marker(number).with_suffix(".npy"))

    def record(self, number: int) -> dict:
        """`values`: a digest; `unusable`: row -> reason. Raises `DamagedFile`."""
        return read_sealed(self.marker(number))

    def drop_values(self) -> None:
        """Deletes the values, once they are merged."""
        for number in range(len(self)):
            self.marker(number).with_suffix(".npy").unlink(missing_ok=True)

    def drop_damaged(self) -> None:
        """Reports damaged blocks, and deletes their records."""
        for number in range(len(self)):
            marker = self.marker(number)
            damage = self._damage(number) if marker.exists() else None
            if damage is not None:
                say(made_again(damage))
                marker.unlink()

    def _damage(self, number: int) -> DamagedFile | None:
        path = self.marker(number).with_suffix(".npy")
        try:
            record = self.record(number)
            whole = path.exists() and values_digest(load(path)) == record["values"]
        except DamagedFile as damage:
            return damage
        return None if whole else DamagedFile(path)

    def cut_again(self, merged: Path) -> None:
        """Splits merged values into blocks again, so that their records tell which are damaged."""
        try:
            values = load(merged)
        except (DamagedFile, FileNotFoundError):
            return
        for number, rows in enumerate(self.rows):
            start = number * BLOCK_ROWS
            write_values(self.marker(number), np.asarray(values[start : start + len(rows)]))


def load(path: Path) -> np.ndarray:
    """Memory-maps an array's file. Raises `DamagedFile`."""
    try:
        return np.load(path, mmap_mode="r")
    except Exception:  # numpy raises many types for a damaged header
        raise DamagedFile(path) from None


def save_array(path: Path, values: np.ndarray) -> None:
    """Writes an array in NumPy's format, whatever the file's name."""
    with open(path, "wb") as file:
        np.save(file, values)


def write_values(marker: Path, values: np.ndarray) -> None:
    """Writes the values of the block with this record."""
    write_atomically(marker.with_suffix(".npy"), lambda path: save_array(path, values))
