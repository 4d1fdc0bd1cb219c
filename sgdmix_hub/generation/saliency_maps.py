"""The saliency maps of a split: the trust test, the source that makes them, and their store."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sgdmix_hub.data.splits import Split
from sgdmix_hub.errors import Unusable, UserError, among_usable, attempt
from sgdmix_hub.files import DamagedFile, made_again, read_sealed, write_sealed
from sgdmix_hub.hub.pins import Pin
from sgdmix_hub.method.saliency.cam import SMALLEST_GRID, CamSaliency
from sgdmix_hub.method.saliency.model_free import MAP_SIZE
from sgdmix_hub.method.saliency.segmentation import box_of, centred_mask
from sgdmix_hub.method.saliency.sources import (
    Found,
    Network,
    Source,
    Stored,
    load_cam,
    load_source,
)
from sgdmix_hub.method.saliency.trust import Trust, trust_test
from sgdmix_hub.models.loading import SegmenterPins, load_classifier, load_segmenter
from sgdmix_hub.models.segmenters.frames import MASK_SIZE
from sgdmix_hub.output_folder import OutputFolder
from sgdmix_hub.runtime.ranks import Rank, on_rank_zero, say
from sgdmix_hub.runtime.stopping import wait_for_file
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.presets import saliency_method, saliency_source
from sgdmix_hub.settings.saliency import FALL_BACK, SALIENCY_SOURCES
from sgdmix_hub.storage.stores import HERE, Store

from .row_blocks import Block, Prepare
from .row_store import BegunRows, FoundRows, begin_rows, compute_blocks, compute_rows

logger = logging.getLogger(__name__)
# Input size over training size; at twice its training size a small network lost half its accuracy.
LARGEST_SCALE = 1.5


@dataclass(frozen=True)
class SaliencyMaps:
    """The maps of a split's subset, indexed by the split's rows.

    `key`: the name of their store; `method`: the saliency method that made them; `trust`: the
    result of the trust test, if there was one. Where the method gives more than maps, a stored row
    has the fields of `row_type`.
    """

    store: FoundRows
    key: str
    method: str
    trust: Trust | None = None

    def __getitem__(self, rows) -> np.ndarray:
        """float16 (64, 64) for one row, (k, 64, 64) for an array of rows."""
        values = self.store[rows]
        return values["map"] if values.dtype.names else values

    def mask(self, row: int) -> np.ndarray | None:
        """The method's own mask of a row, bool (256, 256), or None if it makes none."""
        if not SALIENCY_SOURCES[self.method].has_mask:
            return None
        bits = np.unpackbits(self.store[row]["mask"])
        return bits.reshape(MASK_SIZE, MASK_SIZE).astype(bool)

    def confidence(self, row: int) -> float | None:
        """How far a row's mask can be trusted, in [0, 1], or None if the method states nothing."""
        if not SALIENCY_SOURCES[self.method].has_confidence:
            return None
        return float(self.store[row]["confidence"])

    @property
    def unusable(self) -> dict[int, str]:
        """Row -> the reason why it has no map."""
        return self.store.unusable


