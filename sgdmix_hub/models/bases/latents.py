"""Latents as the denoiser sees them, by what the autoencoder's own configuration says."""

from __future__ import annotations

from typing import Any

import torch


def latent_shape(vae: Any, resolution: int) -> tuple[int, int, int]:
    """(c, h, w) of the latents of a square image."""
    side = resolution // 2 ** (len(vae.config.block_out_channels) - 1)
    return vae.config.latent_channels, side, side


def scaled(latents: torch.Tensor, vae: Any) -> torch.Tensor:
    """The autoencoder's latents, (B, c, h, w) -> the denoiser's."""
    moments = _moments(latents, vae)
    if moments is None:
        return latents * vae.config.scaling_factor
    mean, std = moments
    return (latents - mean) * vae.config.scaling_factor / std


def unscaled(latents: torch.Tensor, vae: Any) -> torch.Tensor:
    """The denoiser's latents, (B, c, h, w) -> the autoencoder's."""
    moments = _moments(latents, vae)
    if moments is None:
        return latents / vae.config.scaling_factor
    mean, std = moments
    return latents * std / vae.config.scaling_factor + mean


def _moments(latents: torch.Tensor, vae: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Mean and deviation of each channel, (1, c, 1, 1), if the autoencoder states both."""
    mean, std = (getattr(vae.config, name, None) for name in ("latents_mean", "latents_std"))
    if mean is None or std is None:
        return None
    to_channels = latents.new_tensor(mean)[None, :, None, None]
    return to_channels, latents.new_tensor(std)[None, :, None, None]
