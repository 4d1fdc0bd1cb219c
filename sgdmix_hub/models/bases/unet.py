"""What families whose denoiser is a UNet share."""

from __future__ import annotations

from typing import Any

import torch

from sgdmix_hub.errors import UserError, shown

from .family import Conditioning, Configs, Family, Pipeline
from .noising import Diffusion


class UNetFamily(Family):
    """`conditioning`: the `addition_embed_type` of the family's UNets."""

    denoiser = "unet"
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")
    conditioning: str | None = None

    def fault(self, index: dict[str, Any], configs: Configs) -> str | None:
        unet, vae = configs["unet"], configs["vae"]
        needed = unet.get("addition_embed_type")
        if needed != self.conditioning:
            if needed is None:
                return f"a UNet that takes nothing but the prompt, unlike {self.title}"
            return f"a UNet that needs {shown(needed)} besides the prompt, unlike {self.title}"
        taken, given = unet.get("in_channels", 4), vae.get("latent_channels", 4)
        if taken != given:
            return (
                f"a UNet that takes {shown(taken)} channels, and an autoencoder that gives "
                f"{shown(given)}, like a model for inpainting or depth"
            )
        return None

    def noising(self, scheduler_config: Any, weighting_scheme: str | None = None) -> Diffusion:
        return Diffusion(scheduler_config)

    def check_loss(self, snr_gamma: float | None, weighting_scheme: str | None) -> None:
        if weighting_scheme is not None:
            raise UserError(
                f"weighting_scheme is for bases trained by flow matching, and this one is of "
                f"{self.title}: leave it out, or give snr_gamma"
            )

    def scheduler(self, config: Any, name: str, timestep_spacing: str | None = None) -> Any:
        from .schedulers import diffusion_scheduler

        return diffusion_scheduler(config, name, timestep_spacing)

    def noise_levels(
        self,
        pipeline: Pipeline,
        scheduler: Any,
        num_inference_steps: int,
        size: tuple[int, int],
    ) -> list[float]:
        from .schedulers import noise_levels

        return noise_levels(scheduler, num_inference_steps)

    def embeds_guidance(self, pipeline: Pipeline) -> bool:
        return _guidance_size(pipeline) is not None

    def of_images(
        self, pipeline: Pipeline, height: int, width: int, guidance_scale: float
    ) -> Conditioning:
        """The guidance scale's embedding for UNets distilled from guided ones (LCM), else nothing.

        It equals `get_guidance_scale_embedding` of the stock pipelines.
        """
        size = _guidance_size(pipeline)
        if size is None:
            return {}
        scale = torch.tensor([guidance_scale - 1])
        device, dtype = pipeline.components["unet"].device, pipeline.components["unet"].dtype
        embedded: Any = pipeline
        told = embedded.get_guidance_scale_embedding(scale, embedding_dim=size)
        return {"timestep_cond": told.to(device, dtype)}

    def predict(
        self, denoiser: Any, latents: torch.Tensor, timestep: torch.Tensor, told: Conditioning
    ) -> torch.Tensor:
        return denoiser(
            latents,
            timestep,
            encoder_hidden_states=told["prompt_embeds"],
            timestep_cond=told.get("timestep_cond"),
            added_cond_kwargs=self.added(told),
            return_dict=False,
        )[0]

    def lora_layers(self, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        from diffusers.utils import convert_state_dict_to_diffusers

        return convert_state_dict_to_diffusers(weights)

    def lora_weights(
        self, pipeline: Pipeline, weights: dict[str, torch.Tensor]
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Of peft's, diffusers' or kohya's format. Stock loses layers of a file in several."""
        from diffusers.utils import convert_unet_state_dict_to_peft

        stock: Any = pipeline
        config = pipeline.components["unet"].config
        named, alphas = stock.lora_state_dict(dict(weights), unet_config=config)
        in_peft = convert_unet_state_dict_to_peft(named)
        # kohya's has alphas, which the loader must see
        return (in_peft if alphas is None else dict(weights)), in_peft

    def added(self, told: Conditioning) -> Conditioning | None:
        """The UNet's `added_cond_kwargs`."""
        return None


def _guidance_size(pipeline: Pipeline) -> int | None:
    return pipeline.components["unet"].config.time_cond_proj_dim
