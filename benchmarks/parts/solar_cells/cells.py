"""The cells of `elpv-dataset`, and which of them a seed trains, judges and tests with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from parts.photograph_shift.task import Images

MONO, POLY = KINDS = ("mono", "poly")
FUNCTIONAL, DEFECTIVE = 0, 1
CLASSES = ["functional", "defective"]
UNSURE = -1
BLOCK = 16  # consecutive files, which are never divided between training, judge and test
TRAIN, MOST = 20, 100  # cells a class for training; at most, for judge and test
SHARES = (0.25, 0.375)  # of the blocks: training pool, judge; the rest is for the test
THUMBNAIL = 8
TRIES = 1000


@dataclass(frozen=True)
class Cells:
    """Cells of one type in the order of their files: uint8 (n, h, w), and labels int64 (n,): 0 for
    functional, 1 for defective, -1 for those between.
    """

    pixels: np.ndarray
    labels: np.ndarray


def read_cells() -> dict[str, Cells]:
    """Type -> all of its cells."""
    from elpv_dataset.utils import load_dataset

    pixels, chances, kinds = load_dataset()
    labels = labels_of(chances)
    return {kind: Cells(pixels[kinds == kind], labels[kinds == kind]) for kind in KINDS}


def labels_of(chances: np.ndarray) -> np.ndarray:
    """Labels int64 (n,) of the chances of a defect, floats (n,)."""
    return np.select([chances == 0, chances == 1], [FUNCTIONAL, DEFECTIVE], UNSURE)


def deal(labels: np.ndarray, rng: np.random.Generator, least: int) -> list[np.ndarray]:
    """Rows of the training pool, the judge and the test, as whole blocks of consecutive files.

    Each has at least `least` cells of both classes. Raises `ValueError` if that cannot be had.
    """
    blocks = np.arange(len(labels)) // BLOCK
    count = int(blocks.max()) + 1
    ends = np.round(np.cumsum(SHARES) * count).astype(int)
    for _ in range(TRIES):
        dealt = np.split(rng.permutation(count), ends)
        parts = [np.flatnonzero(np.isin(blocks, part)) for part in dealt]
        if all(
            np.sum(labels[part] == label) >= least
            for part in parts
            for label in range(len(CLASSES))
        ):
            return parts
    raise ValueError(f"no deal of {count} blocks has {least} cells of each class in every part")


def drawn(rows: np.ndarray, labels: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """At most `most` rows of each class, in a random order within the class."""
    return np.concatenate(
        [rng.permutation(rows[labels[rows] == label])[:most] for label in range(len(CLASSES))]
    )


def make_task(cells: Cells, seed: int) -> tuple[Images, Images, Images]:
    """The training, judge's and test cells of a seed, as RGB. They have no true masks."""
    rng = np.random.default_rng([20261129, seed])
    parts = deal(cells.labels, rng, TRAIN)
    train, judge, test = (
        images(cells, drawn(rows, cells.labels, most, rng))
        for rows, most in zip(parts, (TRAIN, MOST, MOST), strict=True)
    )
    return train, judge, test


def images(cells: Cells, rows: np.ndarray) -> Images:
    """Rows of the cells as RGB."""
    grey = cells.pixels[rows]
    return Images(
        grey[..., None].repeat(3, axis=-1), np.zeros(grey.shape, bool), cells.labels[rows]
    )


def thumbnails(pixels: np.ndarray) -> np.ndarray:
    """float32 (n, 64): means of 8 x 8 fields of grey images uint8 (n, h, w)."""
    count, height, width = pixels.shape
    tall, wide = height // THUMBNAIL, width // THUMBNAIL
    cut = pixels[:, : tall * THUMBNAIL, : wide * THUMBNAIL].astype(np.float32)
    fields = cut.reshape(count, THUMBNAIL, tall, THUMBNAIL, wide)
    return fields.mean(axis=(2, 4)).reshape(count, -1)


def neighbour_ratio(pixels: np.ndarray) -> float:
    """How much less neighbouring files differ than files at random: the ratio of the mean RMS
    differences of their thumbnails; 1 for an order that says nothing.
    """
    small = thumbnails(pixels)
    shuffled = small[np.random.default_rng(0).permutation(len(small))]
    near, far = (
        np.sqrt(((rows[1:] - rows[:-1]) ** 2).mean(axis=1)).mean() for rows in (small, shuffled)
    )
    return float(near / far)
