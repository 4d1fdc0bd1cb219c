"""Loads an augmented dataset: exactly the requested version, checked against its manifest."""

from __future__ import annotations

import glob
import math
from functools import cached_property
from pathlib import Path
from typing import Literal, overload

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from datasets import Dataset, Features, load_dataset
from datasets import Image as ImageFeature
from PIL import Image

from sgdmix_hub.data.splits import Split, decode_image, to_rgb
from sgdmix_hub.errors import UserError, first_line, one_line
from sgdmix_hub.hub.pins import Pin

from .checks import check_features, check_values, image_columns, labelled_by
from .fetching import fetch_version, manifest_of
from .layout import RepoLayout, damaged_files
from .streamed import StreamedRows, stream_version

LARGEST_ASPECT = 20  # to which an image is brought at most: anyone may have written the columns


class OneSchema(Features):
    """Features that make their Arrow schema once. `datasets` asks for it with every row group,
    where a thousand class names take twenty times as long as the rows.
    """

    @cached_property
    def arrow_schema(self) -> pa.Schema:
        return super().arrow_schema


class PublishedRows:
    """The n rows of one published configuration, indexed by the source row they were made from.

    `dataset` is what `datasets.load_dataset` returns; `rows` is the same with undecoded images.
    `sources` and `labels` are int64 (n,), `strengths` float64 (n,): in memory when they are asked
    for, everything else stays on disk.
    """

    def __init__(self, pin: Pin, rows: Dataset, manifest: dict):
        self.pin = pin
        self.dataset = rows
        self.rows = rows
        for name in image_columns(rows.features):
            self.rows = self.rows.cast_column(name, ImageFeature(decode=False))
        self.manifest = manifest
        has_sizes = manifest.get("format", 1) > 1
        self._sizes = rows.select_columns(["source_width", "source_height"]) if has_sizes else None

    @cached_property
    def sources(self) -> np.ndarray:
        return self._column("source_index").astype(np.int64, copy=False)

    @cached_property
    def labels(self) -> np.ndarray:
        return self._column("label").astype(np.int64, copy=False)

    @cached_property
    def strengths(self) -> np.ndarray:
        return self._column("strength").astype(np.float64, copy=False)

    @cached_property
    def _by_source(self) -> np.ndarray:
        return np.argsort(self.sources, kind="stable")

    def _column(self, name: str) -> np.ndarray:
        return self.dataset.data.column(name).to_numpy()

    def made_from(self, source_index: int) -> list[int]:
        """Positions of the rows made from one source row; empty if there are none."""
        start, end = (
            np.searchsorted(self.sources, source_index, side, sorter=self._by_source)
            for side in ("left", "right")
        )
        return self._by_source[start:end].tolist()

    def source(self, position: int) -> int:
        """The source row that a row was made from."""
        return int(self.sources[position])

    def image(self, position: int) -> Image.Image:
        """One image as RGB, decoded from the bytes in its row."""
        return to_rgb(decode_image(self.rows[position]["image"] | {"path": None}))

    def image_like_source(self, position: int) -> Image.Image:
        """One image as RGB at its source's aspect ratio, with its own number of pixels.

        Generations stretch images to a square, or to a bucket of nearly that ratio. Whoever resizes
        real and synthetic images in the same way sees both alike only if this is undone. Images of
        other generations (`center-crop`), or of manifests of format 1, are returned as they are.
        """
        image = self.image(position)
        if self._sizes is None or self.manifest.get("resize", "center-crop") == "center-crop":
            return image
        row = self._sizes[position]
        aspect, pixels = row["source_width"] / row["source_height"], image.width * image.height
        aspect = min(max(aspect, 1 / LARGEST_ASPECT), LARGEST_ASPECT)
        width = max(1, round(math.sqrt(pixels * aspect)))
        height = max(1, round(math.sqrt(pixels / aspect)))
        if (width, height) == image.size:
            return image
        return image.resize((width, height), Image.Resampling.BICUBIC)

    def check_made_from(self, split: Split, subset: dict) -> None:
        """Raises `UserError` unless the rows were made from this split and subset, with its labels.

        `subset`: what `subset_record` returns.
        """
        theirs = self.manifest["subset"]
        same_rows = all(
            theirs[name] == subset[name] for name in ("dataset_config_name", "dataset_split")
        )
        made_from = Pin.parse(theirs["dataset"])
        if not same_rows or not made_from.holds_same_as(Pin.parse(subset["dataset"])):
            raise UserError(
                f"{self.pin.name} was made from split {theirs['dataset_split']!r} of "
                f"{theirs['dataset']}, not from {subset['dataset_split']!r} of {split.pin}: "
                "source_index would point at other images"
            )
        column = self.rows.data.column(labelled_by(self.manifest))
        labelled = column.to_numpy().astype(np.int64)
        last_row = max(labelled.max(initial=-1), self.sources.max(initial=-1))
        if (
            last_row >= len(split.labels)
            or self.rows.features["label"].names != split.class_names
            or not np.array_equal(split.labels[labelled], self.labels)
        ):
            raise UserError(f"{self.pin.name} has other labels than {split.pin.name}")
        outside_subset = np.setdiff1d(self.sources, split.subset)
        if len(outside_subset):
            raise UserError(
                f"{self.pin.name} was made from {len(outside_subset)} rows outside this subset: "
                "that would leak; use the same examples_per_class, imbalance_factor and subset_seed"
            )


