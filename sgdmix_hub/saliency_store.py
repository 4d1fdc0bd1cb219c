"""The saliency maps of a whole split on disk: made in blocks by any number of processes, merged once, memory-mapped.

A block is the same whatever process makes it, and its `.json` is written last: it is the block's done-marker.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .config import AugmentSettings, UserError
from .data import Split, UnusableImage
from .pins import MODEL_FILES, Pin, local_folder
from .processes import read_json, stop_if_requested, wait_for_file, write_atomically, write_json
from .saliency import MAP_SIZE, GradCamSaliency, is_blank, mask_column_map, spectral_residual_map

BLOCK_ROWS = 128
BATCH_ROWS = 16


class SaliencyMaps:
    """The maps of a split's subset, indexed by the split's rows; `unusable` maps a row to the reason why it has none."""

    def __init__(self, folder: Path, split: Split):
        self._maps = np.load(folder / "maps.npy", mmap_mode="r")
        self._position = np.full(len(split.rows), -1, dtype=np.int64)
        self._position[split.subset] = np.arange(len(split.subset))
        self.unusable = {int(row): reason for row, reason in read_json(folder / "unusable.json").items()}

    def __getitem__(self, rows) -> np.ndarray:
        """float16 (64, 64) for one row, (k, 64, 64) for an array of rows."""
        return self._maps[self._position[rows]]


def compute_maps(
    settings: AugmentSettings, split: Split, classifier: Pin | None, rank: int, world_size: int, device: torch.device
) -> SaliencyMaps:
    """All maps of the split's subset. Every process makes its blocks, rank 0 merges, the others wait for the merged file."""
    root = Path(settings.saliency_dir) if settings.saliency_dir else Path(settings.output_dir) / "state" / "saliency"
    folder = root / store_key(settings, split, classifier)
    if not (folder / "unusable.json").exists():
        _compute_blocks(settings, split, classifier, folder, rank, world_size, device)
        if rank == 0:
            _merge(folder, split)
        wait_for_file(folder / "unusable.json")
    return SaliencyMaps(folder, split)


def store_key(settings: AugmentSettings, split: Split, classifier: Pin | None) -> str:
    """Everything a map depends on, as a folder name."""
    inputs = {
        "dataset": str(split.pin),
        "config": settings.dataset_config_name,
        "split": settings.dataset_split,
        "label_column": settings.label_column,
        "column": settings.mask_column if settings.saliency_method == "mask-column" else settings.image_column,
        "rows": hashlib.sha256(split.subset.tobytes()).hexdigest(),
        "method": settings.saliency_method,
        "classifier": str(classifier),
        "layer": settings.saliency_layer,
        "input_size": settings.saliency_input_size,
        "resize": settings.resize,
    }
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    return f"{settings.saliency_method}-{digest[:16]}"


def _blocks(split: Split) -> list[np.ndarray]:
    return [split.subset[start : start + BLOCK_ROWS] for start in range(0, len(split.subset), BLOCK_ROWS)]


def _compute_blocks(settings, split, classifier, folder, rank, world_size, device) -> None:
    blocks = _blocks(split)
    mine = [b for b in range(rank, len(blocks), world_size) if not (folder / f"block-{b:05d}.json").exists()]
    if not mine:
        return
    grad_cam = None
    if settings.saliency_method == "grad-cam":
        grad_cam = GradCamSaliency(local_folder(classifier, MODEL_FILES), device, settings.saliency_layer, settings.saliency_input_size)
        _check_classes(grad_cam, split)
    for block in mine:
        stop_if_requested()
        maps, unusable = block_maps(settings, split, blocks[block], grad_cam)
        write_atomically(folder / f"block-{block:05d}.npy", lambda path, maps=maps: _save_array(path, maps))
        write_json(folder / f"block-{block:05d}.json", unusable)


def _check_classes(grad_cam: GradCamSaliency, split: Split) -> None:
    names = [grad_cam.model.config.id2label[i] for i in range(grad_cam.model.config.num_labels)]
    if names != split.class_names:
        raise UserError(
            f"the classifier's {len(names)} classes are not the dataset's {len(split.class_names)}: "
            "train one with scripts/train_classifier.py"
        )


def block_maps(
    settings: AugmentSettings, split: Split, rows: np.ndarray, grad_cam: GradCamSaliency | None
) -> tuple[np.ndarray, dict[str, str]]:
    """Maps of one block, float16 (k, 64, 64), zeros where there is none, and the reasons for those, by row."""
    maps = np.zeros((len(rows), MAP_SIZE, MAP_SIZE), np.float16)
    unusable: dict[str, str] = {}
    images: list[tuple[int, Image.Image]] = []
    for position, row in enumerate(rows):
        try:
            image = split.image(row)
            if settings.saliency_method == "grad-cam":
                images.append((position, image))
            elif settings.saliency_method == "mask-column":
                maps[position] = mask_column_map(split.image(row, settings.mask_column), settings.resize)
            else:
                maps[position] = spectral_residual_map(image, settings.resize)
        except UnusableImage as reason:
            unusable[str(row)] = str(reason)
    for batch in _padded_batches(images):
        pixels = torch.stack([grad_cam.pixel_values(image, settings.resize) for _, image in batch])
        batch_maps = grad_cam.maps(pixels, [int(split.labels[rows[position]]) for position, _ in batch])
        for (position, _), saliency_map in zip(batch, batch_maps, strict=True):
            maps[position] = saliency_map
    for position, row in enumerate(rows):
        if str(row) not in unusable and is_blank(maps[position]):
            unusable[str(row)] = "blank saliency map"
    return maps, unusable


def _padded_batches(images: list) -> Iterator[list]:
    """Batches of one size, the last filled up with its last image: the bits of a map depend on the size of its batch."""
    for start in range(0, len(images), BATCH_ROWS):
        batch = images[start : start + BATCH_ROWS]
        yield batch + [batch[-1]] * (BATCH_ROWS - len(batch))


def _save_array(path: Path, values: np.ndarray) -> None:
    with open(path, "wb") as file:
        np.save(file, values)


def _merge(folder: Path, split: Split) -> None:
    blocks = _blocks(split)
    unusable: dict[str, str] = {}
    shape = (len(split.subset), MAP_SIZE, MAP_SIZE)
    temporary = folder / f".maps.{os.getpid()}.tmp"
    merged = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
    for number, rows in enumerate(blocks):
        marker = folder / f"block-{number:05d}.json"
        wait_for_file(marker)
        start = number * BLOCK_ROWS
        try:
            merged[start : start + len(rows)] = np.load(marker.with_suffix(".npy"))
        except FileNotFoundError:
            if not (folder / "unusable.json").exists():
                raise
            temporary.unlink()
            return  # another run that shares the folder has merged them
        unusable |= read_json(marker)
    merged.flush()
    os.replace(temporary, folder / "maps.npy")
    write_json(folder / "unusable.json", unusable)
    for number in range(len(blocks)):
        (folder / f"block-{number:05d}.npy").unlink(missing_ok=True)
