"""Loads an augmented dataset: exactly the requested version, checked against its manifest."""

from __future__ import annotations

import glob
import logging
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Value, load_dataset
from datasets import Image as ImageFeature
from huggingface_hub import snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from PIL import Image

from sgdmix_hub.data.splits import Split, decode_image, to_rgb
from sgdmix_hub.errors import UserError, first_line, one_line, shown
from sgdmix_hub.forms import LARGEST_COUNT
from sgdmix_hub.hub.client import fetch
from sgdmix_hub.hub.formats import read_manifest
from sgdmix_hub.hub.pins import OutOfReach, Pin, name_and_revision, resolve
from sgdmix_hub.settings.generation import check_config_name

from .card_merge import newest_versions
from .layout import CARD, RepoLayout, damaged_files

logger = logging.getLogger(__name__)
LARGEST_SIDE = 10**6  # pixels of a source image
LARGEST_ASPECT = 20  # to which an image is brought at most: anyone may have written the columns


class PublishedRows:
    """The n rows of one published configuration, indexed by the source row they were made from.

    `dataset` is what `datasets.load_dataset` returns; `rows` is the same with undecoded images.
    `sources` and `labels` are int64 (n,), `strengths` float64 (n,).
    """

    def __init__(self, pin: Pin, rows: Dataset, manifest: dict):
        self.pin = pin
        self.dataset = rows
        self.rows = rows
        for name in image_columns(rows):
            self.rows = self.rows.cast_column(name, ImageFeature(decode=False))
        self.manifest = manifest
        has_sizes = manifest.get("format", 1) > 1
        self._sizes = rows.select_columns(["source_width", "source_height"]) if has_sizes else None
        self.sources, self.labels = (
            np.array(rows.data.column(name).to_pylist(), dtype=np.int64)
            for name in ("source_index", "label")
        )
        self.strengths = np.array(rows.data.column("strength").to_pylist(), dtype=np.float64)
        self._by_source: dict[int, list[int]] = defaultdict(list)
        for position, source in enumerate(self.sources.tolist()):
            self._by_source[source].append(position)

    def made_from(self, source_index: int) -> list[int]:
        """Positions of the rows made from one source row; empty if there are none."""
        return self._by_source.get(int(source_index), [])

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
        labelled = np.array(self.rows.data.column(labelled_by(self.manifest)).to_pylist(), np.int64)
        last_row = max(labelled.max(initial=-1), self.sources.max(initial=-1))
        if (
            last_row >= len(split.labels)
            or self.rows.features["label"].names != split.class_names
            or not np.array_equal(split.labels[labelled], self.labels)
        ):
            raise UserError(f"{self.pin.name} has other labels than {split.pin.name}")
        outside_subset = set(self.sources.tolist()) - set(split.subset.tolist())
        if outside_subset:
            raise UserError(
                f"{self.pin.name} was made from {len(outside_subset)} rows outside this subset: "
                "that would leak; use the same examples_per_class, imbalance_factor and subset_seed"
            )


def load_published(name_at_revision: str, config_name: str = "default") -> PublishedRows:
    """Downloads an augmented dataset, verifies every file and loads it.

    `datasets.load_dataset` alone may silently return another cached version when the Hub fails.
    This function returns the requested version or raises. A version (tag) that was loaded before
    needs no Hub; if its tag has moved since, a warning says so.

    The manifest protects against accidents, not against the repository's owner, who can replace it.
    Only `org/name@40-hex` can never change.

    Args:
        name_at_revision: `org/name[@revision]`, or the repo/ folder of a run.
        config_name: configuration to load.

    Raises `UserError` if a file or row is missing, is not in the manifest, or has other bytes.
    """
    return open_version(*fetch_version(name_at_revision, config_name), config_name)


def open_version(pin: Pin, folder: Path, config_name: str) -> PublishedRows:
    """As `load_published`, for a version whose files are in `folder`. Raises `UserError`."""
    layout = RepoLayout(config_name)
    if not (folder / layout.manifest).is_file():
        raise UserError(f"{pin.name} holds no augmented dataset: {layout.manifest} is missing")
    manifest = read_manifest(folder / layout.manifest)
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
    if manifest["rows"] == 0:
        raise UserError(
            f"{pin.name} has no rows: all {len(manifest['skipped'])} were skipped, for reasons "
            f"that {folder / layout.manifest} lists"
        )
    files = [glob.escape(str(folder / name)) for name in shards]
    try:
        rows = load_dataset("parquet", data_files={"train": files}, split="train")
    except Exception as error:  # datasets raises many types for unreadable files
        raise UserError(
            f"cannot load {pin.name}: {one_line(first_line(error.__cause__ or error))}"
        ) from error
    if len(rows) != manifest["rows"]:
        raise UserError(
            f"{pin.name} has {len(rows)} rows, its manifest says {manifest['rows']}: "
            "this is not what was published"
        )
    check_columns(pin, rows, manifest)
    return PublishedRows(pin, rows, manifest)


