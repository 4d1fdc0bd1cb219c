"""What mixing on the fly needs, made once and kept on disk: masks, filled backgrounds, targets.

    METHOD-HASH/     saliency maps, as in a generation's `saliency_dir`
    images-HASH/     of every image its size, its mask and itself as a background
    targets-HASH.npy of every row its targets

Names hold a hash of everything that the content depends on. The files are memory-mapped, so that
all processes that mix share one copy of them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from datasets.fingerprint import Hasher
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from sgdmix_hub.data.splits import Split
from sgdmix_hub.errors import UnusableRow
from sgdmix_hub.files import read_sealed, write_atomically
from sgdmix_hub.hub.pins import Pin
from sgdmix_hub.method.mixer import Mixer
from sgdmix_hub.method.saliency.segmentation import MaskFunctionSource
from sgdmix_hub.method.saliency.sources import Source
from sgdmix_hub.method.targets import NO_TARGET
from sgdmix_hub.models.loading import SegmenterPins
from sgdmix_hub.runtime.stopping import alone
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.method import MASK_SETTINGS, sought_words
from sgdmix_hub.settings.presets import saliency_method, saliency_source

from .background_features import backgrounds_at_hand
from .bank import Bank
from .forks import end_threads_before_forks
from .plan import SOURCES_AT_ONCE, low_confidence, selection_of
from .row_blocks import Block, save_array
from .row_store import compute_alone
from .saliency_maps import SaliencyMaps, block_maps, store_key, stored_mask

MakeBlock = Callable[[np.ndarray], Block]
# Settings that decide which targets a row gets.
TARGET_SETTINGS = (
    "selection_method",
    "target_classes",
    "num_candidates",
    "num_variants",
    "max_target_reuse",
    "min_mask_confidence",
    "seed",  # of a generation; 0 for a training, whose seeds share their targets
)


class PreparedImages:
    """The prepared images of a split, by row. They are pickled by their place on disk."""

    def __init__(self, folder: Path, subset: np.ndarray, count: int):
        self.folder = folder
        self._place = np.full(count, -1, np.int64)
        self._place[subset] = np.arange(len(subset))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "values"}

    @cached_property
    def values(self) -> np.ndarray:
        """The stored rows, memory-mapped, each of `image_type`."""
        return np.load(self.folder / "values.npy", mmap_mode="r")

    @cached_property
    def unusable(self) -> dict[int, str]:
        """Row -> why it has no mask."""
        found = read_sealed(self.folder / "unusable.json")["unusable"]
        return {int(row): reason for row, reason in found.items()}

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self._place[row]]

    def mask(self, row: int) -> np.ndarray:
        """The foreground, bool (size, size)."""
        bits = np.unpackbits(self[row]["mask"])
        size = int(np.sqrt(len(bits)))
        return bits.reshape(size, size).astype(bool)

    def background(self, row: int) -> np.ndarray:
        """The image as a background, uint8 (size, size, 3)."""
        return self[row]["background"]

    def size(self, row: int) -> tuple[int, int]:
        """Width and height of the image."""
        width, height = self[row]["size"].tolist()
        return width, height


def image_type(resolution: int, with_background: bool) -> np.dtype:
    """What is stored for an image: width and height, its mask as bits and, if wanted, its
    background at `resolution`, and whether that shows enough of it to be used.
    """
    fields: list[tuple] = [("size", "<u4", (2,)), ("mask", "u1", (resolution**2 // 8,))]
    if with_background:
        fields += [("shows_background", "?"), ("background", "u1", (resolution, resolution, 3))]
    return np.dtype(fields)


def prepare_maps(
    settings: AugmentSettings,
    split: Split,
    source: Source,
    pins: dict[str, str],
    folder: Path,
    num_workers: int,
) -> SaliencyMaps:
    """The saliency maps of the split. `pins`: of the networks behind `source`."""
    key = store_key(settings, split, *_networks(settings, pins))
    if isinstance(source, MaskFunctionSource):
        key += f"-{Hasher.hash(source.make_mask)}"
    without_network = saliency_source(settings).needs in ("nothing", "column", "boxes")
    workers = num_workers if without_network else 0
    make = partial(_maps_of, settings, split, source)
    store = compute_alone(folder / key, split, lambda: _shown(make, split, "masks", workers))
    return SaliencyMaps(store, key, saliency_method(settings))


def _maps_of(settings: AugmentSettings, split: Split, source: Source, rows: np.ndarray) -> Block:
    return block_maps(settings, split, rows, source)


def _networks(
    settings: AugmentSettings, pins: dict[str, str]
) -> tuple[Pin | None, SegmenterPins | None]:
    pinned = {name: Pin.parse(text) for name, text in pins.items()}
    segmenter = pinned.get("segmenter")
    if segmenter is None:
        return pinned.get("classifier"), None
    words = sought_words(settings, None)
    return None, SegmenterPins(segmenter, pinned.get("detector"), words)


def prepare_images(
    settings: AugmentSettings,
    split: Split,
    maps: SaliencyMaps,
    with_background: bool,
    folder: Path,
    num_workers: int,
) -> PreparedImages:
    """Masks and, if wanted, backgrounds of the split's images, from their maps."""
    names = (*MASK_SETTINGS, "resolution", "mixing_method")
    inputs: dict[str, Any] = {name: getattr(settings, name) for name in names}
    inputs |= {"maps": maps.key, "with_background": with_background}
    place = folder / f"images-{_digest(inputs)}"
    make = partial(_images_of, settings, split, maps, with_background)
    compute_alone(place, split, lambda: _shown(make, split, "backgrounds", num_workers))
    return PreparedImages(place, split.subset, len(split.labels))


