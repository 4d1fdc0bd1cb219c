"""SGD-Mix on the fly: a training's own dataset, some of whose images get other backgrounds.

    train = MixedDataset(dataset, "outputs/mixing", probability=0.5, transform=augmentation)
    for epoch in range(100):
        train.set_epoch(epoch)
        ...

Masks and filled backgrounds are prepared once, in a folder; then mixing needs no model. A
mixture is that of a generation at strength 0, at the image's own size.
"""

from __future__ import annotations

import dataclasses
import logging
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import datasets
import numpy as np
import torch
from PIL import Image
from torch.utils.data import get_worker_info

from sgdmix_hub.data.images import ANYWHERE
from sgdmix_hub.data.splits import Split, split_of, unlabelled_split
from sgdmix_hub.data.torch_split import torch_split
from sgdmix_hub.generation.bank import Bank, NoForeground, with_bank
from sgdmix_hub.generation.forks import end_threads_before_forks
from sgdmix_hub.generation.plan import low_confidence
from sgdmix_hub.generation.prepared import (
    prepare_images,
    prepare_maps,
    prepare_targets,
    with_labels,
)
from sgdmix_hub.generation.saliency_maps import store_key
from sgdmix_hub.hub.pins import Pin
from sgdmix_hub.method.mixing import KEPT
from sgdmix_hub.method.overlay import cut, overlay, scaled, shown_box, softened
from sgdmix_hub.method.saliency.sources import load_source
from sgdmix_hub.method.targets import NO_TARGET
from sgdmix_hub.settings.generation import AugmentSettings, bank_settings
from sgdmix_hub.settings.reasons import most_common

from ._compat import dataset_fingerprint
from .errors import UserError
from .pipeline import SGDMixPipeline
from .seeds import RandomStream, generator

logger = logging.getLogger(__name__)
RESOLUTION = 256  # of masks and backgrounds, without a pipeline that says another


