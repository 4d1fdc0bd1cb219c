"""Merged values of a `RowStore` that stay in an object store, of which single blocks are read."""

from __future__ import annotations

import hashlib
import io
import math
from functools import lru_cache
from pathlib import Path

import numpy as np

from sgdmix_hub.errors import UserError
from sgdmix_hub.files import DamagedFile
from sgdmix_hub.storage.stores import Store

HEADER_BYTES = 4096
BLOCKS_IN_MEMORY = 64


def values_digest(values: np.ndarray) -> str:
    """sha256 of an array's dtype, shape and content."""
    return hashlib.sha256(
        f"{values.dtype.str} {values.shape}".encode() + values.tobytes()
    ).hexdigest()


class RowsByNeed:
    """An array (n, ...) in a `.npy` file of a store, by its rows.

    Reads blocks of `block_rows` rows, each compared with its digest, and keeps the last ones in
    memory. Threads may share it. Raises `DamagedFile` and, for a block, `UserError`.
    """

    def __init__(self, store: Store, path: Path, block_rows: int, digests: list[str]):
        self._store, self._path = store, path
        self._block_rows, self._digests = block_rows, digests
        header = io.BytesIO(store.read(path, 0, HEADER_BYTES))
        try:
            np.lib.format.read_magic(header)
            self.shape, _, self.dtype = np.lib.format.read_array_header_1_0(header)
        except ValueError:
            raise DamagedFile(path) from None
        self._start = header.tell()
        self._row_bytes = self.dtype.itemsize * math.prod(self.shape[1:])
        self._block = lru_cache(BLOCKS_IN_MEMORY)(self._read)

    @property
    def nbytes(self) -> int:
        return self.shape[0] * self._row_bytes

    def __getitem__(self, rows) -> np.ndarray:
        rows = np.asarray(rows)
        if rows.ndim == 0:
            block, place = divmod(int(rows), self._block_rows)
            return self._block(block)[place]
        values = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for place, row in enumerate(rows.tolist()):
            values[place] = self[row]
        return values

    def _read(self, block: int) -> np.ndarray:
        first = block * self._block_rows
        count = min(self._block_rows, self.shape[0] - first)
        start = self._start + first * self._row_bytes
        content = self._store.read(self._path, start, start + count * self._row_bytes)
        if len(content) == count * self._row_bytes:
            values = np.frombuffer(content, self.dtype).reshape(count, *self.shape[1:])
            if values_digest(values) == self._digests[block]:
                return values
        raise UserError(
            f"{self._path} is torn or was changed since it was written: run the same command with "
            "--stage plan, which makes it again"
        )
