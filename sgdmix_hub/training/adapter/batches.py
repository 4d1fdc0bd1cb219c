"""The batches of an adapter's training, ready for the denoiser: latents, the noise on them, labels
and weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from sgdmix_hub.data.splits import Split
from sgdmix_hub.runtime.stopping import stop_if_requested
from sgdmix_hub.seeds import RandomStream, seed_of
from sgdmix_hub.settings.training import AdapterSettings

from .dataset import ClassImages, DomainImages, Noise, Share, draw_noise


@dataclass(frozen=True)
class Batch:
    """`latents` and `noise`: float32 (B, c, h, w); `timesteps` and `labels`: int64 (B,), a label
    behind the last class stands for none; `weights`: float32 (B,), what each sample's loss adds to
    the batch's; `seed`: of whatever else is drawn for it.
    """

    latents: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    seed: int


@dataclass(frozen=True)
class Stream:
    """Images with the seed of their noise and the weight of their loss."""

    images: Dataset
    seed: int
    weight: float


def training_batches(
    settings: AdapterSettings,
    split: Split,
    rows: np.ndarray,
    prior_images: list[Path],
    vae: AutoencoderKL,
    num_timesteps: int,
    share: Share,
    first_step: int,
    device: torch.device,
    show: bool,
) -> Iterator[Batch]:
    """This process's batches from an optimizer step on, one for each forward pass.

    `rows`: the images trained on; `prior_images`: those of the bare metaclass, of which a batch
    holds as many again where there are any; `num_timesteps`: of the noise schedule. With
    `cache_latents` all images are encoded first, under a progress bar where `show` says so.
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
        own_seed = seed_of(RandomStream.PRIOR, settings.seed)
        streams.append(
            Stream(
                ClassImages(prior_images, own_seed, len(split.class_names)),
                own_seed,
                settings.prior_loss_weight,
            )
        )
    latents = Latents(vae, device)
    if settings.cache_latents:
        latents.keep(domain, settings.random_flip, show)
    shape = (
        vae.config.latent_channels,
        *[settings.resolution // 2 ** (len(vae.config.block_out_channels) - 1)] * 2,
    )
    numbers = list(share.batches(first_step, settings.max_train_steps))
    loaders = [
        DataLoader(s.images, batch_sampler=numbers, num_workers=settings.dataloader_num_workers)
        for s in streams
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
    shape,
    num_timesteps: int,
) -> Batch:
    """What the loaders of all streams gave, as one batch."""
    numbers = loaded[0]["number"].tolist()
    parts = []
    for stream, images in zip(streams, loaded, strict=True):
        noise = draw_noise(stream.seed, numbers, shape, num_timesteps, settings.random_flip)
        parts.append(_part(stream, images, noise, latents))
    joined = (torch.cat(part).to(latents.device) for part in zip(*parts, strict=True))
    return Batch(*joined, seed=seed_of(RandomStream.DROPOUT, settings.seed, numbers[0]))


def _part(stream: Stream, images: dict, noise: Noise, latents: Latents) -> tuple[torch.Tensor, ...]:
    """Latents, noise, timesteps, labels and weights of one stream's share of a batch."""
    positions = images["position"].tolist() if "position" in images else None
    clean = latents.draw(images["pixels"], noise, positions)
    count = len(images["label"])
    weights = torch.full((count,), stream.weight / count)
    return clean, noise.diffusion.to(clean.device), noise.timesteps, images["label"], weights


class Latents:
    """The autoencoder's latents of images, and of their mirror images. One is encoded alone: its
    bits depend on nothing else.
    """

    def __init__(self, vae: AutoencoderKL, device: torch.device):
        self.vae, self.device = vae.to(device).eval(), device
        self._kept: dict[tuple[int, bool], tuple[torch.Tensor, torch.Tensor]] = {}

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation, float32 (c, h, w) each, of the latents of an image (3, H, W)
        in [-1, 1].
        """
        posterior = self.vae.encode(pixels[None].to(self.device)).latent_dist
        return posterior.mean[0], posterior.std[0]

    def keep(self, images: DomainImages, mirrored: bool, show: bool) -> None:
        """Encodes all images of the training, with `mirrored` their mirror images too, to be used
        from then on.
        """
        for position in tqdm(
            range(len(images.rows)), desc="latents", unit="image", disable=not show
        ):
            stop_if_requested()
            pixels = images.pixels(position)
            self._kept[position, False] = self.encode(pixels)
            if mirrored:
                self._kept[position, True] = self.encode(pixels.flip(-1))

    def draw(
        self, pixels: torch.Tensor, noise: Noise, positions: list[int] | None = None
    ) -> torch.Tensor:
        """Scaled latents (B, c, h, w), drawn from the posteriors of images (B, 3, H, W), or of the
        kept ones at these positions.
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
        return (mean + std * noise.posterior.to(self.device)) * self.vae.config.scaling_factor
