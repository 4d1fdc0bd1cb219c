"""Latents: an autoencoder's, and the same scaled as the denoiser sees them.

Both are (B, c, h, w) for images (B, 3, H, W). Packing them into tokens is the business of a
family's `predict` alone.
"""

from __future__ import annotations

from typing import Any

import torch


class LatentSpace:
    """Of diffusers' AutoencoderKL, by what its own configuration says.

    `channels_last`: whether the autoencoder can be held in that memory format.
    """

    channels_last = True

    def shape(self, vae: Any, resolution: int) -> tuple[int, int, int]:
        """(c, h, w) of the latents of a square image."""
        side = resolution // self.factor(vae)
        return vae.config.latent_channels, side, side

    def factor(self, vae: Any) -> int:
        """Pixels of an image's side in one of its latents'."""
        return 2 ** (len(vae.config.block_out_channels) - 1)

    def moments(self, vae: Any, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the latents of images (B, 3, H, W) in [-1, 1]."""
        posterior = vae.encode(pixels).latent_dist
        return posterior.mean, posterior.std

    def draw(
        self, vae: Any, pixels: torch.Tensor, generators: list[torch.Generator]
    ) -> torch.Tensor:
        """Latents of images as stock img2img draws them, each row from its own generator."""
        return vae.encode(pixels).latent_dist.sample(generators)

    def noise(
        self,
        shape: torch.Size,
        generators: list[torch.Generator],
        device: torch.device,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        """Noise for latents (B, c, h, w), in the order in which stock img2img draws it."""
        from diffusers.utils.torch_utils import randn_tensor

        return randn_tensor(shape, generators, device, dtype)

    def decode(self, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W), about in [-1, 1], of the autoencoder's latents."""
        return vae.decode(latents, return_dict=False)[0]

    def scaled(self, latents: torch.Tensor, vae: Any) -> torch.Tensor:
        """The autoencoder's latents -> the denoiser's."""
        moments = _moments(latents, vae)
        if moments is not None:
            mean, std = moments
            return (latents - mean) * vae.config.scaling_factor / std
        shift = vae.config.shift_factor
        return (latents if shift is None else latents - shift) * vae.config.scaling_factor

    def unscaled(self, latents: torch.Tensor, vae: Any) -> torch.Tensor:
        """The denoiser's latents -> the autoencoder's."""
        moments = _moments(latents, vae)
        if moments is not None:
            mean, std = moments
            return latents * std / vae.config.scaling_factor + mean
        latents, shift = latents / vae.config.scaling_factor, vae.config.shift_factor
        return latents if shift is None else latents + shift


def _moments(latents: torch.Tensor, vae: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Mean and deviation of each channel, (1, c, 1, 1), if the autoencoder states both."""
    mean, std = (getattr(vae.config, name, None) for name in ("latents_mean", "latents_std"))
    if mean is None or std is None:
        return None
    to_channels = latents.new_tensor(mean)[None, :, None, None]
    return to_channels, latents.new_tensor(std)[None, :, None, None]