class SGDMixTransform:
    """Puts the foreground of a dataset's image in front of another image's background.

    `transform(image, row)` gives the image of that row as it is or, with `probability`, mixed: an
    RGB image of the same size. What it draws is a function of (seed, epoch, row), so that it does
    not depend on the number of workers. Images without a mask that can be trusted are never mixed.
    """

    def __init__(
        self,
        dataset: Any,
        folder: str | Path,
        *,
        pipeline: SGDMixPipeline | None = None,
        probability: float = 0.5,
        seed: int = 0,
        num_targets: int = 16,
        image_column: str = "image",
        label_column: str = "label",
        backgrounds: Any = None,
        background_image_column: str = "image",
        background_has_foreground: bool = False,
        num_workers: int = 0,
    ):
        """Prepares the dataset, or opens what was prepared before.

        Several processes may do so at once: one of a machine prepares, the others wait.

        Args:
            dataset: split of `datasets`, or map-style dataset of (PIL image, label, ...) without a
                transform.
            folder: keeps what is prepared: per image `resolution`^2 * 3 bytes for its background
                and at most 50 kB. Many datasets and settings may share one.
            pipeline: what finds the masks, and how images are mixed; without a refiner. By default
                `SGDMixPipeline.from_pretrained(strength=0, resolution=256)`. `resolution` is the
                size at which masks and backgrounds are kept: give that of your training.
            probability: of an image to be mixed.
            seed: of what each epoch draws.
            num_targets: how many targets are chosen for each image; an epoch draws one of them.
                Each is the best of `num_candidates`, by `selection_method`.
            image_column, label_column: of a split of `datasets`.
            backgrounds: another dataset, whose images are the targets; needs no labels. All of them
                is background unless `background_has_foreground`.
            num_workers: processes that prepare masks without a network, and backgrounds.

        Raises `UserError`, and `ValueError` if the pipeline's models were not loaded by
        `from_pretrained`.
        """
        if not 0 <= probability <= 1:
            raise UserError(f"probability is {probability}: give a value in [0, 1]")
        end_threads_before_forks()
        pipeline = pipeline or SGDMixPipeline.from_pretrained(strength=0, resolution=RESOLUTION)
        _check_pipeline(pipeline)
        folder = Path(folder)
        values: dict[str, Any] = dataclasses.asdict(pipeline.settings)
        values["num_variants"] = num_targets
        settings = AugmentSettings(
            dataset_name="dataset",
            output_dir="unused",
            image_column=image_column,
            label_column=label_column,
            **values,
        )
        split = _labelled(dataset, image_column, label_column, folder, num_workers)
        _check_classes(pipeline, split, isinstance(dataset, datasets.Dataset))
        source, pins = pipeline.source or load_source(settings), pipeline.pins or {}
        maps = prepare_maps(settings, split, source, pins, folder, num_workers)
        bank = None
        if backgrounds is not None:
            settings = with_bank(settings, background_image_column, background_has_foreground)
            own = bank_settings(settings)
            others = _unlabelled(backgrounds, background_image_column)
            found: Any = NoForeground(f"{store_key(own, others, None)}-whole")
            if background_has_foreground:
                found = prepare_maps(own, others, source, pins, folder, num_workers)
            bank = Bank(own, others, found, len(split.labels))
        self.images = prepare_images(settings, split, maps, bank is None, folder, num_workers)
        self.backgrounds = self.images
        if bank is not None:
            self.backgrounds = prepare_images(
                bank.settings, bank.split, bank.maps, True, folder, num_workers
            )
        self.targets_path = prepare_targets(
            settings, split, maps, bank, self.images, self.backgrounds, folder
        )
        self.first = 0 if bank is None else bank.first
        self.probability, self.seed = probability, seed
        self.settings, self.split = settings, split
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._report(self.images.unusable | low_confidence(settings, split, maps))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "targets"}

    @cached_property
    def targets(self) -> np.ndarray:
        """int64 (rows, num_targets), memory-mapped; `NO_TARGET` in the places that are left."""
        return np.load(self.targets_path, mmap_mode="r")

    def _report(self, unusable: dict[int, str]) -> None:
        """Warns about images that are never mixed. Raises `UserError` if that is all of them."""
        rows = self.split.subset
        mixed = int((self.targets[rows, 0] != NO_TARGET).sum())
        reasons = most_common(unusable.values())
        text = f"of {len(rows)} images can be mixed{f' ({reasons})' if reasons else ''}"
        if mixed == 0:
            raise UserError(f"none {text}: choose another source of masks")
        if mixed < len(rows):
            logger.warning(f"{mixed} {text}; the others stay as they are")

    @property
    def epoch(self) -> int:
        """The number of the epoch, which workers of a data loader share."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Chooses other images to mix, and other targets. Call it before every epoch."""
        self._epoch.fill_(epoch)

    def drawn(self, row: int) -> int | None:
        """The row of this epoch's target in the dataset, or in the bank; None: it is not mixed."""
        rng = generator(RandomStream.ON_THE_FLY, self.seed, self.epoch, row)
        if rng.random() >= self.probability:
            return None
        targets = self.targets[row]
        count = int((targets != NO_TARGET).sum())
        return int(targets[rng.integers(count)]) - self.first if count else None

    def __call__(self, image: Image.Image, row: int) -> Image.Image:
        """The image of a row, RGB, mixed if this epoch says so.

        Raises `ValueError` if it has another size than when it was prepared.
        """
        image, target = image.convert("RGB"), self.drawn(row)
        if target is None:
            return image
        size = self.images.size(row)
        if image.size != size:
            raise ValueError(
                f"the image of row {row} had {size[0]}x{size[1]} pixels when it was prepared, and "
                f"has {image.width}x{image.height} now: mix before any other transform"
            )
        if get_worker_info() is not None and cv2.getNumThreads() > 1:
            cv2.setNumThreads(1)  # the workers of a loader share the processors already
        method, feather = self.settings.mixing_method, self.settings.feather
        assert method is not None and feather is not None, "the preset is applied"
        mask = self.images.mask(row)
        box = (0, 0, *mask.shape)
        other = self.backgrounds.mask(target)
        if self.settings.crop_target:
            box = shown_box(other, self.backgrounds.size(target), size)
        if method == "union":
            other = scaled(cut(other, box).astype(np.uint8), *mask.shape).astype(bool)
        share = softened(KEPT[method](mask, other), feather)
        background = cut(self.backgrounds.background(target), box)
        return Image.fromarray(overlay(np.asarray(image), background, share, feather == 0.0))


