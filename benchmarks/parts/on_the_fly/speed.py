"""Images a CPU second of one worker: a data loader alone, and with images mixed on the fly.

CPU time is measured, in the process that loads, because other work may share the machine. What a
worker pays beyond it, to pass batches on, is the same for all arms.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from photographs import photographs
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from sgdmix_hub import MixedDataset
from sgdmix_hub.pipeline import SGDMixPipeline

ASPECT = 4 / 3
INPUTS = {256: 224, 512: 448}  # shorter side of the photographs -> input of the network
PROBABILITIES = (0.0, 0.5, 1.0)
IMAGES = 64


@dataclass(frozen=True)
class Speed:
    """Images a CPU second, pass by pass. `size`: the photographs' shorter side."""

    size: int
    arm: str
    passes: list[float]


def photographs_of(size: int, folder: Path) -> Dataset:
    """JPEG files of `IMAGES` crops of photographs, 4:3, with `size` pixels on the shorter side."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, paths, labels = np.random.default_rng(0), [], []
    images, names = photographs(1)
    for number in range(IMAGES):
        label = number % len(images)
        path = folder / f"{number:03d}.jpg"
        if not path.exists():
            _crop(images[label], rng, size).save(path, quality=95)
        paths.append(str(path))
        labels.append(label)
    features = Features(image=ImageFeature(), label=ClassLabel(names=names))
    return Dataset.from_dict({"image": paths, "label": labels}, features=features)


def _crop(image: Image.Image, rng: np.random.Generator, size: int) -> Image.Image:
    """A random 4:3 part, at least .8 of the largest one, scaled."""
    width = min(image.width, image.height * ASPECT) * rng.uniform(0.8, 1)
    height = width / ASPECT
    left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
    box = (left, top, left + width, top + height)
    return image.resize((round(size * ASPECT), size), Image.Resampling.LANCZOS, box=box)


def augmentation(size: int) -> v2.Compose:
    """The usual augmentation of a training."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(size),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )


class Alone(torch.utils.data.Dataset):
    """The same rows, decoded by `datasets` and augmented, without anything of this package."""

    def __init__(self, rows: Dataset, transform: v2.Compose):
        self.rows, self.transform = rows, transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        row = self.rows[index]
        return {"image": self.transform(row["image"]), "label": row["label"]}


def measure(size: int, folder: Path, seconds: float) -> list[Speed]:
    """All arms in turn, pass by pass, so that a busy machine slows all of them alike."""
    cv2.setNumThreads(1)
    rows = photographs_of(size, folder / f"photographs-{size}")
    # masks that are made quickly: what made them does not matter for the speed of mixing
    pipeline = SGDMixPipeline.from_pretrained(
        strength=0, resolution=size, saliency_method="minimum-barrier"
    )
    transform = augmentation(INPUTS[size])
    arms: dict[str, torch.utils.data.Dataset] = {"data loader alone": Alone(rows, transform)}
    for probability in PROBABILITIES:
        arms[f"mixed, p = {probability:g}"] = MixedDataset(
            rows,
            folder / "prepared",
            pipeline=pipeline,
            probability=probability,
            transform=transform,
        )
    loaders = {name: DataLoader(arm, batch_size=16, num_workers=0) for name, arm in arms.items()}
    passes: dict[str, list[float]] = {name: [] for name in arms}
    for loader in loaders.values():
        _pass(loader)  # reads the files once
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, loader in loaders.items():
            passes[name].append(_pass(loader))
    return [Speed(size, name, values) for name, values in passes.items()]


def _pass(loader: DataLoader) -> float:
    started = time.process_time()
    images = sum(len(batch["label"]) for batch in loader)
    return images / (time.process_time() - started)
