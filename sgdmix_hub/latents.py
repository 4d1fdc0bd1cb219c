"""Latents of a training's images: encoded for every sample, or once for all."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from tqdm.auto import tqdm

from .processes import stop_if_requested
from .samples import DomainImages, Noise


class Latents:
    """The autoencoder's latents of images, and of their mirror images. One is encoded alone: its bits depend on nothing else."""

    def __init__(self, vae: AutoencoderKL, device: torch.device):
        self.vae, self.device = vae.to(device).eval(), device
        self._kept: dict[tuple[int, bool], tuple[torch.Tensor, torch.Tensor]] = {}

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation, float32 (c, h, w) each, of the latents of an image (3, H, W) in [-1, 1]."""
        posterior = self.vae.encode(pixels[None].to(self.device)).latent_dist
        return posterior.mean[0], posterior.std[0]

    def keep(self, images: DomainImages, mirrored: bool, show: bool) -> None:
        """Encodes all images of the training, with `mirrored` their mirror images too, to be used from then on."""
        for position in tqdm(range(len(images.rows)), desc="latents", unit="image", disable=not show):
            stop_if_requested()
            pixels = images.pixels(position)
            self._kept[position, False] = self.encode(pixels)
            if mirrored:
                self._kept[position, True] = self.encode(pixels.flip(-1))

    def draw(self, pixels: torch.Tensor, noise: Noise, positions: list[int] | None = None) -> torch.Tensor:
        """Scaled latents (B, c, h, w), drawn from the posteriors of images (B, 3, H, W), or of the kept ones at these positions."""
        if positions is not None and self._kept:
            encoded = [self._kept[key] for key in zip(positions, noise.mirrored.tolist(), strict=True)]
        else:
            views = zip(pixels, noise.mirrored, strict=True)
            encoded = [self.encode(image.flip(-1) if mirrored else image) for image, mirrored in views]
        mean, std = (torch.stack(part) for part in zip(*encoded, strict=True))
        return (mean + std * noise.posterior.to(self.device)) * self.vae.config.scaling_factor
