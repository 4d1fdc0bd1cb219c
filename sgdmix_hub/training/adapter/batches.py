"""Batches of an adapter's training, ready for the denoiser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from sgdmix_hub.generation.row_store import RowArrays
from sgdmix_hub.models.bases.latents import LatentSpace
from sgdmix_hub.seeds import RandomStream, sample_seed, seed_of
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.training.share import Share

from .dataset import ClassImages, DomainImages, Noise, draw_noise
from .latents import unpadded


@dataclass(frozen=True)
class Batch:
    """One batch of a denoising training.

    `latents` and `noise`: float32 (B, c, h, w). `timesteps` and `labels`: int64 (B,); the number of
    classes as a label means no class. `rows`: int64 (B,), of the images in the split; -1 for an
    image of no class. `weights`: float32 (B,), of each sample's loss. `seeds`: of
    what else is drawn for each of the B samples, like dropout.
    """

    latents: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    labels: torch.Tensor
    rows: torch.Tensor
    weights: torch.Tensor
    seeds: list[int]


@dataclass(frozen=True)
class Stream:
    """Images, the seed of their noise, and the weight of their loss."""

    images: Dataset
    seed: int
    weight: float


def training_batches(
    settings: AdapterSettings,
    domain: DomainImages,
    prior_images: list[Path],
    latents: Latents,
    draw_timestep: Callable[[torch.Generator], torch.Tensor],
    share: Share,
    steps: range,
) -> Iterator[Batch]:
    """This process's batches of the optimizer steps `steps`, one per forward pass.

    `domain`: the images to train on. `prior_images`: images of the bare metaclass; if given, a
    batch holds as many of them as of the others. `draw_timestep`: of one sample, as
    `Noising.draw`.
    """
    streams = [Stream(domain, settings.seed, 1.0)]
    if prior_images:
        seed = seed_of(RandomStream.PRIOR, settings.seed)
        images = ClassImages(prior_images, seed, len(domain.split.class_names))
        streams.append(Stream(images, seed, settings.prior_loss_weight))
    shape = latents.space.shape(latents.vae, settings.resolution)
    numbers = list(share.batches(steps.start, steps.stop))
    workers = settings.dataloader_num_workers
    loaders = [
        DataLoader(stream.images, batch_sampler=numbers, num_workers=workers) for stream in streams
    ]
    return (
        _batch(settings, streams, loaded, latents, shape, draw_timestep)
        for loaded in zip(*loaders, strict=True)
    )


def _batch(
    settings: AdapterSettings,
    streams: list[Stream],
    loaded: tuple[dict, ...],
    latents: Latents,
    shape: tuple[int, int, int],
    draw_timestep: Callable[[torch.Generator], torch.Tensor],
) -> Batch:
    """Joins what the loaders of all streams gave into one batch."""
    numbers = loaded[0]["number"].tolist()
    shape = framed(shape, loaded[0]["frame"][0].tolist(), settings.resolution)
    parts = []
    for stream, images in zip(streams, loaded, strict=True):
        noise = draw_noise(stream.seed, numbers, shape, draw_timestep, settings.random_flip)
        parts.append(_part(stream, images, noise, latents))
    clean, diffusion, timesteps, labels, rows, weights = (
        torch.cat(part).to(latents.device) for part in zip(*parts, strict=True)
    )
    seeds = [sample_seed(stream.seed, number) for stream in streams for number in numbers]
    return Batch(clean, diffusion, timesteps, labels, rows, weights, seeds)


def framed(shape: tuple[int, int, int], frame: list[int], resolution: int) -> tuple[int, int, int]:
    """The latents' shape (c, h, w) of a frame, for the `shape` of a square."""
    factor = resolution // shape[-1]
    width, height = frame
    return shape[0], height // factor, width // factor


def _part(stream: Stream, images: dict, noise: Noise, latents: Latents) -> tuple[torch.Tensor, ...]:
    """Latents, noise, timesteps, labels, rows and weights of one stream's part of a batch."""
    rows = images["row"].tolist() if "row" in images else None
    clean = latents.draw(images["pixels"], noise, rows)
    count = len(images["label"])
    weights = torch.full((count,), stream.weight / count)
    of_split = torch.full((count,), -1) if rows is None else images["row"]
    diffusion = noise.diffusion.to(clean.device)
    return clean, diffusion, noise.timesteps, images["label"], of_split, weights


class Latents:
    """Latents of images and mirrored images, encoded one by one, so bits depend on nothing else.

    They are rounded to float16, kept or not: keeping them changes nothing.
    """

    def __init__(self, vae: Any, device: torch.device, space: LatentSpace):
        """`vae`: diffusers' autoencoder, which is moved to `device`; `space`: of its family."""
        self.vae, self.device, self.space = vae.to(device).eval(), device, space
        self.kept: RowArrays | None = None

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Mean and standard deviation of an image's latents, float16 (2, c, h, w) on the CPU.

        `pixels`: (3, H, W) in [-1, 1].
        """
        moments = self.space.moments(self.vae, pixels[None].to(self.device))
        return torch.cat(moments).half().cpu()

    def draw(
        self, pixels: torch.Tensor, noise: Noise, rows: list[int] | None = None
    ) -> torch.Tensor:
        """Scaled latents (B, c, h, w), drawn from the posteriors of images (B, 3, H, W).

        `rows`: of the images in the split; their kept latents are used if there are any.
        """
        mirrored = noise.mirrored.tolist()
        if rows is not None and self.kept is not None:
            size = noise.posterior.shape[-2:]
            encoded = [
                unpadded(torch.from_numpy(np.array(self.kept[row][int(view)])), size)
                for row, view in zip(rows, mirrored, strict=True)
            ]
        else:
            encoded = [
                self.encode(image.flip(-1) if turned else image)
                for image, turned in zip(pixels, mirrored, strict=True)
            ]
        mean, std = torch.stack(encoded).to(self.device).float().unbind(1)
        return self.space.scaled(mean + std * noise.posterior.to(self.device), self.vae)
