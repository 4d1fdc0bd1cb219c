"""The rows of a version, read by need: numbers at once, images when they are shown.

A version is a repository on the Hub, its folder, or the output folder of a generation, whose
finished shards are read while others are being made.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from sgdmix_hub.data.splits import decode_image
from sgdmix_hub.errors import Unusable, UnusableImage, UserError, first_line, shown
from sgdmix_hub.files import DamagedFile, read_sealed
from sgdmix_hub.generation.plan_file import begun_run, has_begun
from sgdmix_hub.generation.repository import is_as_stated
from sgdmix_hub.hub.manifests import read_manifest
from sgdmix_hub.output_folder import OutputFolder
from sgdmix_hub.publishing.fetching import fetch_version
from sgdmix_hub.publishing.layout import RepoLayout, shard_features
from sgdmix_hub.publishing.read import shards_in
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.parsing import parse_settings
from sgdmix_hub.settings.presets import apply_preset

KEY = ("source_index", "variant")  # what names a row in every version
IMAGES = ("image", "mask", "mixed")  # columns; a stranger's version may have more
MOST_NUMBERS = 40  # columns; an evaluated version has 18
NEEDED = {"label": "int", "source_index": "int", "target_index": "int", "variant": "int"}


@dataclass(frozen=True)
class Place:
    """Where the files of a version are, and how it was made.

    `planned`: rows that a run makes, if it is not finished. `pins`, `settings`: those of the
    generation; `config`: its file, unless the run is not finished.
    """

    name: str
    shards: list[Path]
    pins: dict[str, str]
    planned: int | None = None
    config: Path | None = None
    begun: dict[str, Any] | None = None

    def settings(self) -> AugmentSettings:
        """The settings of the generation, with their preset applied. Raises `UserError`."""
        if self.config is None:
            values = dict(self.begun or {})
            return apply_preset(AugmentSettings(**values, output_dir="outputs"))
        words = ["--config", str(self.config), "--output_dir=outputs"]
        return apply_preset(parse_settings(AugmentSettings, words))


def place_of(name: str, config_name: str) -> Place:
    """Finds a version. Raises `UserError`."""
    output = OutputFolder(name)
    if os.path.isdir(name) and not output.repo.is_dir() and has_begun(output.state):
        return _unfinished(name, output)
    asked = str(output.repo) if output.repo.is_dir() else name
    pin, folder = fetch_version(asked, config_name)
    layout = RepoLayout(config_name)
    if not (folder / layout.manifest).is_file():
        raise UserError(f"{pin.name} holds no augmented dataset: {layout.manifest} is missing")
    manifest, names = read_manifest(folder / layout.manifest), shards_in(folder, config_name)
    strange = [name for name in names if name not in manifest["files"]]
    lacking = [
        name
        for name, facts in manifest["files"].items()
        if name.endswith(".parquet") and not is_as_stated(folder / name, facts, by_bytes=False)
    ]
    if strange or lacking:
        listed = ", ".join([*lacking, *strange][:3])
        raise UserError(f"{pin.name}: {listed} missing or not the published files")
    shown_as = name if not os.path.isdir(name) else Path(name).resolve().name
    return Place(
        shown_as,
        [folder / name for name in names],
        manifest["pins"],
        config=folder / layout.config,
    )


def _unfinished(name: str, output: OutputFolder) -> Place:
    """The finished shards of a run that goes on, or that was stopped."""
    begun = begun_run(output.state)["settings"]
    plan = output.state / "plan.parquet"
    planned = pq.ParquetFile(plan).metadata.num_rows if plan.exists() else None
    shards = []
    for record in sorted(output.shards.glob("shard-*.json")):
        try:
            read_sealed(record)
        except (DamagedFile, FileNotFoundError):
            continue  # the run makes it again
        shards.append(record.with_suffix(".parquet"))
    pins = {name: value for name, value in begun.items() if "@" in str(value)}
    return Place(Path(name).resolve().name, shards, pins, planned=planned or 0, begun=begun)


class VersionRows:
    """The n rows of a version, by their positions 0 ... n - 1.

    `columns`: the numbers of every row, (n,) each. Images and prompts are read when they are asked
    for, one row group at a time.
    """

    def __init__(self, place: Place):
        """Reads the numbers. Raises `UserError` if these are no shards of sgdmix_hub."""
        self.place = place
        groups, tables = [], []
        # a run without a finished shard has the columns that it will have
        features = _features(place.shards[0]) if place.shards else shard_features([], ())
        names = _number_columns(features)
        for path in place.shards:
            tables.append(_numbers(path, names))
            metadata = _opened(path).metadata
            groups += [
                (path, group, metadata.row_group(group).num_rows)
                for group in range(metadata.num_row_groups)
            ]
        self.features, self.class_names = features, features["label"].names
        self._groups = [(path, group) for path, group, _ in groups]
        self._ends = np.cumsum([rows for *_, rows in groups])
        table = _joined(place, tables) or features.arrow_schema.empty_table().select(names)
        self._check(table)
        self.columns = {name: table.column(name).to_numpy() for name in names}
        self._position: dict[tuple[int, int], int] | None = None

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def numbers(self) -> list[str]:
        """The columns to filter and sort by: numbers that are no class."""
        kinds = self.features
        return [name for name in self.columns if not isinstance(kinds[name], ClassLabel)]

    @property
    def images(self) -> list[str]:
        """The columns of images that are shown."""
        return [name for name in IMAGES if isinstance(self.features.get(name), ImageFeature)]

    def key(self, position: int) -> tuple[int, int]:
        """source_index and variant of a row."""
        source, variant = (int(self.columns[name][position]) for name in KEY)
        return source, variant

    def position_of(self, key: tuple[int, int]) -> int | None:
        """The row of a source_index and variant, if the version has it."""
        if self._position is None:
            pairs = zip(*(self.columns[name].tolist() for name in KEY), strict=True)
            self._position = {pair: position for position, pair in enumerate(pairs)}
        return self._position.get(key)

    def read(self, positions: Iterable[int]) -> dict[int, dict[str, Any]]:
        """Images and prompts of rows: position -> column -> RGB image, `Unusable` or text."""
        wanted: dict[int, list[int]] = {}
        for position in positions:
            group = int(np.searchsorted(self._ends, position, side="right"))
            wanted.setdefault(group, []).append(position)
        found = {}
        names = [f"{name}.bytes" for name in self.images]
        names += [name for name in ("prompt",) if name in self.features]
        for number, members in wanted.items():
            path, group = self._groups[number]
            table = _opened(path).read_row_group(group, columns=names)
            first = int(self._ends[number]) - len(table)
            for position in members:
                (row,) = table.slice(position - first, 1).to_pylist()
                found[position] = {
                    name: _decoded(cell) if name in self.images else cell
                    for name, cell in row.items()
                }
        return found

    def _check(self, table: pa.Table) -> None:
        """Raises `UserError` for numbers that no generation writes."""
        if not len(self):
            return
        for name in NEEDED:
            if table.column(name).null_count:
                raise UserError(f"{self.place.name}: column {name} has rows without a value")
            if table.column(name).to_numpy().min() < 0:
                raise UserError(f"{self.place.name}: column {name} holds values below 0")
        if table.column("label").to_numpy().max() >= len(self.class_names):
            raise UserError(f"{self.place.name}: column label holds values that are not classes")


def _opened(path: Path) -> pq.ParquetFile:
    """Raises `UserError`."""
    try:
        return pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path.name} cannot be read: {first_line(error)}") from None


def _features(path: Path) -> Features:
    """The columns of a shard. Raises `UserError`."""
    try:
        features = Features.from_arrow_schema(_opened(path).schema_arrow)
    except (ValueError, TypeError, KeyError, AttributeError, json.JSONDecodeError) as error:
        raise UserError(f"{path.name}: its columns cannot be read: {first_line(error)}") from None
    if not isinstance(features.get("label"), ClassLabel) or not isinstance(
        features.get("image"), ImageFeature
    ):
        raise UserError(f"{path.name} has no columns image and label as sgdmix_hub publishes them")
    for name, kind in NEEDED.items():
        if not isinstance(features.get(name), (Value, ClassLabel)) or not features[
            name
        ].dtype.startswith(kind):
            raise UserError(f"{path.name} has no column {name} as sgdmix_hub publishes it")
    return features


def _number_columns(features: Features) -> list[str]:
    """The columns of numbers and classes, of which a stranger's shard may have many."""
    names = [
        name
        for name, kind in features.items()
        if isinstance(kind, (Value, ClassLabel)) and kind.dtype.startswith(("int", "float"))
    ][:MOST_NUMBERS]
    return list(dict.fromkeys([*NEEDED, *names]))


def _numbers(path: Path, names: list[str]) -> pa.Table:
    """Columns of a shard. Raises `UserError` unless each of them is there, and once."""
    try:
        table = pq.read_table(path, columns=names, memory_map=True)
        return table.select(names)
    except (pa.ArrowException, KeyError, OSError) as error:
        raise UserError(f"{path.name} cannot be read: {first_line(error)}") from None


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
