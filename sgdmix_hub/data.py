"""A split of an image-classification dataset at a pinned revision: RGB images, labels, class names, subsets."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from dataclasses import dataclass

import numpy as np
from datasets import ClassLabel, Dataset, DownloadConfig, Value, load_dataset, load_dataset_builder
from datasets import Image as ImageFeature
from PIL import Image, ImageOps

from .config import DataSettings
from .errors import UnusableImage, UserError, first_line
from .pins import Pin, same_content
from .seeds import RandomStream, generator

NO_LABEL = -1


@dataclass(frozen=True)
class Split:
    """The unfiltered pinned split. `labels` is int64 (n,), -1 where there is none; `subset` holds the rows in use, ascending."""

    pin: Pin
    rows: Dataset
    image_column: str
    labels: np.ndarray
    class_names: list[str]
    subset: np.ndarray

    def image(self, index: int, column: str | None = None) -> Image.Image:
        """One image, upright and RGB (or, for another column, as it is stored). Raises `UnusableImage`."""
        cell = self.rows[int(index)][column or self.image_column]
        image = decode_image(cell)
        return to_rgb(image) if column is None else image

    def decodable(self) -> np.ndarray:
        """The subset without the rows whose image cannot be decoded: a training must not stop at one."""
        kept = []
        for row in self.subset:
            try:
                self.image(row)
                kept.append(row)
            except UnusableImage:
                continue
        return np.array(kept, dtype=np.int64)


def load_split(settings: DataSettings, pin: Pin) -> Split:
    """The split and subset that the settings name, of a pinned dataset. Raises `UserError`."""
    split = _load_whole(settings, pin, settings.dataset_split, None, settings.dataset_config_name)
    if (split.labels == NO_LABEL).all():
        raise UserError(f"split {settings.dataset_split!r} of {pin.name} has no labelled row")
    chosen = subset_indices(
        split.labels, len(split.class_names), settings.subset_seed, settings.examples_per_class, settings.imbalance_factor
    )
    return dataclasses.replace(split, subset=chosen)


def load_evaluation_split(settings: DataSettings, split: str, like: Split, pin: Pin | None = None) -> Split:
    """All labelled rows of another split with the class numbers of `like`, of the same dataset or of another one, which has the same
    columns. Raises `UserError`."""
    config_name = settings.dataset_config_name if pin is None else None
    return _load_whole(settings, pin or like.pin, split, like.class_names, config_name)


def attributes_of(split: Split, column: str) -> tuple[np.ndarray, list[str]]:
    """What another column says of each row, as int64 (n,) and the names of these numbers: of class labels, strings or integers. Raises
    `UserError` when there is no such column, or a labelled row without a value."""
    if column not in split.rows.column_names:
        raise UserError(f"{split.pin.name} has no column {column!r}: it has {', '.join(split.rows.column_names)}")
    values, names = _labels(split.rows, column, None)
    if (values[split.subset] == NO_LABEL).any():
        raise UserError(f"column {column!r} of {split.pin.name} has rows without a value")
    return values, names


def _load_whole(settings: DataSettings, pin: Pin, split: str, class_names: list[str] | None, config_name: str | None) -> Split:
    rows = _load_rows(pin, config_name, split)
    return split_of(rows, pin, settings.image_column, settings.label_column, class_names)


def split_of(rows: Dataset, pin: Pin, image_column: str, label_column: str, class_names: list[str] | None = None) -> Split:
    """All labelled rows of a dataset in hand, numbered by `class_names` where they are given. Raises `UserError`."""
    for column in (image_column, label_column):
        if column not in rows.column_names:
            raise UserError(f"{pin.name} has no column {column!r}: it has {', '.join(rows.column_names)}")
    if not isinstance(rows.features[image_column], ImageFeature):
        raise UserError(f"column {image_column!r} of {pin.name} holds no images")
    labels, class_names = _labels(rows, label_column, class_names)
    for column, feature in rows.features.items():
        if isinstance(feature, ImageFeature):
            rows = rows.cast_column(column, ImageFeature(decode=False))
    return Split(pin, rows, image_column, labels, class_names, subset=np.flatnonzero(labels != NO_LABEL))


def _load_rows(pin: Pin, config_name: str | None, split: str) -> Dataset:
    try:
        if pin.is_local:
            return load_dataset(pin.path, config_name, split=split)
        # load_dataset falls back to any cached version when the Hub fails: the builder's hash tells which one it is.
        options = {"revision": pin.revision, "download_config": DownloadConfig(max_retries=3)}
        builder = load_dataset_builder(pin.name, config_name, **options)
        if builder.hash != pin.revision:
            raise UserError(f"{pin.name}: another version than {pin.revision} came from the cache; try again when the Hub answers")
        builder.download_and_prepare()
        return builder.as_dataset(split=split)
    except UserError:
        raise
    except Exception as error:  # datasets raises all kinds on what it cannot read
        raise UserError(f"cannot load split {split!r} of {pin.name}: {first_line(error)}") from error


def _labels(rows: Dataset, column: str, class_names: list[str] | None) -> tuple[np.ndarray, list[str]]:
    """Integer labels and class names, from ClassLabel, strings or plain integers; numbered by `class_names` where they are given."""
    feature, values = rows.features[column], rows.data.column(column).to_pylist()
    if isinstance(feature, ClassLabel):
        if class_names not in (None, list(feature.names)):
            raise UserError(f"the splits have different class names in column {column!r}")
        return np.array([NO_LABEL if v is None else v for v in values], dtype=np.int64), list(feature.names)
    if isinstance(feature, Value) and (feature.dtype in ("string", "large_string") or "int" in feature.dtype):
        class_names = class_names or [str(v) for v in sorted({v for v in values if v is not None})]
        number = {name: i for i, name in enumerate(class_names)}
        strangers = sorted({str(v) for v in values if v is not None} - set(number))
        if strangers:
            raise UserError(f"class {strangers[0]!r} in column {column!r} is not in the training split")
        return np.array([NO_LABEL if v is None else number[str(v)] for v in values], dtype=np.int64), class_names
    raise UserError(f"label column {column!r} holds {feature}: class labels, strings or integers are needed")


def decode_image(cell: dict | None) -> Image.Image:
    """The PIL image in an undecoded cell of an image column, upright as its EXIF says. Raises `UnusableImage`."""
    if cell is None or (cell.get("bytes") is None and cell.get("path") is None):
        raise UnusableImage("no image")
    try:
        image = Image.open(io.BytesIO(cell["bytes"]) if cell.get("bytes") is not None else cell["path"])
        image.load()
        return ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow's plugins raise anything on bytes that somebody damaged
        raise UnusableImage(f"corrupt image: {first_line(error)[:80]}".split(" <_io")[0]) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL image as RGB: transparency over white, 16-bit values scaled (PIL would clip them)."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        image = Image.fromarray(np.clip(values / _full_scale(image.mode, values) * 255 + 0.5, 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _full_scale(mode: str, values: np.ndarray) -> float:
    """The value that stands for white. Modes I and F do not say: the smallest usual scale that holds the values is taken."""
    peak = values.max(initial=0)
    if mode.startswith("I;16") or peak > 255:
        return 65535.0
    return 1.0 if mode == "F" and peak <= 1 else 255.0


def square(image: Image.Image, size: int, resize: str, resample=Image.Resampling.BICUBIC) -> Image.Image:
    """The image at size x size. `stretch` keeps everything in sight, `center-crop` keeps the aspect ratio.

    Images and masks of one row go through the same geometry. Raises `KeyError` on another `resize`.
    """
    return SQUARES[resize](image, (size, size), resample)


SQUARES = {"stretch": Image.Image.resize, "center-crop": ImageOps.fit}


def aspect_box(width: int, height: int, aspect: float) -> tuple[int, int, int, int]:
    """The largest box (left, top, right, bottom) of an aspect ratio (width over height) in the middle of an image, in whole pixels."""
    cut_width = min(width, max(1, round(height * aspect)))
    cut_height = min(height, max(1, round(width / aspect)))
    left, top = (width - cut_width) // 2, (height - cut_height) // 2
    return left, top, left + cut_width, top + cut_height


def subset_indices(
    labels: np.ndarray,
    num_classes: int,
    seed: int,
    examples_per_class: int | None = None,
    imbalance_factor: float | None = None,
) -> np.ndarray:
    """Rows of a few-shot or long-tail subset, ascending: a function of the labels, the seed and the two settings alone.

    Long tail as in Diff-Mix: class k of C, in label order, keeps n * imbalance_factor ** (k / (C - 1)) rows, n being the mean class
    size. Unlabelled rows (-1) are left out.
    """
    labelled = np.flatnonzero(labels != NO_LABEL)
    if examples_per_class is None and imbalance_factor is None:
        return labelled
    kept = []
    for label in range(num_classes):
        rows = np.flatnonzero(labels == label)
        wanted = len(rows)
        if imbalance_factor is not None:
            share = imbalance_factor ** (label / max(num_classes - 1, 1))
            wanted = min(wanted, max(1, int(len(labelled) / num_classes * share)))
        if examples_per_class is not None:
            wanted = min(wanted, examples_per_class)
        kept.append(generator(RandomStream.SUBSET, seed, label).permutation(rows)[:wanted])
    return np.sort(np.concatenate(kept))


def subset_record(settings: DataSettings, split: Split) -> dict:
    """What identifies a subset, as adapters and classifiers carry it: pin, settings, and a hash of the rows themselves."""
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


def check_same_subset(mine: dict, theirs: dict, what: str) -> None:
    """Raises `UserError` when an input was trained on other rows than this run's: that would leak between stages."""
    different = [key for key in ("dataset_config_name", "dataset_split", "rows_sha256") if mine[key] != theirs.get(key)]
    if not same_content(mine["dataset"], theirs.get("dataset", "")):
        different.insert(0, "dataset")
    if different:
        raise UserError(
            f"the {what} was trained on another subset ({', '.join(different)} differ): use the same dataset, split, "
            "examples_per_class, imbalance_factor and subset_seed, or pass --allow_other_subset"
        )