def _images_of(
    settings: AugmentSettings,
    split: Split,
    maps: SaliencyMaps,
    with_background: bool,
    rows: np.ndarray,
) -> Block:
    """A block of prepared images, (k,) of `image_type`; zeros and a reason for unusable ones."""
    mixer = Mixer(settings)
    values = np.zeros(len(rows), image_type(settings.resolution, with_background))
    unusable: dict[str, str] = {}
    for place, row in enumerate(rows.tolist()):
        if row in maps.unusable:
            unusable[str(row)] = maps.unusable[row]
            continue
        try:
            image, found = split.image(row), maps.mask(row)
            stored = None if found is not None else stored_mask(settings, split, row)
            masked = mixer.mask(image, maps[row], None, stored, found)
        except UnusableRow as error:
            unusable[str(row)] = str(error)
            continue
        values[place]["size"] = image.size
        values[place]["mask"] = np.packbits(masked.mask)
        if with_background:
            try:
                pixels = masked.filled[1] if mixer.method == "inpaint" else masked.pixels
            except UnusableRow:  # hardly any background: no target, but a source all the same
                continue
            values[place]["shows_background"] = True
            values[place]["background"] = pixels
    return values, unusable


def prepare_targets(
    settings: AugmentSettings,
    split: Split,
    maps: SaliencyMaps,
    bank: Bank | None,
    images: PreparedImages,
    backgrounds: PreparedImages,
    folder: Path,
) -> Path:
    """The file of the rows' targets: int64 (rows, num_variants), numbered as in bank.py.

    The targets of a row are those that a generation gives to its variants, without those that show
    hardly any background; the places left are `NO_TARGET`.
    """
    inputs = {name: getattr(settings, name) for name in TARGET_SETTINGS}
    inputs |= {"images": images.folder.name, "backgrounds": backgrounds.folder.name}
    path = folder / f"targets-{_digest(inputs)}.npy"
    if path.exists():
        return path
    with alone(folder):
        if not path.exists():
            targets = np.full((len(split.labels), settings.num_variants), NO_TARGET, np.int64)
            for row, chosen in _chosen(settings, split, maps, bank, images):
                first = 0 if bank is None else bank.first
                shown = [
                    target
                    for target in chosen
                    if target != NO_TARGET and backgrounds[target - first]["shows_background"]
                ]
                targets[row, : len(shown)] = shown
            write_atomically(path, partial(save_array, values=targets))
    return path


def _chosen(
    settings: AugmentSettings,
    split: Split,
    maps: SaliencyMaps,
    bank: Bank | None,
    images: PreparedImages,
) -> Iterator[tuple[int, list[int]]]:
    """Every row that can be mixed, with the targets of its variants."""
    unusable = images.unusable | low_confidence(settings, split, maps)
    sources = np.array([row for row in split.subset.tolist() if row not in unusable], np.int64)
    if not len(sources):
        return
    features = backgrounds_at_hand(settings, split, maps, bank)
    selection = selection_of(settings, split, maps, sources, features, bank)
    for start in range(0, len(sources), SOURCES_AT_ONCE):
        rows = sources[start : start + SOURCES_AT_ONCE]
        targets, _ = selection.targets(rows, np.full(len(rows), settings.num_variants))
        yield from zip(rows.tolist(), targets.reshape(len(rows), -1).tolist(), strict=True)


def with_labels(split: Split, folder: Path, num_workers: int) -> Split:
    """The split with the labels that its dataset gives, read once."""
    key = f"labels-{split.pin.revision}"
    make = partial(_labels_of, split)
    store = compute_alone(folder / key, split, lambda: _shown(make, split, "labels", num_workers))
    labels = np.array(store.values)
    names = [str(label) for label in range(int(labels.max(initial=0)) + 1)]
    return dataclasses.replace(split, labels=labels, class_names=names)


def _labels_of(split: Any, rows: np.ndarray) -> Block:
    labels = [int(split.dataset[row][1]) for row in rows.tolist()]
    return np.array(labels, np.int64), {}


def _shown(make: MakeBlock, split: Split, what: str, num_workers: int) -> MakeBlock:
    """`make` in worker processes, with a progress bar over the rows of the split."""
    bar = tqdm(total=len(split.subset), desc=f"preparing {what}", unit="image")

    def make_block(rows: np.ndarray) -> Block:
        blocks = list(_in_workers(make, rows, num_workers, bar.update))
        values, reasons = zip(*blocks, strict=True)
        return np.concatenate(values), {row: why for part in reasons for row, why in part.items()}

    return make_block


def _in_workers(
    make: MakeBlock, rows: np.ndarray, num_workers: int, advance: Callable[[int], Any]
) -> Iterator[Block]:
    if num_workers == 0:
        yield make(rows)
        advance(len(rows))
        return
    end_threads_before_forks()
    loader = DataLoader(
        _Singly(make, rows),
        batch_size=None,
        num_workers=num_workers,
        collate_fn=_as_it_is,
        worker_init_fn=_with_one_thread,
    )
    for block in loader:
        yield block
        advance(1)


class _Singly(Dataset):
    """`make` of one row after the other, for the workers of a loader."""

    def __init__(self, make: MakeBlock, rows: np.ndarray):
        self.make, self.rows = make, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Block:
        return self.make(self.rows[index : index + 1])


def _as_it_is(value: Any) -> Any:
    return value


def _with_one_thread(worker: int) -> None:
    cv2.setNumThreads(1)


def _digest(inputs: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
