"""Noise, target and loss weights of a training, by what the base predicts.

diffusers is imported where it is used: programs that only read an adapter's facts start without it.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

from sgdmix_hub.errors import UserError


class Noising(Protocol):
    """Of one base; `latents` and `noise` are (B, c, h, w), `timesteps` int64 (B,).

    A time step is a position in the base's own schedule of noise levels.
    """

    def draw(self, random: torch.Generator) -> torch.Tensor:
        """The time step of one sample, int64 ()."""
        ...

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

    def told(self, timesteps: torch.Tensor) -> torch.Tensor:
        """The time that the denoiser is told, (B,): in a sampler's units."""
        ...

    def weighted(
        self, loss: torch.Tensor, timesteps: torch.Tensor, snr_gamma: float | None
    ) -> torch.Tensor:
        """Squared errors (B,) with the weights of their noise levels.

        `snr_gamma`: of min-SNR weights (Hang et al., 2023).
        """
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

    def draw(self, random: torch.Generator) -> torch.Tensor:
        return torch.randint(self.scheduler.config.num_train_timesteps, (), generator=random)

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

    def told(self, timesteps: torch.Tensor) -> torch.Tensor:
        return timesteps

    def weighted(
        self, loss: torch.Tensor, timesteps: torch.Tensor, snr_gamma: float | None
    ) -> torch.Tensor:
        from diffusers.training_utils import compute_snr

        if snr_gamma is None:
            return loss
        snr = compute_snr(self.scheduler, timesteps)
        scale = snr + 1 if self.predicts_velocity else snr.clamp(min=1e-8)
        return loss * snr.clamp(max=snr_gamma) / scale


class FlowMatching:
    """Rectified flow: x_t = (1 - sigma) x + sigma n, predicted as the velocity n - x.

    Densities of the time steps and weights of the loss are those of Esser et al., 2024 (SD 3), as
    diffusers' training scripts take them; the noise levels are the base's own.
    """

    LOGIT_MEAN, LOGIT_STD, MODE_SCALE = 0.0, 1.0, 1.29  # the scripts' defaults

    def __init__(self, scheduler_config: Any, weighting_scheme: str, of_image: bool = False):
        """`of_image`: the loss is that of the image x_t - sigma v which a prediction v leads to,
        sigma^2 times that of the velocity (`precondition_outputs` of the script).
        """
        from diffusers import FlowMatchEulerDiscreteScheduler

        self.scheduler: Any = FlowMatchEulerDiscreteScheduler.from_config(scheduler_config)
        self.weighting_scheme, self.of_image = weighting_scheme, of_image

    def draw(self, random: torch.Generator) -> torch.Tensor:
        from diffusers.training_utils import compute_density_for_timestep_sampling

        density = compute_density_for_timestep_sampling(
            self.weighting_scheme,
            1,
            logit_mean=self.LOGIT_MEAN,
            logit_std=self.LOGIT_STD,
            mode_scale=self.MODE_SCALE,
            generator=random,
        )
        levels = len(self.scheduler.timesteps)
        # a density of exactly 1 is rounding
        return (density[0] * levels).long().clamp(0, levels - 1)

    def _sigmas(self, timesteps: torch.Tensor) -> torch.Tensor:
        return self.scheduler.sigmas.to(timesteps.device)[timesteps]

    def noised(
        self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        sigmas = self._sigmas(timesteps)[:, None, None, None].to(latents.dtype)
        return (1.0 - sigmas) * latents + sigmas * noise

    def target(
        self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        return noise - latents

    def told(self, timesteps: torch.Tensor) -> torch.Tensor:
        return self.scheduler.timesteps.to(timesteps.device)[timesteps]

    def weighted(
        self, loss: torch.Tensor, timesteps: torch.Tensor, snr_gamma: float | None
    ) -> torch.Tensor:
        from diffusers.training_utils import compute_loss_weighting_for_sd3

        sigmas = self._sigmas(timesteps)
        weights = compute_loss_weighting_for_sd3(self.weighting_scheme, sigmas)
        return loss * weights * (sigmas**2 if self.of_image else 1.0)
