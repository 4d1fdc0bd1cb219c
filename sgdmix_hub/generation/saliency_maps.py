"""The saliency maps of a whole split: which method makes them, after the trust test, and where they
are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from sgdmix_hub.data.images import square
from sgdmix_hub.data.splits import Split
from sgdmix_hub.errors import Unusable, UnusableRow, among_usable, attempt
from sgdmix_hub.files import DamagedFile, made_again, read_sealed, write_sealed
from sgdmix_hub.hub.pins import Pin
from sgdmix_hub.method.backgrounds import BANDS, FEATURES_PER_BAND, SIZE, background_features
from sgdmix_hub.method.masks import foreground_mask, share_of
from sgdmix_hub.method.saliency.cam import SMALLEST_GRID, CamSaliency
from sgdmix_hub.method.saliency.model_free import MAP_SIZE
from sgdmix_hub.method.saliency.sources import Found, Source, load_cam, load_source
from sgdmix_hub.method.saliency.trust import Trust, trust_test
from sgdmix_hub.models.loading import load_classifier
from sgdmix_hub.runtime.ranks import on_rank_zero, say
from sgdmix_hub.runtime.stopping import wait_for_file
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.method import FALL_BACK, saliency_source

from .row_store import Block, RowStore, compute_rows

if TYPE_CHECKING:
    from sgdmix_hub.models.classifier import Classifier

MASK_SETTINGS = (
    "threshold_method",
    "threshold_quantile",
    "mask_refinement",
    "largest_component",
    "fill_holes",
    "mask_dilation",
)
LARGEST_SCALE = 1.5  # of the size a classifier was trained at; at twice that size a small network lost half of its accuracy


@dataclass(frozen=True)
class SaliencyMaps:
    """The maps of a split's subset, indexed by the split's rows, with the name of their store, the
    method that made them, and what the trust test of a CAM found.
    """

    store: RowStore
    key: str
    method: str
    trust: Trust | None

    def __getitem__(self, rows) -> np.ndarray:
        """float16 (64, 64) for one row, (k, 64, 64) for an array of rows."""
        return self.store[rows]

    @property
    def unusable(self) -> dict[int, str]:
        """Row -> the reason why it has no map."""
        return self.store.unusable


def compute_maps(
    settings: AugmentSettings,
    split: Split,
    classifier: Pin | None,
    rank: int,
    world_size: int,
    device: torch.device,
) -> SaliencyMaps:
    """All maps of the split's subset, each made once by some process of the launch."""
    root, trust = saliency_root(settings), None
    if saliency_source(settings).needs == "classifier":
        trust = _tested(
            settings, split, classifier, root / store_key(settings, split, classifier), rank, device
        )
        if trust.reads_background and settings.trust_test == "fall-back":
            settings, classifier = replace(settings, saliency_method=FALL_BACK), None
    key = store_key(settings, split, classifier)

    def prepare() -> Callable[[np.ndarray], Block]:
        source = load_source(settings, _network(settings, split, classifier, device))
        return lambda rows: block_maps(settings, split, rows, source)

    return SaliencyMaps(
        compute_rows(root / key, split, prepare, rank, world_size),
        key,
        settings.saliency_method,
        trust,
    )


def saliency_root(settings: AugmentSettings) -> Path:
    """The folder of all stores of a run, or of all runs that share it."""
    return (
        Path(settings.saliency_dir)
        if settings.saliency_dir
        else Path(settings.output_dir) / "state" / "saliency"
    )


