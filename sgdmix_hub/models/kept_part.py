"""A part of the image that refinement keeps, at a lower strength than the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from .bases.family import Conditioning
from .bases.schedulers import noised


class KeptPart:
    """A part of the image at a lower strength than the rest.

    After every step its latents are reset to those of the input image, noised to the sampler's
    current level, until the part is released (blended diffusion; differential diffusion with two
    levels). A part kept through all steps is changed by the VAE alone.
    """

    def __init__(
        self, latents: torch.Tensor, noise: torch.Tensor, kept: np.ndarray, released_after: int
    ):
        """`latents`: scaled, (B, c, h, w); `noise`: (B, c, h, w), what the sampler starts from;
        `kept`: bool (B, size, size); `released_after`: for how many steps the part is put back.
        """
        self.latents = latents
        self.noise = noise
        coverage = F.adaptive_avg_pool2d(
            torch.from_numpy(kept)[:, None].float(), (latents.shape[-2], latents.shape[-1])
        )
        self.mask = (coverage >= 0.5).to(latents.device)
        self.released_after = released_after
        self.embeds: Conditioning | None = None  # what is told while the part is kept, if another

    def told(self, step: int, embeds: Conditioning) -> Conditioning:
        """What the denoiser is told at a step; `embeds`: of the whole image."""
        return embeds if self.embeds is None or step >= self.released_after else self.embeds

    def put_back(
        self, latents: torch.Tensor, scheduler: Any, remaining: torch.Tensor
    ) -> torch.Tensor:
        """The sampler's latents with the kept part reset; `remaining`: the timesteps to come."""
        own = self.latents
        if len(remaining):
            own = noised(scheduler, self.latents, self.noise, remaining[:1])
        return torch.where(self.mask, own, latents)