def row_type(method: str) -> np.dtype:
    """What is stored for a row: its map, float16 (64, 64), and, where the method gives them, its
    mask, bits of 256 x 256, and its confidence, float32.
    """
    source = SALIENCY_SOURCES[method]
    fields: list[tuple] = [("map", "<f2", (MAP_SIZE, MAP_SIZE))]
    if source.has_mask:
        fields.append(("mask", "u1", (MASK_SIZE * MASK_SIZE // 8,)))
    if source.has_confidence:
        fields.append(("confidence", "<f4"))
    return np.dtype(fields) if len(fields) > 1 else np.dtype(fields[0][1:])


def compute_maps(
    settings: AugmentSettings,
    split: Split,
    classifier: Pin | None,
    rank: int,
    world_size: int,
    device: torch.device,
    segmenter: SegmenterPins | None = None,
    store: Store = HERE,
) -> SaliencyMaps:
    """The maps of the split's subset, each made once by one process of the launch. A collective.

    `classifier`, `segmenter`: the networks that the saliency method needs. If the trust test fails
    and the settings say so, `FALL_BACK` makes them. Raises `UserError`.
    """
    asked = asked_maps(settings, split, classifier, rank, device, segmenter, store)
    return asked.compute(split, rank, world_size, store)


def compute_map_blocks(
    settings: AugmentSettings,
    split: Split,
    classifier: Pin | None,
    rank: Rank,
    segmenter: SegmenterPins | None,
    store: Store,
) -> None:
    """A worker's share of the maps' blocks, for `compute_maps` to merge. A collective of its
    launch. Raises `UserError`.
    """
    device, place = rank.device, settings.rank * rank.count + rank.index
    asked = asked_maps(settings, split, classifier, rank.index, device, segmenter, store)
    world_size = settings.world_size * rank.count
    compute_blocks(asked.folder, split, asked.prepare, place, world_size, store)


@dataclass(frozen=True)
class AskedMaps:
    """Where maps are, and how they are made. `method`: as in `SaliencyMaps`."""

    folder: Path
    prepare: Prepare
    method: str
    trust: Trust | None

    def compute(self, split: Split, rank: int, world_size: int, store: Store) -> SaliencyMaps:
        """As `compute_maps`."""
        return self._of(compute_rows(self.folder, split, self.prepare, rank, world_size, store))

    def sample(
        self, split: Split, rank: Rank, store: Store, seconds: float
    ) -> tuple[SaliencyMaps, BegunRows] | None:
        """Makes maps for some seconds and, unless all are made then, returns those of a part of
        the subset, and how it was made. A collective.
        """
        begun = begin_rows(self.folder, split, self.prepare, rank, store, seconds)
        return None if begun is None else (self._of(begun.sample), begun)

    def _of(self, rows: FoundRows) -> SaliencyMaps:
        return SaliencyMaps(rows, self.folder.name, self.method, self.trust)


def asked_maps(
    settings: AugmentSettings,
    split: Split,
    classifier: Pin | None,
    rank: int,
    device: torch.device,
    segmenter: SegmenterPins | None,
    store: Store,
) -> AskedMaps:
    """What makes the maps of a split's subset, after the trust test. A collective."""
    root, trust = saliency_root(settings), None
    if saliency_source(settings).needs == "classifier":
        assert classifier is not None, "`resolve_inputs` pins what the saliency method needs"
        folder = root / store_key(settings, split, classifier)
        trust = _tested(settings, split, classifier, folder, rank, device, store)
        if trust.reads_background and settings.trust_test == "fall-back":
            settings, classifier = replace(settings, saliency_method=FALL_BACK), None
    key = store_key(settings, split, classifier, segmenter)

    def prepare() -> Callable[[np.ndarray], Block]:
        source = load_source(settings, load_network(settings, split, classifier, segmenter, device))
        return lambda rows: block_maps(settings, split, rows, source)

    return AskedMaps(root / key, prepare, saliency_method(settings), trust)


def saliency_root(settings: AugmentSettings) -> Path:
    """The folder of a run's stores, which runs may share."""
    if settings.saliency_dir:
        return Path(settings.saliency_dir)
    return OutputFolder(settings.output_dir).saliency


def store_key(
    settings: AugmentSettings,
    split: Split,
    classifier: Pin | None,
    segmenter: SegmenterPins | None = None,
) -> str:
    """The name of the store of maps: a function of everything that a map depends on."""
    source, method = saliency_source(settings), saliency_method(settings)
    inputs: dict[str, Any] = {
        "dataset": str(split.pin),
        "config": settings.dataset_config_name,
        "split": settings.dataset_split,
        "label_column": settings.label_column,
        "column": settings.image_column,
        "rows": hashlib.sha256(split.subset.tobytes()).hexdigest(),
        "method": method,
        "resize": settings.resize,
    }
    if settings.max_image_pixels is not None:
        inputs["max_image_pixels"] = settings.max_image_pixels
    if source.needs == "classifier":
        inputs |= {"classifier": str(classifier)}
    if source.needs == "segmenter" and segmenter is not None:
        inputs |= {
            "segmenter": str(segmenter.segmenter),
            "detector": str(segmenter.detector),
            "words": list(segmenter.words),
        }
    inputs |= {key: getattr(settings, name) for key, name in source.key_settings.items()}
    if source.edition > 1:
        inputs["edition"] = source.edition
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    return f"{method}-{digest[:16]}"


def load_network(
    settings: AugmentSettings,
    split: Split,
    classifier: Pin | None,
    segmenter: SegmenterPins | None,
    device: torch.device,
) -> Network:
    """The network that the saliency method needs, if any. Raises `UserError`."""
    needs = saliency_source(settings).needs
    if needs == "classifier" and classifier is not None:
        return load_classifier(classifier, split.class_names, device)
    if needs == "segmenter" and segmenter is not None:
        network = load_segmenter(segmenter, settings.segmenter_instances, settings.resize, device)
        if network.needs_boxes and settings.bbox_column is None:
            raise UserError(
                f"the segmenter {segmenter.segmenter.name} masks what is in a box: give --detector "
                "and what it looks for, or --bbox_column"
            )
        return network
    return None


def _tested(
    settings: AugmentSettings,
    split: Split,
    classifier: Pin,
    folder: Path,
    rank: int,
    device: torch.device,
    store: Store,
) -> Trust:
    """The result of the trust test, which rank 0 makes once. Warns if it fails."""
    path = folder / "trust.json"

    def start() -> None:
        store.bring(path)
        _drop_damaged_test(path)

    on_rank_zero(start)
    if rank == 0 and not path.exists():
        cam = load_cam(settings, load_classifier(classifier, split.class_names, device))
        for doubt in doubts_of_size(cam):
            logger.warning(doubt)
        write_sealed(path, asdict(trust_test(cam.classifier, cam.size, split, settings.resize)))
        store.keep(path)
    wait_for_file(path)
    trust = Trust(**read_sealed(path))
    if trust.reads_background:
        falls_back = settings.trust_test == "fall-back"
        remedy = (
            f"using {FALL_BACK} instead" if falls_back else f"try --saliency_method {FALL_BACK}"
        )
        logger.warning(
            f"the classifier reads the background ({trust}), so its maps find the background: "
            f"{remedy}"
        )
    return trust


def _drop_damaged_test(path: Path) -> None:
    try:
        read_sealed(path)
    except DamagedFile as damage:
        say(made_again(damage))
        path.unlink()
    except FileNotFoundError:
        pass


def doubts_of_size(cam: CamSaliency) -> list[str]:
    """Reasons why the maps of this input size may be bad, as sentences."""
    doubts, trained = [], cam.classifier.preprocessing.resize_size
    if min(cam.grid) < SMALLEST_GRID:
        doubts.append(
            f"{cam.layer_name} gives maps of {cam.grid[0]}x{cam.grid[1]} cells at input size "
            f"{cam.size}; a good mask needs {SMALLEST_GRID}x{SMALLEST_GRID}: raise "
            "--saliency_input_size or name an earlier --saliency_layer"
        )
    if cam.size > LARGEST_SCALE * trained:
        largest = int(LARGEST_SCALE * trained)
        doubts.append(
            f"the classifier was trained at {trained} and is less accurate at {cam.size}, the size "
            f"that makes the maps: give a --saliency_input_size of at most {largest}, "
            "or train it with a larger --image_size"
        )
    return doubts


def block_maps(settings: AugmentSettings, split: Split, rows: np.ndarray, source: Source) -> Block:
    """What is found in one block, (k, ...) of `row_type`, and the reasons of rows without a map
    (zeros).
    """
    stored = row_type(saliency_method(settings))
    values = np.zeros(len(rows), stored)
    unusable: dict[str, str] = {}
    for position, found in enumerate(found_in(settings, split, rows, source)):
        if isinstance(found, Unusable):
            unusable[str(rows[position])] = found.reason
        elif stored.names is None:
            values[position] = found.map
        else:
            values[position] = _stored_fields(found, stored.names)
    return values, unusable


def _stored_fields(found: Found, names: tuple[str, ...]) -> tuple:
    fields: dict[str, object] = {"map": found.map}
    if "mask" in names:
        assert found.mask is not None, "the source says that it gives masks"
        fields["mask"] = np.packbits(found.mask)
    if "confidence" in names:
        assert found.confidence is not None, "the source says that it gives confidences"
        fields["confidence"] = found.confidence
    return tuple(fields[name] for name in names)


def found_in(
    settings: AugmentSettings, split: Split, rows: np.ndarray, source: Source
) -> Iterator[Found | Unusable]:
    """What a source finds in rows of a split; decodes only one batch of the source at a time."""
    for start in range(0, len(rows), source.batch_size):
        batch = rows[start : start + source.batch_size]
        decoded = [attempt(_source_inputs, settings, split, row) for row in batch]

        labels = split.labels[batch].tolist()

        def find(
            positions: list[int], inputs: list[list[Any]], labels: list[int] = labels
        ) -> list[Found | Unusable]:
            images, *stored = map(list, zip(*inputs, strict=True))
            known = [labels[position] for position in positions]
            return source.found(images, known, stored[0] if stored else None)

        yield from among_usable(decoded, find)


def _source_inputs(settings: AugmentSettings, split: Split, row: int) -> list[Stored]:
    """The row's image and, if the saliency method reads a column, its mask or box. Raises
    `UnusableRow`.
    """
    image, source = split.image(row), saliency_source(settings)
    if source.needs == "column":
        return [image, split.image(row, settings.mask_column)]
    reads_boxes = source.needs in ("segmenter", "boxes")
    if reads_boxes and settings.bbox_column is not None:
        assert settings.bbox_format is not None, "settings with a column of boxes name its format"
        cell = split.cell(row, settings.bbox_column)
        return [image, box_of(cell, settings.bbox_format)]
    return [image]


def stored_mask(settings: AugmentSettings, split: Split, row: int) -> Image.Image | None:
    """The row's foreground mask in the dataset, foreground above one half, if the saliency method
    reads masks. Raises `UnusableRow`.
    """
    source = saliency_source(settings)
    if source.needs != "column":
        return None
    mask = split.image(row, settings.mask_column)
    return centred_mask(mask) if source.reads_predictions else mask