def store_key(settings: AugmentSettings, split: Split, classifier: Pin | None) -> str:
    """Everything a map depends on, as a folder name."""
    source, method = saliency_source(settings), settings.saliency_method
    inputs = {
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
        inputs |= {"max_image_pixels": settings.max_image_pixels}
    if source.needs == "classifier":
        inputs |= {"classifier": str(classifier)}
    inputs |= {key: getattr(settings, name) for key, name in source.key_settings.items()}
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    return f"{method}-{digest[:16]}"


def _network(
    settings: AugmentSettings, split: Split, classifier: Pin | None, device: torch.device
) -> Classifier | None:
    """The classifier, if the saliency method needs one. Raises `UserError`."""
    if saliency_source(settings).needs != "classifier":
        return None
    return load_classifier(classifier, split.class_names, device)


def _tested(
    settings: AugmentSettings,
    split: Split,
    classifier: Pin,
    folder: Path,
    rank: int,
    device: torch.device,
) -> Trust:
    """What the trust test finds; rank 0 makes it once and warns."""
    path = folder / "trust.json"
    on_rank_zero(lambda: _drop_damaged_test(path))
    if rank == 0 and not path.exists():
        cam = load_cam(settings, load_classifier(classifier, split.class_names, device))
        for doubt in doubts_of_size(cam):
            say(f"warning: {doubt}")
        write_sealed(path, asdict(trust_test(cam.classifier, cam.size, split, settings.resize)))
    wait_for_file(path)
    trust = Trust(**read_sealed(path))
    if trust.reads_background:
        remedy = (
            f"taking {FALL_BACK} instead"
            if settings.trust_test == "fall-back"
            else f"try --saliency_method {FALL_BACK}"
        )
        say(
            f"warning: the classifier reads the background ({trust}), so its maps find the background: {remedy}"
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
    """Why maps may be bad at this input size, in sentences; none where nothing speaks against it."""
    found, trained = [], cam.classifier.preprocessing.resize_size
    if min(cam.grid) < SMALLEST_GRID:
        found.append(
            f"{cam.layer_name} gives maps of {cam.grid[0]}x{cam.grid[1]} cells at input {cam.size}, too coarse for a good "
            "mask (7x7 at least): raise --saliency_input_size or name an earlier --saliency_layer"
        )
    if cam.size > LARGEST_SCALE * trained:
        found.append(
            f"the classifier looks at images of {cam.size} and was trained at {trained}, where it is right more often: "
            f"give a --saliency_input_size of at most {int(LARGEST_SCALE * trained)}, or train it with a larger --image_size"
        )
    return found


def block_maps(settings: AugmentSettings, split: Split, rows: np.ndarray, source: Source) -> Block:
    """Maps of one block, float16 (k, 64, 64), zeros for a row without one, and by row the reasons
    why it has none.
    """
    maps = np.zeros((len(rows), MAP_SIZE, MAP_SIZE), np.float16)
    unusable: dict[str, str] = {}
    for position, found in enumerate(found_in(settings, split, rows, source)):
        if isinstance(found, Unusable):
            unusable[str(rows[position])] = found.reason
        else:
            maps[position] = found.map
    return maps, unusable


def found_in(
    settings: AugmentSettings, split: Split, rows: np.ndarray, source: Source
) -> Iterator[Found | Unusable]:
    """What a source finds in rows of a split; no more images are decoded than it looks at together."""
    for start in range(0, len(rows), source.batch_size):
        batch = rows[start : start + source.batch_size]
        decoded = [attempt(_source_inputs, settings, split, row) for row in batch]

        def found(positions: list[int], batch=batch, decoded=decoded) -> list[Found | Unusable]:
            images, *masks = map(list, zip(*(decoded[i] for i in positions), strict=True))
            labels = split.labels[batch[positions]].tolist()
            return source.found(images, labels, masks[0] if masks else None)

        yield from among_usable(decoded, found)


def _source_inputs(settings: AugmentSettings, split: Split, row: int) -> list[Image.Image]:
    """The row's image and, if the saliency method reads masks, its mask. Raises `UnusableImage`."""
    image, mask = split.image(row), stored_mask(settings, split, row)
    return [image] if mask is None else [image, mask]


def stored_mask(settings: AugmentSettings, split: Split, row: int) -> Image.Image | None:
    """The row's foreground mask in the dataset, if the saliency method reads masks. Raises
    `UnusableImage`.
    """
    if saliency_source(settings).needs != "column":
        return None
    return split.image(row, settings.mask_column)


def compute_backgrounds(
    settings: AugmentSettings, split: Split, maps: SaliencyMaps, rank: int, world_size: int
) -> RowStore:
    """The features of every image of the subset that has a saliency map, zeros elsewhere; each made
    once by some process of the launch.
    """
    inputs = {name: getattr(settings, name) for name in MASK_SETTINGS} | {"maps": maps.key}
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()

    def prepare() -> Callable[[np.ndarray], Block]:
        return lambda rows: (
            np.stack([features_of(settings, split, maps, row) for row in rows]),
            {},
        )

    return compute_rows(
        saliency_root(settings) / f"backgrounds-{digest[:16]}", split, prepare, rank, world_size
    )


def features_of(
    settings: AugmentSettings, split: Split, maps: SaliencyMaps, row: int
) -> np.ndarray:
    """The features of one image of a split, float32 (16,); zeros where it has no saliency map, or
    no mask.
    """
    if int(row) not in maps.unusable:
        with suppress(UnusableRow):
            image, stored = split.image(row), stored_mask(settings, split, row)
            pixels = np.asarray(square(image, SIZE, settings.resize))
            share = (
                None
                if stored is None
                else share_of(stored, image.size, None, SIZE, settings.resize)
            )
            return background_features(pixels, foreground_mask(pixels, maps[row], settings, share))
    return np.zeros(BANDS * FEATURES_PER_BAND, np.float32)