@overload
def load_published(
    name_at_revision: str, config_name: str = ..., streaming: Literal[False] = ...
) -> PublishedRows: ...


@overload
def load_published(
    name_at_revision: str, config_name: str = ..., *, streaming: Literal[True]
) -> StreamedRows: ...


def load_published(
    name_at_revision: str, config_name: str = "default", streaming: bool = False
) -> PublishedRows | StreamedRows:
    """Downloads an augmented dataset, verifies every file and loads it.

    `datasets.load_dataset` alone may silently return another cached version when the Hub fails.
    This function returns the requested version or raises. A version (tag) that was loaded before
    needs no Hub; if its tag has moved since, a warning says so.

    The manifest protects against accidents, not against the repository's owner, who can replace it.
    Only `org/name@40-hex` can never change.

    Args:
        name_at_revision: `org/name[@revision]`, or the repo/ folder of a run, also of one in an
            object store (`s3://bucket/run/repo`, or the run's own URL).
        config_name: configuration to load.
        streaming: download nothing but the manifest. A shard is fetched when its rows are read,
            verified before the first of them, and removed after the last. `dataset` is an
            `IterableDataset`.

    Raises `UserError` if a file or row is missing, is not in the manifest, or has other bytes; with
    `streaming`, also when rows are read.
    """
    if streaming:
        return stream_version(name_at_revision, config_name)
    return open_version(*fetch_version(name_at_revision, config_name), config_name)


def open_version(pin: Pin, folder: Path, config_name: str) -> PublishedRows:
    """As `load_published`, for a version whose files are in `folder`. Raises `UserError`."""
    manifest = manifest_of(pin.name, folder, RepoLayout(config_name))
    damaged = damaged_files(folder, manifest)
    if damaged:
        raise UserError(f"{pin.name}: {', '.join(damaged[:3])} missing or not the published bytes")
    shards = shards_in(folder, config_name)
    unlisted = [name for name in shards if name not in manifest["files"]]
    if unlisted:
        raise UserError(
            f"{pin.name}: {', '.join(unlisted[:3])} not in its manifest: "
            "this is not what was published"
        )
    files = [glob.escape(str(folder / name)) for name in shards]
    # Arrow would read a whole file, of up to 500 MB, before the first of its rows
    options = pads.ParquetFragmentScanOptions(pre_buffer=False)
    try:
        rows = load_dataset(
            "parquet",
            data_files={"train": files},
            split="train",
            features=OneSchema.from_arrow_schema(pq.read_schema(folder / shards[0])),
            fragment_scan_options=options,
        )
    except Exception as error:  # datasets raises many types for unreadable files
        raise UserError(
            f"cannot load {pin.name}: {one_line(first_line(error.__cause__ or error))}"
        ) from error
    if len(rows) != manifest["rows"]:
        raise UserError(
            f"{pin.name} has {len(rows)} rows, its manifest says {manifest['rows']}: "
            "this is not what was published"
        )
    check_features(pin, rows.features, manifest)
    check_values(pin, rows.data, rows.features, manifest)
    return PublishedRows(pin, rows, manifest)


def shards_in(folder: Path, config_name: str) -> list[str]:
    """The names of a configuration's shards, in the order of their rows."""
    shards = folder.glob(RepoLayout(config_name).shards)
    return sorted(path.relative_to(folder).as_posix() for path in shards)
