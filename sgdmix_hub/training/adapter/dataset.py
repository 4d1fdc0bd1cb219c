"""The samples of a training: which image the n-th one shows, whether it is mirrored, and the noise
that is put on it.

Everything about a sample is a function of (seed, n). A training that was killed goes on with the
samples that were to come, and processes, batches and accumulation only decide who takes which
sample of an optimizer step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from sgdmix_hub.data.images import square
from sgdmix_hub.data.splits import Split
from sgdmix_hub.seeds import RandomStream, generator, sample_seed


class SampleOrder:
    """The rows of a training, each once an epoch, in a new order every time: an endless row of
    samples.
    """

    def __init__(self, rows: np.ndarray, seed: int):
        """`rows`: int64 (n,), n >= 1."""
        self.rows, self.seed = rows, seed
        self._epoch, self._order = -1, rows

    def __getitem__(self, number: int) -> int:
        """The position in `rows` of a sample."""
        epoch, position = divmod(number, len(self.rows))
        if epoch != self._epoch:
            self._order = generator(RandomStream.ORDER, self.seed, epoch).permutation(
                len(self.rows)
            )
            self._epoch = epoch
        return int(self._order[position])


@dataclass(frozen=True)
class Share:
    """This process's part of every optimizer step."""

    rank: int
    num_processes: int
    batch_size: int
    accumulation: int

    @property
    def total_batch(self) -> int:
        """Samples of one optimizer step, of all processes."""
        return self.num_processes * self.batch_size * self.accumulation

    def batches(self, first_step: int, last_step: int) -> Iterator[list[int]]:
        """The numbers of this process's samples, batch by batch, for the optimizer steps first_step
        <= step < last_step.
        """
        for batch in range(first_step * self.accumulation, last_step * self.accumulation):
            first = (batch * self.num_processes + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))


class DomainImages(torch.utils.data.Dataset):
    """Sample number -> the image that it shows, with its place in the training's rows and its
    label.

    `pixels` is float32 (3, resolution, resolution) in [-1, 1], not mirrored; empty where `decoded`
    is off, because latents are cached.
    """

    def __init__(
        self,
        split: Split,
        rows: np.ndarray,
        seed: int,
        resolution: int,
        resize: str,
        decoded: bool = True,
    ):
        self.split, self.rows, self.resolution, self.resize, self.decoded = (
            split,
            rows,
            resolution,
            resize,
            decoded,
        )
        self.order = SampleOrder(rows, seed)

    def pixels(self, position: int) -> torch.Tensor:
        """The image of one of the rows."""
        return to_pixels(
            square(self.split.image(int(self.rows[position])), self.resolution, self.resize)
        )

    def __getitem__(self, number: int) -> dict:
        position = self.order[number]
        pixels = self.pixels(position) if self.decoded else torch.empty(0)
        return {
            "number": number,
            "position": position,
            "pixels": pixels,
            "label": int(self.split.labels[self.rows[position]]),
        }


class ClassImages(torch.utils.data.Dataset):
    """Sample number -> one of the images of the bare metaclass, as `DomainImages` gives its own;
    `label` stands for no class.
    """

    def __init__(self, paths: list[Path], seed: int, label: int):
        self.paths, self.label = paths, label
        self.order = SampleOrder(np.arange(len(paths)), seed)

    def __getitem__(self, number: int) -> dict:
        with Image.open(self.paths[self.order[number]]) as image:
            return {"pixels": to_pixels(image.convert("RGB")), "label": self.label}


def to_pixels(image: Image.Image) -> torch.Tensor:
    """An RGB image as float32 (3, h, w) in [-1, 1]."""
    return v2.functional.to_dtype(v2.functional.to_image(image), torch.float32, scale=True) * 2 - 1


@dataclass(frozen=True)
class Noise:
    """What is drawn for a batch: whether to mirror, bool (B,); the autoencoder's noise and the
    diffusion's, float32 (B, c, h, w); the timesteps, int64 (B,).
    """

    mirrored: torch.Tensor
    posterior: torch.Tensor
    diffusion: torch.Tensor
    timesteps: torch.Tensor


def draw_noise(
    seed: int,
    numbers: list[int],
    shape: tuple[int, int, int],
    num_timesteps: int,
    random_flip: bool,
) -> Noise:
    """The draws of the samples with these numbers, for latents of `shape` (c, h, w): each sample's
    from a generator of its own.
    """
    drawn = []
    for number in numbers:
        generator = torch.Generator().manual_seed(sample_seed(seed, number))
        mirrored = bool(torch.rand((), generator=generator) < 0.5) and random_flip
        noise = torch.randn((2, *shape), generator=generator)
        drawn.append(
            (
                torch.tensor(mirrored),
                noise[0],
                noise[1],
                torch.randint(num_timesteps, (), generator=generator),
            )
        )
    return Noise(*(torch.stack(part) for part in zip(*drawn, strict=True)))
