"""A split of a pinned image-classification dataset: images, labels, class names, subset."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Value
from datasets import Image as ImageFeature
from PIL import Image

from sgdmix_hub.errors import UnusableImage, UserError, shown
from sgdmix_hub.hub.pins import Pin
from sgdmix_hub.settings.data import DataSettings

from .images import MISSING, decode_image, file_of, image_size, to_rgb
from .indexed import IndexedRows
from .loading import DROPPED_LABELS, load_rows
from .subsets import NO_LABEL, subset_indices


@dataclass(frozen=True)
class Split:
    """The unfiltered pinned split.

    `labels`: int64 (n,), -1 for no label. `subset`: the rows in use, ascending. `files_in`,
    `strays`: as in `loading.Loaded`. `max_pixels`: as in `decode_image`.
    """

    pin: Pin
    rows: Dataset | IndexedRows
    image_column: str
    labels: np.ndarray
    class_names: list[str]
    subset: np.ndarray
    files_in: str | None = None
    strays: tuple[str, ...] = ()
    max_pixels: int | None = None

    def image(self, index: int, column: str | None = None) -> Image.Image:
        """One image as upright RGB (from another column: unconverted). Raises `UnusableImage`."""
        cell = self.rows[int(index)][column or self.image_column]
        if column is None:
            return self.decoded(cell)
        return decode_image(cell, self.files_in, self.max_pixels)

    def decoded(self, cell: dict | None) -> Image.Image:
        """A cell of the image column as upright RGB. Raises `UnusableImage`."""
        return to_rgb(decode_image(cell, self.files_in, self.max_pixels))

    def is_image_column(self, column: str) -> bool:
        return is_image(self.rows.features[column])

    def size(self, index: int) -> tuple[int, int]:
        """Width and height of one image, without decoding it. Raises `UnusableImage`."""
        return image_size(self.rows[int(index)][self.image_column], self.files_in)

    def cell(self, index: int, column: str) -> Any:
        """A value of a row as the dataset stores it."""
        return self.rows[int(index)][column]

    def file_name(self, index: int) -> str | None:
        """The image file of a row, relative to the dataset; None if the row holds the bytes.

        Only for messages on the terminal: it must not be published.
        """
        cell = self.rows[int(index)][self.image_column]
        try:
            if cell["bytes"] is not None or not file_of(cell, self.files_in):
                return None
            # Resolve the folder only: the file may be a link to a blob without a readable name.
            folder, name = os.path.split(cell["path"])
            return os.path.relpath(os.path.join(os.path.realpath(folder), name), self.files_in)
        except (UnusableImage, TypeError):  # outside the dataset, or an empty cell
            return None

    def try_images(self) -> tuple[np.ndarray, dict[int, str]]:
        """Rows of the subset with a decodable image, int64 (k,), and row -> reason for the rest.

        Raises `UserError` if no image can be decoded.
        """
        kept, left_out = [], {}
        for row in self.subset.tolist():
            try:
                self.image(row)
                kept.append(row)
            except UnusableImage as reason:
                left_out[row] = str(reason)
        if not kept:
            raise UserError(self._nothing_decodes(left_out))
        return np.array(kept, dtype=np.int64), left_out

    def decodable(self) -> np.ndarray:
        """Rows of the subset with a decodable image. Raises as `try_images` does."""
        return self.try_images()[0]

    def check_decodable(self) -> None:
        """Raises `UserError` if no image can be decoded; stops at the first that can."""
        left_out = {}
        for row in self.subset.tolist():
            try:
                self.image(row)
                return
            except UnusableImage as reason:
                left_out[row] = str(reason)
        raise UserError(self._nothing_decodes(left_out))

    def _nothing_decodes(self, left_out: dict[int, str]) -> str:
        row, reason = next(iter(left_out.items()))
        rows = self.rows if isinstance(self.rows, Dataset) else None
        if (
            set(left_out.values()) == {MISSING}
            and not self.pin.is_local
            and rows
            and rows.cache_files
        ):
            cached = Path(rows.cache_files[0]["filename"]).parent
            return (
                f"the files behind the cached dataset {self.pin.name} are gone: remove {cached} "
                "and run again"
            )
        split = f"split '{rows.split}' of {self.pin.name}" if rows and rows.split else self.pin.name
        return (
            f"not one of the {len(left_out)} images of {split} can be decoded (row {row}: {reason})"
        )


def load_split(settings: DataSettings, pin: Pin) -> Split:
    """Loads the split and subset of the settings. Raises `UserError`, also if no image decodes."""
    split = _load_whole(settings, pin, settings.dataset_split, None, settings.dataset_config_name)
    chosen = subset_indices(
        split.labels,
        len(split.class_names),
        settings.subset_seed,
        settings.examples_per_class,
        settings.imbalance_factor,
    )
    split = dataclasses.replace(split, subset=chosen)
    split.check_decodable()
    return split


def load_evaluation_split(
    settings: DataSettings, split: str, like: Split, pin: Pin | None = None
) -> Split:
    """Loads all labelled rows of another split, with the class numbers of `like`.

    `pin`: another dataset with the same columns; by default that of `like`. Raises `UserError`,
    also if no image decodes.
    """
    config_name = settings.dataset_config_name if pin is None else None
    loaded = _load_whole(settings, pin or like.pin, split, like.class_names, config_name)
    loaded.check_decodable()
    return loaded


def load_unlabelled(settings: DataSettings, pin: Pin) -> Split:
    """Loads all rows of the split that the settings name, without labels.

    Raises `UserError`, also if no image decodes.
    """
    loaded = load_rows(pin, settings.dataset_config_name, settings.dataset_split)
    split = unlabelled_split(loaded.rows, pin, settings.image_column, loaded.files_in)
    split = dataclasses.replace(split, strays=loaded.strays, max_pixels=settings.max_image_pixels)
    split.check_decodable()
    return split


def unlabelled_split(
    rows: Dataset | IndexedRows, pin: Pin, image_column: str, files_in: str | None = None
) -> Split:
    """Makes a `Split` of all rows of a `Dataset`, without labels. Raises `UserError`."""
    check_image_column(rows, pin, image_column)
    if not len(rows):
        raise UserError(f"{pin.name} has no row")
    labels = np.full(len(rows), NO_LABEL, np.int64)
    subset = np.arange(len(rows))
    return Split(pin, undecoded(rows), image_column, labels, [], subset, files_in)


def attributes_of(split: Split, column: str) -> tuple[np.ndarray, list[str]]:
    """Values of another column (class labels, strings or integers) as int64 (n,) with names.

    Raises `UserError` if the column is missing or a labelled row has no value.
    """
    if column not in split.rows.column_names:
        raise UserError(
            f"{split.pin.name} has no column {column!r}: it has "
            f"{', '.join(split.rows.column_names)}"
        )
    values, names = _labels(split.rows, column, None, missing=(None,))
    if (values[split.subset] == NO_LABEL).any():
        raise UserError(f"column {column!r} of {split.pin.name} has rows without a value")
    return values, names


def _load_whole(
    settings: DataSettings,
    pin: Pin,
    name: str,
    class_names: list[str] | None,
    config_name: str | None,
) -> Split:
    loaded = load_rows(pin, config_name, name, settings.streaming, settings.label_column)
    split = split_of(
        loaded.rows,
        pin,
        settings.image_column,
        settings.label_column,
        class_names,
        files_in=loaded.files_in,
    )
    split = dataclasses.replace(split, strays=loaded.strays, max_pixels=settings.max_image_pixels)
    if not len(split.subset):
        raise UserError(f"split {name!r} of {pin.name} has no labelled row: choose another split")
    return split


def split_of(
    rows: Dataset | IndexedRows,
    pin: Pin,
    image_column: str,
    label_column: str,
    class_names: list[str] | None = None,
    files_in: str | None = None,
) -> Split:
    """Makes a `Split` of all labelled rows of a `Dataset`. Raises `UserError`.

    `class_names`: fixes the class numbers. `files_in`: folder that may hold the cells' files.
    """
    for column in (image_column, label_column):
        if column not in rows.column_names:
            dropped = (
                f" ({DROPPED_LABELS})"
                if builder_of(rows) == "imagefolder" and column == label_column
                else ""
            )
            raise UserError(
                f"{pin.name} has no column {shown(column)!r}: it has "
                f"{', '.join(map(shown, rows.column_names))}{dropped}"
            )
    check_image_column(rows, pin, image_column)
    labels, class_names = _labels(rows, label_column, class_names)
    rows = undecoded(rows)
    subset = np.flatnonzero(labels != NO_LABEL)
    return Split(pin, rows, image_column, labels, class_names, subset, files_in)


def check_image_column(rows: Dataset | IndexedRows, pin: Pin, column: str) -> None:
    """Raises `UserError` if a column is missing or holds no images."""
    if column not in rows.column_names:
        raise UserError(
            f"{pin.name} has no column {shown(column)!r}: it has "
            f"{', '.join(map(shown, rows.column_names))}"
        )
    if not is_image(rows.features[column]):
        raise UserError(f"column {column!r} of {pin.name} holds no images")


def builder_of(rows: Dataset | IndexedRows) -> str | None:
    """What `datasets` reads the rows as: `imagefolder`, `parquet` ..."""
    return rows.info.builder_name if isinstance(rows, Dataset) else rows.builder_name


def undecoded(rows: Dataset | IndexedRows) -> Dataset | IndexedRows:
    """The rows with the cells of image columns as they are stored."""
    if isinstance(rows, IndexedRows):
        return rows
    for column, feature in rows.features.items():
        if is_image(feature):
            rows = rows.cast_column(column, ImageFeature(decode=False))
    return rows


def is_image(feature) -> bool:
    """Whether a column holds images, including `{bytes, path}` written by pandas or polars."""
    if isinstance(feature, ImageFeature):
        return True
    return (
        isinstance(feature, dict)
        and set(feature) == {"bytes", "path"}
        and getattr(feature["bytes"], "dtype", None) == "binary"
    )


def _labels(
    rows: Dataset | IndexedRows,
    column: str,
    class_names: list[str] | None,
    missing=(None, NO_LABEL),
) -> tuple[np.ndarray, list[str]]:
    """Integer labels and class names of a column of class labels, strings or integers.

    `class_names`: fixes the class numbers. `missing`: strings or integers that mean "no label".
    """
    feature = rows.features[column]
    if isinstance(feature, ClassLabel):
        if class_names not in (None, list(feature.names or [])):
            raise UserError(f"the splits have different class names in column {column!r}")
        kinds, places = _distinct(rows, column)
        labels = np.array([NO_LABEL if v is None else v for v in kinds], np.int64)[places]
        _check_class_labels(labels, feature.names or [], column)
        return labels, list(feature.names)
    if isinstance(feature, Value) and (
        feature.dtype in ("string", "large_string") or "int" in feature.dtype
    ):
        kinds, places = _distinct(rows, column)
        known = [v for v in kinds if v not in missing]
        class_names = class_names or [str(v) for v in sorted(known)]
        _check_names(class_names, column)
        number = {name: i for i, name in enumerate(class_names)}
        strangers = sorted(set(map(str, known)) - set(number))
        if strangers:
            raise UserError(
                f"class {shown(strangers[0])!r} in column {column!r} is not in the training split"
            )
        numbers = [NO_LABEL if v in missing else number[str(v)] for v in kinds]
        return np.array(numbers, np.int64)[places], class_names
    raise UserError(
        f"label column {column!r} holds {shown(feature)}: class labels, strings or integers are "
        "needed"
    )


def _distinct(rows: Dataset | IndexedRows, column: str) -> tuple[list, np.ndarray]:
    """The distinct values of a column, and of every row the place of its value among them.

    A list of all values would take a hundred bytes a row.
    """
    if isinstance(rows, IndexedRows):
        values = rows.values(column)
        places = {value: place for place, value in enumerate(dict.fromkeys(values))}
        return list(places), np.array([places[value] for value in values], np.int64)
    cells = rows.data.column(column).dictionary_encode(null_encoding="encode").combine_chunks()
    return cells.dictionary.to_pylist(), cells.indices.to_numpy()


def _check_class_labels(labels: np.ndarray, names: list[str], column: str) -> None:
    """Raises `UserError` for a label without a class name."""
    _check_names(names, column)
    strange = np.flatnonzero((labels < NO_LABEL) | (labels >= len(names)))
    if len(strange):
        row = int(strange[0])
        from_one = (
            " (do they start at 1?)"
            if labels.max() == len(names) and labels[labels != NO_LABEL].min() == 1
            else ""
        )
        raise UserError(
            f"label {labels[row]} of row {row} in column {column!r} is outside its {len(names)} "
            f"class names: labels run from 0 to {len(names) - 1}, -1 means no label{from_one}"
        )


def _check_names(names: list[str], column: str) -> None:
    """Raises `UserError` for unprintable names: class names are printed, drawn and published."""
    for number, name in enumerate(names):
        if not isinstance(name, str):  # YAML reads `no` as false
            raise UserError(
                f"class {number} in column {column!r} is named {shown(str(name))}, which is no "
                "text: put it in quotes in the dataset's card"
            )
        if any(
            unicodedata.category(character) in ("Cc", "Cs") and not character.isspace()
            for character in name
        ):
            raise UserError(
                f"class {number} in column {column!r} is named {shown(name)}: rename it, without "
                "control characters"
            )
    if not names:
        raise UserError(f"label column {column!r} has no class names and no labels")


def subset_record(settings: DataSettings, split: Split) -> dict:
    """Identifies a subset in adapters and classifiers: pin, settings, hash of the row numbers."""
    return {
        "dataset": str(split.pin),
        "dataset_config_name": settings.dataset_config_name,
        "dataset_split": settings.dataset_split,
        "examples_per_class": settings.examples_per_class,
        "imbalance_factor": settings.imbalance_factor,
        "subset_seed": settings.subset_seed,
        "rows": len(split.subset),
        "rows_sha256": hashlib.sha256(split.subset.astype("<i8").tobytes()).hexdigest(),
    }
