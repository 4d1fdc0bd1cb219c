"""Checks of the columns of a version: those of anybody, read by the trainings of somebody else."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Features, Value
from datasets import Image as ImageFeature
from datasets.table import Table

from sgdmix_hub.errors import UserError, shown
from sgdmix_hub.forms import LARGEST_COUNT
from sgdmix_hub.hub.pins import Pin

LARGEST_SIDE = 10**6  # pixels of a source image


def check_features(pin: Pin, features: Features, manifest: dict) -> None:
    """Raises `UserError` unless a version has the columns that trainings read, and no others than
    numbers, texts, classes and images.
    """
    if not (
        isinstance(features.get("image"), ImageFeature)
        and isinstance(features.get("label"), ClassLabel)
    ):
        raise UserError(f"{pin.name} has no columns image and label as sgdmix_hub publishes them")
    for name in number_ranges(features, manifest):
        if name not in features or not isinstance(features[name], (Value, ClassLabel)):
            raise UserError(f"{pin.name} has no column {name} as sgdmix_hub publishes it")
    for name, feature in features.items():
        if not isinstance(feature, (Value, ClassLabel, ImageFeature)):
            raise UserError(
                f"{pin.name} has a column {shown(name)} that sgdmix_hub does not publish"
            )


def check_values(pin: Pin, rows: pa.Table | Table, features: Features, manifest: dict) -> None:
    """Raises `UserError` unless the values that trainings read are valid.

    Every image must be bytes: a path would be opened on the reader's machine. Every number must be
    a class, a source row or a strength. `rows` is not empty.
    """
    for name, (smallest, largest) in number_ranges(features, manifest).items():
        column = rows.column(name)
        is_number = (
            pa.types.is_floating(column.type)
            if name == "strength"
            else pa.types.is_integer(column.type)
        )
        # part by part: the columns of a large version take gigabytes
        parts = [chunk for chunk in column.chunks if len(chunk)] if is_number else []
        if not parts or not all(_lie_in(chunk, smallest, largest) for chunk in parts):
            raise UserError(
                f"{pin.name}: column {name} holds values outside [{smallest}, {largest}]: "
                "this is not what was published"
            )
    chunks = [chunk for name in image_columns(features) for chunk in rows.column(name).chunks]
    if any(chunk.null_count or chunk.field("bytes").null_count for chunk in chunks):
        raise UserError(f"{pin.name} has rows without image bytes: this is not what was published")


def _lie_in(numbers: pa.Array, smallest: int, largest: int) -> bool:
    """Whether no number is missing, and all are finite and in a range."""
    if numbers.null_count:
        return False
    values = numbers.to_numpy(zero_copy_only=False)
    return bool(np.isfinite(values).all() and values.min() >= smallest and values.max() <= largest)


def number_ranges(features: Features, manifest: dict) -> dict[str, tuple[int, int]]:
    """The smallest and the largest value of the numbers that trainings read, by column."""
    num_classes = len(features["label"].names)
    ranges = {"label": (0, num_classes - 1), "source_index": (0, LARGEST_COUNT), "strength": (0, 1)}
    ranges[labelled_by(manifest)] = (0, LARGEST_COUNT)
    if manifest.get("format", 1) > 1:
        ranges |= dict.fromkeys(("source_width", "source_height"), (1, LARGEST_SIDE))
    return ranges


def image_columns(features: Features) -> list[str]:
    """`image` and, where they are published, `mask` and `mixed`."""
    return [name for name, feature in features.items() if isinstance(feature, ImageFeature)]


def labelled_by(manifest: dict) -> str:
    """The column of source rows that the labels come from: `source_index` or `target_index`."""
    # manifests of older versions lack the key; their labels are those of the source
    return f"{manifest.get('prompt_class', 'source')}_index"
