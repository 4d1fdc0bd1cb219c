"""The rows of a published version by their positions, for a process that needs a part of them.

A file is on this machine and in memory while its rows are asked for, compared with the manifest
before the first of them. Whoever asks in the order of the rows fetches every file once.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features
from PIL import Image

from sgdmix_hub.data.splits import Split
from sgdmix_hub.errors import UserError, first_line, one_line
from sgdmix_hub.hub.pins import Pin

from .checks import check_features, check_values
from .read import PublishedRows
from .streamed import shards_of
from .version_files import VersionFiles, checked, metadata_of


class RowsByFile:
    """As `PublishedRows`, of which one file is here. `len`: the rows of all."""

    def __init__(self, pin: Pin, manifest: dict, files: VersionFiles, config_name: str):
        """Reads the end of every file. Raises `UserError`."""
        self.pin, self.manifest = pin, manifest
        self._files, self._names = files, shards_of(pin, manifest, config_name)
        ends = [metadata_of(files, name, manifest["files"][name], pin.name) for name in self._names]
        self._starts = [0, *accumulate(end.num_rows for end in ends)]
        if len(self) != manifest["rows"]:
            raise UserError(
                f"{pin.name} has {len(self)} rows, its manifest says {manifest['rows']}: "
                "this is not what was published"
            )
        self.features = Features.from_arrow_schema(ends[0].schema.to_arrow_schema())
        check_features(pin, self.features, manifest)
        self._made_from: tuple[Split, dict] | None = None
        self._here: tuple[int, PublishedRows] | None = None  # the file that is in memory

    def __len__(self) -> int:
        return self._starts[-1]

    def check_made_from(self, split: Split, subset: dict) -> None:
        """As `PublishedRows.check_made_from`, for every file before its first row is returned."""
        self._made_from, self._here = (split, subset), None

    def image(self, position: int) -> Image.Image:
        """As `PublishedRows.image`. Raises `UserError`."""
        rows, place = self._find(position)
        return rows.image(place)

    def source(self, position: int) -> int:
        """The source row that a row was made from. Raises `UserError`."""
        rows, place = self._find(position)
        return rows.source(place)

    def _find(self, position: int) -> tuple[PublishedRows, int]:
        number = bisect_right(self._starts, position) - 1
        if self._here is None or self._here[0] != number:
            self._here = None  # two files do not fit into memory
            self._here = (number, self._read(number))
        return self._here[1], position - self._starts[number]

    def _read(self, number: int) -> PublishedRows:
        name = self._names[number]
        with checked(self._files, name, self.manifest["files"][name], self.pin.name) as path:
            try:
                table = pq.read_table(path, memory_map=False)
                features = Features.from_arrow_schema(table.schema)
            except (OSError, ValueError, pa.ArrowException) as error:
                reason = one_line(first_line(error))
                raise UserError(f"cannot load {name} of {self.pin.name}: {reason}") from error
        start, end = self._starts[number : number + 2]
        if features != self.features or len(table) != end - start:
            raise UserError(f"{self.pin.name}: {name} is not what was published")
        check_values(self.pin, table, features, self.manifest)
        rows = PublishedRows(self.pin, Dataset(table), self.manifest)
        if self._made_from is not None:
            rows.check_made_from(*self._made_from)
        return rows