def check_columns(pin: Pin, rows: Dataset, manifest: dict) -> None:
    """Raises `UserError` unless the columns that trainings read are valid.

    Every image must be bytes: a path would be opened on the reader's machine. Every number must be
    a class, a source row or a strength.
    """
    features = rows.features
    if not (
        isinstance(features.get("image"), ImageFeature)
        and isinstance(features.get("label"), ClassLabel)
    ):
        raise UserError(f"{pin.name} has no columns image and label as sgdmix_hub publishes them")
    num_classes = len(features["label"].names)
    ranges = {"label": (0, num_classes - 1), "source_index": (0, LARGEST_COUNT), "strength": (0, 1)}
    ranges[labelled_by(manifest)] = (0, LARGEST_COUNT)
    if manifest.get("format", 1) > 1:
        ranges |= dict.fromkeys(("source_width", "source_height"), (1, LARGEST_SIDE))
    for name, (smallest, largest) in ranges.items():
        if name not in features or not isinstance(features[name], (Value, ClassLabel)):
            raise UserError(f"{pin.name} has no column {name} as sgdmix_hub publishes it")
        column = rows.data.column(name)
        is_number = (
            pa.types.is_floating(column.type)
            if name == "strength"
            else pa.types.is_integer(column.type)
        )
        values = column.to_numpy() if is_number and not column.null_count else None
        if (
            values is None
            or not np.isfinite(values).all()
            or values.min() < smallest
            or values.max() > largest
        ):
            raise UserError(
                f"{pin.name}: column {name} holds values outside [{smallest}, {largest}]: "
                "this is not what was published"
            )
    for name, feature in features.items():
        if not isinstance(feature, (Value, ClassLabel, ImageFeature)):
            raise UserError(
                f"{pin.name} has a column {shown(name)} that sgdmix_hub does not publish"
            )
    chunks = [chunk for name in image_columns(rows) for chunk in rows.data.column(name).chunks]
    if any(chunk.null_count or chunk.field("bytes").null_count for chunk in chunks):
        raise UserError(f"{pin.name} has rows without image bytes: this is not what was published")


def image_columns(rows: Dataset) -> list[str]:
    """`image` and, where they are published, `mask` and `mixed`."""
    return [name for name, feature in rows.features.items() if isinstance(feature, ImageFeature)]


def labelled_by(manifest: dict) -> str:
    """The column of source rows that the labels come from: `source_index` or `target_index`."""
    # manifests of older versions lack the key; their labels are those of the source
    return f"{manifest.get('prompt_class', 'source')}_index"


def shards_in(folder: Path, config_name: str) -> list[str]:
    """The names of a configuration's shards, in the order of their rows."""
    shards = folder.glob(RepoLayout(config_name).shards)
    return sorted(path.relative_to(folder).as_posix() for path in shards)


def fetch_version(name_at_revision: str, config_name: str) -> tuple[Pin, Path]:
    """Downloads one configuration's files; returns their pin and folder. Raises `UserError`.

    If the Hub is out of reach, a version that was downloaded before is taken from the cache.
    """
    pin, is_online = find_version(name_at_revision, config_name)
    if pin.path is not None:
        return pin, Path(pin.path)
    return pin, download_version(name_at_revision, config_name, pin, is_online)


def find_version(name_at_revision: str, config_name: str) -> tuple[Pin, bool]:
    """The pin of a version, and whether the Hub has said so: if it is out of reach, a version that
    was downloaded before is found in the cache. Raises `UserError`.
    """
    check_config_name(config_name)
    name, revision = name_and_revision(name_at_revision)
    try:
        pin = resolve(name_at_revision, repo_type="dataset")
    except OutOfReach as error:
        cached = cached_version(name, revision)
        if cached is None:
            raise UserError(
                f"{error}; or give the tag of a version that was loaded before"
            ) from None
        return cached, False
    before = cached_version(name, revision) if pin.path is None else None
    if before is not None and before != pin:
        logger.warning(
            f"{name_at_revision} was {before.revision} when it was loaded last, and is "
            f"{pin.revision} now: its owner has moved the tag; {before} is what you had"
        )
    return pin, True


def download_version(name_at_revision: str, config_name: str, pin: Pin, is_online: bool) -> Path:
    """The folder of the files of a version on the Hub, downloaded if `is_online`, or as the cache
    has them. Raises `UserError`.
    """
    name, revision = name_and_revision(name_at_revision)

    def download() -> str:
        return snapshot_download(
            name,
            repo_type="dataset",
            revision=revision or pin.revision,  # the tag, so that the cache knows it later
            allow_patterns=RepoLayout(config_name).patterns,
            local_files_only=not is_online,
        )

    folder = Path(fetch(download, name_at_revision))
    if folder.name != pin.revision:
        raise UserError(
            f"{name_at_revision} is {pin.revision}, but {folder.name} came from the cache: "
            "try again when the Hub answers"
        )
    return folder


def cached_version(name: str, version: str) -> Pin | None:
    """A version in the cache, found by its commit or by a tag; None if there is none.

    A tag counts only if the cached card lists it as its newest version: any other name may have
    moved since. A version whose card cannot be read is ignored.
    """
    try:
        card = try_to_load_from_cache(name, CARD, revision=version or None, repo_type="dataset")
        if not isinstance(card, str):
            return None
        commit = Path(card).parent.name
        text = Path(card).read_text(encoding="utf-8")
        is_named = version == commit or version in newest_versions(text)
    except (HFValidationError, OSError, ValueError, UserError):
        return None
    return Pin(name, commit) if is_named else None
