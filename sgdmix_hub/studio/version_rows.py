"""The rows of a version, read by need: those of a page from their row groups, and the numbers of
all rows when something is filtered or sorted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from sgdmix_hub.data.splits import decode_image
from sgdmix_hub.errors import Unusable, UnusableImage, UserError, first_line, shown
from sgdmix_hub.publishing.layout import shard_features

from .places import Place
from .shard_files import VersionFile

KEY = ("source_index", "variant")  # what names a row in every version
IMAGES = ("image", "mask", "mixed")  # columns; a stranger's version may have more
MOST_NUMBERS = 40  # columns; an evaluated version has 18
NEEDED = {"label": "int", "source_index": "int", "target_index": "int", "variant": "int"}
LARGEST_GROUP = 2**30  # bytes; ours hold 100 rows
GROUPS_KEPT = 8  # row groups from the Hub in memory: a page has as many rows
AT_ONCE = 8  # files that are read from the Hub at the same time
DAMAGED = "its file is not the one that was published"


class VersionRows:
    """The n rows of a version, by their positions 0 ... n - 1.

    Images, prompts and numbers of a row are read when they are asked for, one row group at a time.
    `names`: the columns of numbers. `columns`: those of all rows, (n,) each.
    """

    def __init__(self, place: Place):
        """Reads the first footer. Raises `UserError` if these are no shards of sgdmix_hub."""
        self.place = place
        # a run without a finished shard has the columns that it will have
        self.features = _features(place.files[0]) if place.files else shard_features([], ())
        self.class_names: list[str] = self.features["label"].names
        self.names = _number_columns(self.features)
        self._groups: list[tuple[VersionFile, int]] = []
        self._ends: list[int] = []
        self._unopened = list(place.files)
        self._columns: dict[str, np.ndarray] | None = None
        self._position: dict[tuple[int, int], int] | None = None
        self._group = lru_cache(GROUPS_KEPT)(self._read_group)
        if not place.is_read_by_need:
            self._open_until(None)

    def __len__(self) -> int:
        if self._unopened and self.place.rows is not None:
            return self.place.rows
        return self._ends[-1] if self._ends else 0

    @property
    def numbers(self) -> list[str]:
        """The columns to filter and sort by: numbers that are no class."""
        return [name for name in self.names if not isinstance(self.features[name], ClassLabel)]

    @property
    def images(self) -> list[str]:
        """The columns of images that are shown."""
        return [name for name in IMAGES if isinstance(self.features.get(name), ImageFeature)]

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The numbers of all rows, read when they are first needed. Raises `UserError`."""
        self.read_all_numbers()
        assert self._columns is not None
        return self._columns

    @property
    def has_numbers(self) -> bool:
        """Whether the numbers of all rows are in memory."""
        return self._columns is not None

    def read_numbers(self) -> Iterator[int]:
        """Reads the numbers of all rows, if that was not done; yields how many files were read.
        Raises `UserError`.
        """
        if self._columns is not None:
            return
        tables = []
        with ThreadPoolExecutor(AT_ONCE if self.place.is_read_by_need else 1) as pool:
            for table in pool.map(lambda file: _numbers(file, self.names), self.place.files):
                tables.append(table)
                yield len(tables)
        self._open_until(None)
        table = _joined(self.place, tables) or self.features.arrow_schema.empty_table().select(
            self.names
        )
        self._check(table)
        if len(table) != len(self):
            raise UserError(f"{self.place.name}: its files hold other rows than they state")
        self._columns = {name: table.column(name).to_numpy() for name in self.names}

    def read_all_numbers(self) -> None:
        """Reads the numbers of all rows, if that was not done. Raises `UserError`."""
        for _ in self.read_numbers():
            pass

    def may_have(self, key: tuple[int, int]) -> bool:
        """Whether the version has a row, or cannot tell without reading more."""
        return not self.has_numbers or self.position_of(key) is not None

    def position_of(self, key: tuple[int, int]) -> int | None:
        """The row of a source_index and variant, if the version has it. Needs all numbers."""
        if self._position is None:
            pairs = zip(*(self.columns[name].tolist() for name in KEY), strict=True)
            self._position = {pair: position for position, pair in enumerate(pairs)}
        return self._position.get(key)

    def read(self, positions: Iterable[int]) -> dict[int, dict[str, Any]]:
        """Rows by their positions: column -> RGB image, `Unusable`, text or number. Raises
        `UserError`.
        """
        found = {}
        for position in positions:
            number = self._holding(position)
            table, file = self._group(number), self._groups[number][0]
            (row,) = table.slice(position - (self._ends[number] - len(table)), 1).to_pylist()
            found[position] = {
                name: self._cell(name, cell, file.is_damaged) for name, cell in row.items()
            }
        return found

    def _cell(self, name: str, cell: Any, is_damaged: bool) -> Any:
        if name not in self.images:
            return cell
        return Unusable(DAMAGED) if is_damaged else _decoded(cell)

    def _holding(self, position: int) -> int:
        """The number of the row group that holds a row. Raises `UserError`."""
        self._open_until(position)
        return int(np.searchsorted(self._ends, position, side="right"))

    def _open_until(self, position: int | None) -> None:
        """Opens files, in their order, until one holds a row; all if None. Raises `UserError`."""
        while self._unopened and (position is None or position >= self._end):
            file = self._unopened.pop(0)
            metadata = file.opened().metadata
            for group in range(metadata.num_row_groups):
                self._groups.append((file, group))
                self._ends.append(self._end + metadata.row_group(group).num_rows)

    @property
    def _end(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _read_group(self, number: int) -> pa.Table:
        """Numbers, images and prompts of a row group. Raises `UserError`."""
        file, group = self._groups[number]
        texts = [name for name in ("prompt",) if name in self.features]
        names = [*self.names, *self.images, *texts]
        asked = [f"{name}.bytes" if name in self.images else name for name in names]

        def read(opened: pq.ParquetFile) -> pa.Table:
            size = opened.metadata.row_group(group).total_byte_size
            if size > LARGEST_GROUP:
                raise UserError(f"{file.name}: a row group of {size / 1e9:.1f} GB is not read")
            return opened.read_row_group(group, columns=asked).select(names)

        table = file.read(read)
        self._check(table)
        return table

    def _check(self, table: pa.Table) -> None:
        """Raises `UserError` for numbers that no generation writes."""
        if not len(table):
            return
        for name in NEEDED:
            if table.column(name).null_count:
                raise UserError(f"{self.place.name}: column {name} has rows without a value")
            if table.column(name).to_numpy().min() < 0:
                raise UserError(f"{self.place.name}: column {name} holds values below 0")
        if table.column("label").to_numpy().max() >= len(self.class_names):
            raise UserError(f"{self.place.name}: column label holds values that are not classes")


def _features(file: VersionFile) -> Features:
    """The columns of a shard. Raises `UserError`."""
    schema = file.opened().schema_arrow
    try:
        features = Features.from_arrow_schema(schema)
    except (ValueError, TypeError, KeyError, AttributeError, json.JSONDecodeError) as error:
        raise UserError(f"{file.name}: its columns cannot be read: {first_line(error)}") from None
    if not isinstance(features.get("label"), ClassLabel) or not isinstance(
        features.get("image"), ImageFeature
    ):
        raise UserError(f"{file.name} has no columns image and label as sgdmix_hub publishes them")
    for name, kind in NEEDED.items():
        if not isinstance(features.get(name), (Value, ClassLabel)) or not features[
            name
        ].dtype.startswith(kind):
            raise UserError(f"{file.name} has no column {name} as sgdmix_hub publishes it")
    return features


def _number_columns(features: Features) -> list[str]:
    """The columns of numbers and classes, of which a stranger's shard may have many."""
    names = [
        name
        for name, kind in features.items()
        if isinstance(kind, (Value, ClassLabel)) and kind.dtype.startswith(("int", "float"))
    ][:MOST_NUMBERS]
    return list(dict.fromkeys([*NEEDED, *names]))


def _numbers(file: VersionFile, names: list[str]) -> pa.Table:
    """Columns of a shard. Raises `UserError` unless each of them is there, and once."""
    return file.read(lambda opened: opened.read(columns=names).select(names))


def _joined(place: Place, tables: list[pa.Table]) -> pa.Table | None:
    """The rows of all shards; None if there is no shard. Raises `UserError`."""
    try:
        return pa.concat_tables(tables) if tables else None
    except pa.ArrowException as error:
        raise UserError(f"{place.name}: its shards differ: {first_line(error)}") from None


def _decoded(cell: dict | None) -> Image.Image | Unusable:
    """An image from the bytes in its cell; a path in a cell is never opened."""
    content = None if cell is None else cell.get("bytes")
    if content is None:
        return Unusable("no image")
    try:
        return decode_image({"bytes": content, "path": None})
    except UnusableImage as error:
        return Unusable(shown(str(error)))
