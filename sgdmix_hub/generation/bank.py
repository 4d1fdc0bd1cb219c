"""A bank of backgrounds: another dataset, whose images are the targets of a generation.

In a plan its rows are numbered after those of the split: row k of the bank is row `first + k`, so
that no number means a row of both. Its labels are not read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sgdmix_hub.data.splits import Split, load_unlabelled
from sgdmix_hub.data.subsets import NO_LABEL
from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.pins import Pin
from sgdmix_hub.method.saliency.model_free import MAP_SIZE
from sgdmix_hub.models.loading import SegmenterPins
from sgdmix_hub.models.segmenters.frames import MASK_SIZE
from sgdmix_hub.runtime.ranks import Rank
from sgdmix_hub.settings.generation import AugmentSettings, bank_settings
from sgdmix_hub.settings.method import COMPARE_MAPS
from sgdmix_hub.storage.stores import HERE, Store

from .row_store import RowArrays, RowValues
from .saliency_maps import SaliencyMaps, compute_maps, store_key


class NoForeground(SaliencyMaps):
    """The maps of images that are all background: zeros, and empty masks."""

    def __init__(self, key: str):
        nothing = np.empty(0, np.int64)
        super().__init__(RowValues(nothing, nothing), key, "none")

    def __getitem__(self, rows) -> np.ndarray:
        return np.zeros((*np.shape(rows), MAP_SIZE, MAP_SIZE), np.float16)

    def mask(self, row: int) -> np.ndarray:
        return np.zeros((MASK_SIZE, MASK_SIZE), bool)

    def confidence(self, row: int) -> None:
        return None


@dataclass(frozen=True)
class Bank:
    """The background dataset with its maps. `first`: how many rows the split has."""

    settings: AugmentSettings
    split: Split
    maps: SaliencyMaps
    first: int

    def owns(self, row: int) -> bool:
        """Whether a row of a plan is the bank's."""
        return row >= self.first

    @property
    def count(self) -> int:
        return len(self.split.subset)


@dataclass(frozen=True)
class Joined:
    """Arrays by row of a split and, behind them, of its bank."""

    own: RowArrays
    bank: RowArrays
    first: int

    def __getitem__(self, rows, /) -> np.ndarray:
        rows = np.asarray(rows)
        if rows.ndim == 0:
            row = int(rows)
            return self.own[row] if row < self.first else self.bank[row - self.first]
        of_bank = rows >= self.first
        if not of_bank.any():
            return self.own[rows]
        banked = self.bank[rows[of_bank] - self.first]
        if of_bank.all():
            return banked
        values = np.empty((len(rows), *banked.shape[1:]), banked.dtype)
        values[of_bank], values[~of_bank] = banked, self.own[rows[~of_bank]]
        return values


def with_bank(
    settings: AugmentSettings, image_column: str, has_foreground: bool
) -> AugmentSettings:
    """Settings with their preset applied, for targets of a bank that is at hand in memory.

    Where its images have no foreground to compare, targets are random.
    """
    method = settings.selection_method
    if not has_foreground and method in COMPARE_MAPS:
        method = "random"
    return replace(
        settings,
        target_classes="any",
        selection_method=method,
        background_dataset_name="backgrounds",
        background_image_column=image_column,
        background_has_foreground=has_foreground,
    )


def load_bank(settings: AugmentSettings, pin: Pin) -> Split:
    """The background dataset's images, without labels. Raises `UserError`."""
    own = bank_settings(settings)
    columns = [own.image_column]
    if settings.background_has_foreground:
        named = (own.mask_column, own.bbox_column)
        columns += [column for column in named if column is not None]
    split = load_unlabelled(own, pin)
    missing = [column for column in columns if column not in split.rows.column_names]
    if missing:
        raise UserError(
            f"the background dataset {pin.name} has no column {missing[0]!r}, which its "
            "foregrounds need: leave --background_has_foreground out"
        )
    return split


def compute_bank(
    settings: AugmentSettings,
    split: Split,
    images: Split,
    segmenter: SegmenterPins | None,
    rank: Rank,
    store: Store = HERE,
) -> Bank:
    """The bank with its maps. A collective. Raises `UserError`.

    `split`: the dataset whose images are mixed; `images`: as `load_bank` gives them.
    """
    if not settings.background_has_foreground:
        return whole_images(settings, split, images)
    own = bank_settings(settings)
    place = (rank.index, rank.count, rank.device)
    maps = compute_maps(own, images, None, *place, segmenter, store)
    return Bank(own, images, maps, len(split.labels))


def whole_images(settings: AugmentSettings, split: Split, images: Split) -> Bank:
    """A bank whose images are all background. Arguments: as of `compute_bank`."""
    own = bank_settings(settings)
    maps = NoForeground(store_key(own, images, None) + "-whole")
    return Bank(own, images, maps, len(split.labels))


def joined_maps(maps: SaliencyMaps, bank: Bank) -> Joined:
    return Joined(maps, bank.maps, bank.first)


def joined_labels(split: Split, bank: Bank) -> np.ndarray:
    """int64: the labels of the split's rows, then no label for the bank's."""
    return np.concatenate([split.labels, np.full(len(bank.split.labels), NO_LABEL, np.int64)])