class MixedDataset(torch.utils.data.Dataset):
    """A map-style dataset whose images are mixed on the fly, then given to `transform`.

    Over a split of `datasets`, a row is a dictionary of its image (RGB), its label as a class
    number and its other columns, without other images. Over any other dataset it is the tuple that
    this gives.
    """

    def __init__(self, dataset: Any, folder: str | Path, *, transform: Any = None, **mixing: Any):
        """`transform`: of the image alone, mixed or not. `mixing`: as `SGDMixTransform` takes."""
        self.dataset = dataset
        self.transform = transform
        self.mix = SGDMixTransform(dataset, folder, **mixing)

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        """As `SGDMixTransform.set_epoch`."""
        self.mix.set_epoch(epoch)

    def __getitem__(self, index: int) -> Any:
        row = int(index)
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        row %= len(self)
        if isinstance(self.dataset, datasets.Dataset):
            split = self.mix.split
            cells = split.rows[row]
            values = {name: cells[name] for name in cells if not split.is_image_column(name)}
            image = self._finished(split.decoded(cells[split.image_column]), row)
            return {split.image_column: image} | values | self._label(row)
        image, *others = self.dataset[row]
        return (self._finished(image, row), *others)

    def _label(self, row: int) -> dict[str, int]:
        return {self.mix.settings.label_column: int(self.mix.split.labels[row])}

    def _finished(self, image: Image.Image, row: int) -> Any:
        mixed = self.mix(image, row)
        return mixed if self.transform is None else self.transform(mixed)


def _check_pipeline(pipeline: SGDMixPipeline) -> None:
    if pipeline.pins is None and (pipeline.refiner, pipeline.source) != (None, None):
        raise ValueError(
            "the models of this pipeline are unknown: load it with SGDMixPipeline.from_pretrained"
        )
    if pipeline.settings.refines:
        raise UserError("mixing on the fly does not refine: give a pipeline of strength=0")
    if pipeline.settings.resize != "stretch":
        raise UserError("mixing on the fly keeps whole images: leave resize out")


def _check_classes(pipeline: SGDMixPipeline, split: Split, has_names: bool) -> None:
    """Raises `UserError` if class numbers mean other classes to the pipeline's classifier."""
    known = pipeline.class_names
    if known is None:
        return
    if (known != split.class_names) if has_names else (len(known) != len(split.class_names)):
        raise UserError(
            f"the pipeline's classifier was trained on {len(known)} classes, which are not the "
            f"{len(split.class_names)} classes of the dataset"
        )


def _labelled(
    dataset: Any, image_column: str, label_column: str, folder: Path, num_workers: int
) -> Split:
    if isinstance(dataset, datasets.Dataset):
        return split_of(
            _as_stored(dataset), _pin(dataset), image_column, label_column, files_in=ANYWHERE
        )
    return with_labels(torch_split(dataset), folder, num_workers)


def _unlabelled(dataset: Any, image_column: str) -> Split:
    if isinstance(dataset, datasets.Dataset):
        return unlabelled_split(_as_stored(dataset), _pin(dataset), image_column, ANYWHERE)
    return torch_split(dataset)


def _pin(dataset: datasets.Dataset) -> Pin:
    return Pin("dataset", dataset_fingerprint(dataset))


def _as_stored(dataset: datasets.Dataset) -> datasets.Dataset:
    """The dataset without a format of its own. Raises `UserError` if that is a transform."""
    if dataset.format["type"] == "custom":
        raise UserError(
            "the dataset has a transform: leave it out, and give it to MixedDataset as transform="
        )
    return dataset.with_format(None)
