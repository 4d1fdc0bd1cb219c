"""The rows of a published version one after the other, without having its files on this machine.

A shard is fetched when its rows are asked for, compared with the manifest, and removed behind
them. Nothing else is downloaded.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, IterableDataset

from sgdmix_hub.errors import UserError, first_line, one_line
from sgdmix_hub.hub.pins import Pin

from .checks import check_features, check_values, image_columns
from .fetching import fetch_described, manifest_of
from .layout import RepoLayout
from .version_files import VersionFiles, checked, schema_of

ROWS_AT_ONCE = 100


@dataclass(frozen=True)
class StreamedRows:
    """A version that is read shard by shard: its pin, its manifest, its rows.

    `dataset`: the rows with the columns of `load_published(...).dataset`. Every process of a
    `DataLoader` reads its own shards.
    """

    pin: Pin
    manifest: dict
    dataset: IterableDataset


@dataclass(frozen=True)
class Shelf:
    """What reading a version's shards takes. Pickled to the workers of a `DataLoader`."""

    pin: Pin
    manifest: dict
    files: VersionFiles
    features: Features

    def rows(self, shards: list[str]) -> Iterator[dict]:
        """The rows of shards, with images as bytes. Raises `UserError`."""
        for name in shards:
            facts = self.manifest["files"][name]
            with checked(self.files, name, facts, self.pin.name) as path:
                try:
                    yield from self._rows_of(pq.ParquetFile(path), name)
                except (OSError, ValueError, pa.ArrowException) as error:
                    reason = one_line(first_line(error))
                    raise UserError(f"cannot load {name} of {self.pin.name}: {reason}") from error

    def _rows_of(self, file: pq.ParquetFile, name: str) -> Iterator[dict]:
        if Features.from_arrow_schema(file.schema_arrow) != self.features:
            raise UserError(f"{self.pin.name}: {name} has other columns than the first shard")
        images = image_columns(self.features)
        for batch in file.iter_batches(ROWS_AT_ONCE):
            table = pa.Table.from_batches([batch])
            check_values(self.pin, table, self.features, self.manifest)
            for row in table.to_pylist():
                yield row | {image: row[image] | {"path": None} for image in images}


def stream_version(name_at_revision: str, config_name: str) -> StreamedRows:
    """As `load_published` with `streaming`. Raises `UserError`."""
    with tempfile.TemporaryDirectory() as place:
        pin, folder, files = fetch_described(name_at_revision, config_name, Path(place))
        manifest = manifest_of(pin.name, folder, RepoLayout(config_name))
        return open_stream(pin, manifest, files, config_name)


def open_stream(pin: Pin, manifest: dict, files: VersionFiles, config_name: str) -> StreamedRows:
    """A version whose manifest is here and whose shards are not. Raises `UserError`."""
    shards = shards_of(pin, manifest, config_name)
    schema = schema_of(files, shards[0], manifest["files"][shards[0]], pin.name)
    features = Features.from_arrow_schema(schema)
    check_features(pin, features, manifest)
    shelf = Shelf(pin, manifest, files, features)
    rows = IterableDataset.from_generator(
        shelf.rows, features=features, gen_kwargs={"shards": shards}
    )
    return StreamedRows(pin, manifest, rows)


def shards_of(pin: Pin, manifest: dict, config_name: str) -> list[str]:
    """The shards that a manifest lists. Raises `UserError` unless they are all of a version."""
    layout = RepoLayout(config_name)
    start = layout.shards.removesuffix("*")
    found = sorted(name for name in manifest["files"] if name.startswith(start))
    if not found or found != [layout.shard(number, len(found)) for number in range(len(found))]:
        raise UserError(f"{pin.name}: its manifest does not list every shard")
    return found
