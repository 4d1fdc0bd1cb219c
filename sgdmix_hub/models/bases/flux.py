"""FLUX.1, dev and schnell: CLIP's pooled output and T5, latents packed into tokens."""

from __future__ import annotations

from typing import Any

import torch

from .family import Conditioning, Encoder, Pipeline
from .flow import JOINT_ATTENTION, FlowFamily, packed, places, unpacked

TRAINED_GUIDANCE = 3.5  # what the official script tells dev in a training


class Flux(FlowFamily):
    """Never run twice for guidance: dev is told the scale, schnell knows none."""

    name = "flux"
    title = "FLUX.1"
    class_names = ("FluxPipeline", "FluxImg2ImgPipeline")
    text_to_image = "FluxPipeline"
    image_to_image = "FluxImg2ImgPipeline"
    encoders = (
        Encoder("tokenizer", "text_encoder", "clip_l"),
        Encoder("tokenizer_2", "text_encoder_2", "t5", max_length=512),
    )
    lora_targets = JOINT_ATTENTION
    weights = {
        "transformer": "diffusion_pytorch_model.safetensors",
        "vae": "diffusion_pytorch_model.safetensors",
        "text_encoder": "model.safetensors",
        "text_encoder_2": "model.safetensors",
    }
    license = "other"  # of dev; schnell's is apache-2.0

    def given_channels(self, vae: dict[str, Any]) -> Any:
        return 4 * vae["latent_channels"] if type(vae.get("latent_channels")) is int else None

    def encode_prompt(
        self, pipeline: Pipeline, prompt: str, negative: str, guided: bool, device: torch.device
    ) -> tuple[Conditioning, Conditioning]:
        embeds, pooled, _ = pipeline.encode_prompt(self.call_text(pipeline, prompt), device=device)
        return {"prompt_embeds": embeds, "pooled": pooled}, {}

    def encode_ids(
        self,
        encoders: list[Any],
        input_ids: list[torch.Tensor],
        geometry: torch.Tensor | None,
    ) -> Conditioning:
        (clip, t5), (clip_ids, t5_ids) = encoders, input_ids
        return {"prompt_embeds": t5(t5_ids)[0], "pooled": clip(clip_ids).pooler_output}

    def embeds_guidance(self, pipeline: Pipeline) -> bool:
        return True

    def of_images(
        self, pipeline: Pipeline, height: int, width: int, guidance_scale: float
    ) -> Conditioning:
        transformer = pipeline.components["transformer"]
        return {"guidance": torch.tensor([[guidance_scale]], device=transformer.device)}

    def predict(
        self, denoiser: Any, latents: torch.Tensor, timestep: torch.Tensor, told: Conditioning
    ) -> torch.Tensor:
        rows, _, height, width = latents.shape
        embeds, guidance = told["prompt_embeds"], None
        if denoiser.config.guidance_embeds:
            guidance = torch.full((rows,), TRAINED_GUIDANCE, device=latents.device)
            guidance = told["guidance"][:, 0] if "guidance" in told else guidance
        at = places(height, width, latents.device).to(embeds.dtype)
        tokens = denoiser(
            hidden_states=packed(latents),
            timestep=timestep.expand(rows).to(latents.dtype) / 1000,
            guidance=guidance,
            pooled_projections=told["pooled"],
            encoder_hidden_states=embeds,
            txt_ids=embeds.new_zeros(embeds.shape[1], 3),
            img_ids=torch.cat([at.new_zeros(len(at), 1), at], dim=1),
            return_dict=False,
        )[0]
        return unpacked(tokens, height, width)
