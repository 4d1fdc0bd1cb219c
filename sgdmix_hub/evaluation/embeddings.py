"""A judge's features of whole images, of their foregrounds and of their backgrounds, on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from sgdmix_hub.data.splits import Split
from sgdmix_hub.errors import UnusableRow
from sgdmix_hub.generation.claims import neighbours_first
from sgdmix_hub.generation.row_blocks import Block
from sgdmix_hub.generation.row_store import RowStore, compute_blocks, compute_rows
from sgdmix_hub.method.masks import widen
from sgdmix_hub.method.saliency.trust import MARGIN
from sgdmix_hub.models.classifier import BATCH, Judge
from sgdmix_hub.runtime.ranks import Rank
from sgdmix_hub.storage.stores import Store

THUMBNAIL = 16
Picture = tuple[np.ndarray, np.ndarray | None]


@dataclass(frozen=True)
class Views:
    """Features of n images, float32, memory-mapped.

    `probabilities` (n, classes) and `whole` (n, d): of the whole image. `foreground`, `background`
    (n, d): of one side alone; NaN if the image has no such side. `thumbnails` (n, 768): pixels in
    [0, 1]. `usable`: bool (n,); an unusable image has zeros everywhere.
    """

    probabilities: np.ndarray
    whole: np.ndarray
    foreground: np.ndarray
    background: np.ndarray
    thumbnails: np.ndarray
    usable: np.ndarray


@dataclass(frozen=True)
class AskedViews:
    """Views that may not have been computed yet: those of a split's subset, in its order.

    Args:
        folder: where their store is.
        picture: row -> pixels, uint8 (h, h, 3), and foreground mask, bool (h, h), or None to use
            the whole image only. May raise `UnusableRow`.
    """

    folder: Path
    split: Split
    judge: Judge
    picture: Callable[[int], Picture]

    def compute(self, rank: Rank, store: Store) -> Views:
        """Computes them by the processes of a launch, and merges them. A stopped computation
        resumes by blocks. A collective.
        """
        rows = compute_rows(self.folder, self.split, self._prepare, rank.index, rank.count, store)
        usable = np.array([int(row) not in rows.unusable for row in self.split.subset], dtype=bool)
        return _views(rows, len(self.split.class_names), usable)

    def compute_blocks(self, place: int, world_size: int, store: Store) -> None:
        """Computes blocks as one of several workers that share nothing but the store. Neighbouring
        images may be in one file.
        """
        where = (place, world_size, store)
        compute_blocks(self.folder, self.split, self._prepare, *where, neighbours_first)

    def _prepare(self) -> Callable[[np.ndarray], Block]:
        return lambda rows: _block(self.judge, self.picture, rows)


def asked_views(
    folder: Path, key: dict, split: Split, judge: Judge, picture: Callable[[int], Picture]
) -> AskedViews:
    """The views of a split's subset.

    Args:
        folder: where the stores of all views are.
        key: everything that the views depend on, besides the judge.
        picture: as in `AskedViews`.
    """
    key = key | {"judge": str(judge.pin), "preprocessing": judge.preprocessing.record()}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return AskedViews(folder / digest[:16], split, judge, picture)


def _views(store: RowStore, num_classes: int, usable: np.ndarray) -> Views:
    width = (store.values.shape[1] - num_classes - THUMBNAIL**2 * 3) // 3
    ends = np.cumsum([num_classes, width, width, width])
    return Views(
        *(store.values[:, start:end] for start, end in zip([0, *ends], [*ends, None], strict=True)),
        usable,
    )


def _block(judge: Judge, picture: Callable[[int], Picture], rows: np.ndarray) -> Block:
    values, unusable = {}, {}
    for start in range(0, len(rows), BATCH):
        pictures = {}
        for row in rows[start : start + BATCH]:
            try:
                pictures[int(row)] = picture(int(row))
            except UnusableRow as reason:
                unusable[str(row)] = str(reason)
        if pictures:
            values |= dict(zip(pictures, see(judge, list(pictures.values())), strict=True))
    width = len(next(iter(values.values()))) if values else see(judge, [_nothing()]).shape[1]
    return np.stack([values.get(int(row), np.zeros(width, np.float32)) for row in rows]), unusable


def _nothing() -> Picture:
    return np.zeros((THUMBNAIL, THUMBNAIL, 3), np.uint8), None


def see(judge: Judge, pictures: list[Picture]) -> np.ndarray:
    """float32 (n, classes + 3 d + 768): probabilities, three feature vectors and thumbnail."""
    inputs = torch.stack([judge.transform(Image.fromarray(pixels)) for pixels, _ in pictures])
    probabilities, whole = judge.look(inputs)
    sides = [np.full_like(whole, np.nan) for _ in range(2)]
    for features, masks in zip(
        sides, zip(*(_side_masks(mask, judge) for _, mask in pictures), strict=True), strict=True
    ):
        shown = [row for row, mask in enumerate(masks) if mask.any()]
        if shown:
            # the other side is zero, which is the mean colour
            features[shown] = judge.look(
                torch.stack([inputs[row] * torch.from_numpy(masks[row]) for row in shown])
            )[1]
    thumbnails = [
        cv2.resize(pixels, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).reshape(-1)
        for pixels, _ in pictures
    ]
    return np.concatenate(
        [probabilities, whole, *sides, np.stack(thumbnails) / 255], axis=1
    ).astype(np.float32)


def _side_masks(mask: np.ndarray | None, judge: Judge) -> tuple[np.ndarray, np.ndarray]:
    """Foreground and background of the judge's input, bool (size, size).

    A margin between them belongs to neither. Both are empty without a usable mask.
    """
    foreground = None if mask is None else judge.preprocessing.seen(mask)
    if foreground is None or not foreground.any():
        return np.zeros((judge.size, judge.size), bool), np.zeros((judge.size, judge.size), bool)
    return foreground, ~widen(foreground, MARGIN)
