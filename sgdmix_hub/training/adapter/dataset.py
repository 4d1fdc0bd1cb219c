"""The n-th sample of a training: its image, whether it is mirrored, its noise.

Everything about a sample is a function of (seed, n), so a resumed training continues with the same
samples. Processes, batches and accumulation only decide who takes which sample of a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from sgdmix_hub.data.images import Frame, fitted, frame_for, trained_geometry
from sgdmix_hub.data.splits import Split
from sgdmix_hub.seeds import sample_seed

from .order import FrameOrder, SampleOrder


class DomainImages(torch.utils.data.Dataset):
    """Sample number -> its image, the image's row in the split, its label, and its frame.

    `pixels`: float32 (3, h, w) in [-1, 1], not mirrored; empty without `decoded`, when latents are
    cached. `frame`: width and height of the image as it is trained on, a square but for
    `aspect-buckets`, where the samples of an optimizer step have one frame.
    """

    def __init__(
        self,
        split: Split,
        rows: np.ndarray,
        seed: int,
        resolution: int,
        resize: str,
        decoded: bool = True,
        total_batch_size: int = 1,
    ):
        self.split, self.rows, self.decoded = split, rows, decoded
        self.resolution, self.resize = resolution, resize
        self.order = SampleOrder(rows, seed)
        self.frames: dict[int, Frame] = {}
        if resize == "aspect-buckets":
            sizes = {int(row): split.size(int(row)) for row in rows}
            self.frames = {row: frame_for(size, resolution, resize) for row, size in sizes.items()}
            self.order = FrameOrder(rows, list(self.frames.values()), seed, total_batch_size)

    def frame(self, row: int) -> Frame:
        """Width and height of a row of the split as it is trained on."""
        return self.frames.get(row, (self.resolution, self.resolution))

    def pixels(self, position: int) -> torch.Tensor:
        """The image at a position in `rows`."""
        return self.pixels_of(int(self.rows[position]))

    def pixels_of(self, row: int) -> torch.Tensor:
        """The image of a row of the split."""
        return to_pixels(fitted(self.split.image(row), self.frame(row), self.resize))

    def __getitem__(self, index: int) -> dict:
        position = self.order[index]
        pixels = self.pixels(position) if self.decoded else torch.empty(0)
        return {
            "number": index,
            "row": int(self.rows[position]),
            "pixels": pixels,
            "label": int(self.split.labels[self.rows[position]]),
            "frame": torch.tensor(self.frame(int(self.rows[position]))),
        }


class ClassImages(torch.utils.data.Dataset):
    """Sample number -> an image of the bare metaclass, like `DomainImages`.

    `label`: the one that means no class.
    """

    def __init__(self, paths: list[Path], seed: int, label: int):
        self.paths, self.label = paths, label
        self.order = SampleOrder(np.arange(len(paths)), seed)

    def __getitem__(self, index: int) -> dict:
        with Image.open(self.paths[self.order[index]]) as image:
            return {"pixels": to_pixels(image.convert("RGB")), "label": self.label}


def to_pixels(image: Image.Image) -> torch.Tensor:
    """An RGB image as float32 (3, h, w) in [-1, 1]."""
    return v2.functional.to_dtype(v2.functional.to_image(image), torch.float32, scale=True) * 2 - 1


def geometries(split: Split, rows: np.ndarray, resolution: int, resize: str) -> np.ndarray:
    """What bases like SDXL are told of the images to train on: int64 (rows of the split + 1, 6).

    Original height and width, top and left of the crop in the resized image, height and width; the
    last row is of an image that was drawn at this size. The official trainings give the same.
    """
    told = np.zeros((len(split.rows) + 1, 6), np.int64)
    for row in rows:
        told[row] = trained_geometry(split.size(int(row)), resolution, resize)
    told[-1] = trained_geometry((resolution, resolution), resolution, resize)
    return told


@dataclass(frozen=True)
class Noise:
    """What is drawn for a batch.

    `mirrored`: bool (B,). `posterior`, for the autoencoder, and `diffusion`: float32 (B, c, h, w).
    `timesteps`: int64 (B,).
    """

    mirrored: torch.Tensor
    posterior: torch.Tensor
    diffusion: torch.Tensor
    timesteps: torch.Tensor


def draw_noise(
    seed: int,
    numbers: list[int],
    shape: tuple[int, int, int],
    draw_timestep: Callable[[torch.Generator], torch.Tensor],
    random_flip: bool,
) -> Noise:
    """Draws for the samples with these numbers, each from its own generator.

    `shape`: of an image's latents, (c, h, w). `draw_timestep`: as `Noising.draw`.
    """
    drawn = []
    for number in numbers:
        random = torch.Generator().manual_seed(sample_seed(seed, number))
        mirrored = bool(torch.rand((), generator=random) < 0.5) and random_flip
        noise = torch.randn((2, *shape), generator=random)
        drawn.append((torch.tensor(mirrored), noise[0], noise[1], draw_timestep(random)))
    return Noise(*(torch.stack(part) for part in zip(*drawn, strict=True)))
