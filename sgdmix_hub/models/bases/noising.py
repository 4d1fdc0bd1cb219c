"""Noise, target and loss weights of a training, by what the base predicts.

diffusers is imported where it is used: programs that only read an adapter's facts start without it.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

from sgdmix_hub.errors import UserError


class Noising(Protocol):
    """Of one base; `latents` and `noise` are (B, c, h, w), `timesteps` int64 (B,)."""

    @property
    def num_train_timesteps(self) -> int: ...

    def noised(
        self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """The latents at these noise levels."""
        ...

    def target(
        self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """What the denoiser should predict for them."""
        ...

    def weighted(
        self, loss: torch.Tensor, timesteps: torch.Tensor, snr_gamma: float
    ) -> torch.Tensor:
        """Squared errors (B,) weighted by min-SNR (Hang et al., 2023)."""
        ...


class Diffusion:
    """Variance-preserving diffusion, predicted as noise or velocity (SD 1 / 2, SDXL)."""

    def __init__(self, scheduler_config: Any):
        """Raises `UserError` if the base predicts something else."""
        from diffusers import DDPMScheduler

        self.scheduler: Any = DDPMScheduler.from_config(scheduler_config)
        predicted = self.scheduler.config.prediction_type
        if predicted not in ("epsilon", "v_prediction"):
            raise UserError(
                f"the base predicts {predicted}: use one that predicts epsilon or v_prediction"
            )
        self.predicts_velocity = predicted == "v_prediction"

    @property
    def num_train_timesteps(self) -> int:
        return self.scheduler.config.num_train_timesteps

    def noised(
        self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        return self.scheduler.add_noise(latents, noise, timesteps)

    def target(
        self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        if self.predicts_velocity:
            return self.scheduler.get_velocity(latents, noise, timesteps)
        return noise

    def weighted(
        self, loss: torch.Tensor, timesteps: torch.Tensor, snr_gamma: float
    ) -> torch.Tensor:
        from diffusers.training_utils import compute_snr

        snr = compute_snr(self.scheduler, timesteps)
        scale = snr + 1 if self.predicts_velocity else snr.clamp(min=1e-8)
        return loss * snr.clamp(max=snr_gamma) / scale
