"""Features of backgrounds, by which targets with a novel background are chosen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from sgdmix_hub.data.images import square
from sgdmix_hub.data.splits import Split
from sgdmix_hub.errors import UnusableRow
from sgdmix_hub.method.backgrounds import BANDS, FEATURES_PER_BAND, SIZE, background_features
from sgdmix_hub.method.masks import foreground_mask, share_of, share_of_frame
from sgdmix_hub.runtime.ranks import Rank
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.method import MASK_SETTINGS
from sgdmix_hub.storage.stores import HERE, Store

from .bank import Bank, Joined
from .row_blocks import Block
from .row_store import RowArrays, RowStore, RowValues, compute_rows
from .saliency_maps import SaliencyMaps, saliency_root, stored_mask


def compute_backgrounds(
    settings: AugmentSettings,
    split: Split,
    maps: SaliencyMaps,
    rank: int,
    world_size: int,
    store: Store = HERE,
) -> RowStore:
    """Background features of the subset, each made once by one process of the launch.

    Zeros for an image without a saliency map. A collective.
    """
    inputs = {name: getattr(settings, name) for name in MASK_SETTINGS} | {"maps": maps.key}
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()

    def prepare() -> Callable[[np.ndarray], Block]:
        return lambda rows: (
            np.stack([features_of(settings, split, maps, row) for row in rows]),
            {},
        )

    folder = saliency_root(settings) / f"backgrounds-{digest[:16]}"
    return compute_rows(folder, split, prepare, rank, world_size, store)


def features_of(
    settings: AugmentSettings, split: Split, maps: SaliencyMaps, row: int
) -> np.ndarray:
    """Background features of one image, float32 (16,); zeros if it has no map or no mask."""
    if int(row) not in maps.unusable:
        with suppress(UnusableRow):
            image, finer = split.image(row), maps.mask(row)
            stored = stored_mask(settings, split, row) if finer is None else None
            pixels = np.asarray(square(image, SIZE, settings.resize))
            share = None
            if stored is not None:
                share = share_of(stored, image.size, None, SIZE, settings.resize)
            elif finer is not None:
                share = share_of_frame(finer, image.size, None, SIZE)
            return background_features(pixels, foreground_mask(pixels, maps[row], settings, share))
    return np.zeros(BANDS * FEATURES_PER_BAND, np.float32)


def joined_backgrounds(
    backgrounds: RowArrays, bank: Bank, rank: Rank, store: Store = HERE
) -> Joined:
    """Background features of the split and of its bank. A collective."""
    place = (rank.index, rank.count, store)
    features = compute_backgrounds(bank.settings, bank.split, bank.maps, *place)
    return Joined(backgrounds, features, bank.first)


def backgrounds_at_hand(
    settings: AugmentSettings,
    split: Split,
    maps: SaliencyMaps,
    bank: Bank | None,
    advance: Callable[[int], Any] = lambda rows: None,
) -> RowArrays | None:
    """Background features of images in memory and of their bank; None if no rule compares them.

    Calls `advance(1)` after every image of the split.
    """
    if settings.selection_method != "novel-background":
        return None
    own = _features(settings, split, maps, advance)
    if bank is None:
        return own
    others = _features(bank.settings, bank.split, bank.maps, lambda rows: None)
    return Joined(own, others, bank.first)


def _features(
    settings: AugmentSettings, split: Split, maps: SaliencyMaps, advance: Callable[[int], Any]
) -> RowValues:
    features = []
    for row in split.subset:
        features.append(features_of(settings, split, maps, row))
        advance(1)
    return RowValues(split.subset, np.stack(features))
