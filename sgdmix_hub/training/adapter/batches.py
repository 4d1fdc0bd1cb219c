"""Batches of an adapter's training, ready for the denoiser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from sgdmix_hub.data.splits import Split
from sgdmix_hub.models.bases.latents import latent_shape, scaled
from sgdmix_hub.runtime.stopping import stop_if_requested
from sgdmix_hub.seeds import RandomStream, seed_of
from sgdmix_hub.settings.training import AdapterSettings

from .dataset import ClassImages, DomainImages, Noise, Share, draw_noise


@dataclass(frozen=True)
class Batch:
    """One batch of a denoising training.

    `latents` and `noise`: float32 (B, c, h, w). `timesteps` and `labels`: int64 (B,); the number of
    classes as a label means no class. `positions`: int64 (B,), of the images among those to train
    on; -1 for an image of no class. `weights`: float32 (B,), of each sample's loss. `seed`: of
    everything else that is drawn for the batch, like dropout.
    """

    latents: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor
    weights: torch.Tensor
    seed: int


@dataclass(frozen=True)
class Stream:
    """Images, the seed of their noise, and the weight of their loss."""

    images: Dataset
    seed: int
    weight: float


def training_batches(
    settings: AdapterSettings,
    split: Split,
    rows: np.ndarray,
    prior_images: list[Path],
    vae: Any,
    num_timesteps: int,
    share: Share,
    first_step: int,
    device: torch.device,
    show: bool,
) -> Iterator[Batch]:
    """This process's batches from optimizer step `first_step` on, one per forward pass.

    `rows`: the images to train on. `prior_images`: images of the bare metaclass; if given, a batch
    holds as many of them as of the others. `vae`: diffusers' AutoencoderKL. `num_timesteps`: of the
    noise schedule. With `cache_latents`, all images are encoded first; `show`: with a progress bar.
    """
    domain = DomainImages(
        split,
        rows,
        settings.seed,
        settings.resolution,
        settings.resize,
        decoded=not settings.cache_latents,
    )
    streams = [Stream(domain, settings.seed, 1.0)]
    if prior_images:
        seed = seed_of(RandomStream.PRIOR, settings.seed)
        images = ClassImages(prior_images, seed, len(split.class_names))
        streams.append(Stream(images, seed, settings.prior_loss_weight))
    latents = Latents(vae, device)
    if settings.cache_latents:
        latents.keep(domain, settings.random_flip, show)
    shape = latent_shape(vae, settings.resolution)
    numbers = list(share.batches(first_step, settings.max_train_steps))
    workers = settings.dataloader_num_workers
    loaders = [
        DataLoader(stream.images, batch_sampler=numbers, num_workers=workers) for stream in streams
    ]
    return (
        _batch(settings, streams, loaded, latents, shape, num_timesteps)
        for loaded in zip(*loaders, strict=True)
    )


def _batch(
    settings: AdapterSettings,
    streams: list[Stream],
    loaded: tuple[dict, ...],
    latents: Latents,
    shape: tuple[int, int, int],
    num_timesteps: int,
) -> Batch:
    """Joins what the loaders of all streams gave into one batch."""
    numbers = loaded[0]["number"].tolist()
    parts = []
    for stream, images in zip(streams, loaded, strict=True):
        noise = draw_noise(stream.seed, numbers, shape, num_timesteps, settings.random_flip)
        parts.append(_part(stream, images, noise, latents))
    clean, diffusion, timesteps, labels, positions, weights = (
        torch.cat(part).to(latents.device) for part in zip(*parts, strict=True)
    )
    seed = seed_of(RandomStream.DROPOUT, settings.seed, numbers[0])
    return Batch(clean, diffusion, timesteps, labels, positions, weights, seed)


def _part(stream: Stream, images: dict, noise: Noise, latents: Latents) -> tuple[torch.Tensor, ...]:
    """Latents, noise, timesteps, labels, positions and weights of one stream's part of a batch."""
    positions = images["position"].tolist() if "position" in images else None
    clean = latents.draw(images["pixels"], noise, positions)
    count = len(images["label"])
    weights = torch.full((count,), stream.weight / count)
    of_training = torch.full((count,), -1) if positions is None else images["position"]
    diffusion = noise.diffusion.to(clean.device)
    return clean, diffusion, noise.timesteps, images["label"], of_training, weights


class Latents:
    """Latents of images and mirrored images, encoded one by one, so bits depend on nothing else."""

    def __init__(self, vae: Any, device: torch.device):
        self.vae, self.device = vae.to(device).eval(), device
        self._kept: dict[tuple[int, bool], tuple[torch.Tensor, torch.Tensor]] = {}

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of an image's latents, float32 (c, h, w) each.

        `pixels`: (3, H, W) in [-1, 1].
        """
        posterior = self.vae.encode(pixels[None].to(self.device)).latent_dist
        return posterior.mean[0], posterior.std[0]

    def keep(self, images: DomainImages, mirrored: bool, show: bool) -> None:
        """Encodes and caches all images of the training, and their mirror images if `mirrored`."""
        positions = range(len(images.rows))
        for position in tqdm(positions, desc="latents", unit="image", disable=not show):
            stop_if_requested()
            pixels = images.pixels(position)
            self._kept[position, False] = self.encode(pixels)
            if mirrored:
                self._kept[position, True] = self.encode(pixels.flip(-1))

    def draw(
        self, pixels: torch.Tensor, noise: Noise, positions: list[int] | None = None
    ) -> torch.Tensor:
        """Scaled latents (B, c, h, w), drawn from the posteriors of images (B, 3, H, W).

        `positions`: of the images in the training; cached latents are used if there are any.
        """
        if positions is not None and self._kept:
            encoded = [
                self._kept[key] for key in zip(positions, noise.mirrored.tolist(), strict=True)
            ]
        else:
            views = zip(pixels, noise.mirrored, strict=True)
            encoded = [
                self.encode(image.flip(-1) if mirrored else image) for image, mirrored in views
            ]
        mean, std = (torch.stack(part) for part in zip(*encoded, strict=True))
        return scaled(mean + std * noise.posterior.to(self.device), self.vae)
