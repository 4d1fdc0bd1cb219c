"""Stable Diffusion 3 and 3.5: two CLIPs, T5 where the base has it, latents that are not packed."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from .family import Conditioning, Encoder, Pipeline
from .flow import JOINT_ATTENTION, FlowFamily

T5_LENGTH = 256  # tokens that stock pads prompts to


class StableDiffusion3(FlowFamily):
    """Both CLIPs' outputs side by side, then T5's (zeros without one), and both pooled outputs."""

    name = "stable-diffusion-3"
    title = "Stable Diffusion 3 and 3.5"
    class_names = ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline")
    text_to_image = "StableDiffusion3Pipeline"
    image_to_image = "StableDiffusion3Img2ImgPipeline"
    encoders = (
        Encoder("tokenizer", "text_encoder", "clip_l", hidden=(-2,)),
        Encoder("tokenizer_2", "text_encoder_2", "clip_g", hidden=(-2,)),
        Encoder("tokenizer_3", "text_encoder_3", "t5", max_length=T5_LENGTH, optional=True),
    )
    lora_targets = JOINT_ATTENTION
    weights = {
        "transformer": "diffusion_pytorch_model.safetensors",
        "vae": "diffusion_pytorch_model.safetensors",
        "text_encoder": "model.safetensors",
        "text_encoder_2": "model.safetensors",
        "text_encoder_3": "model.safetensors",
    }
    license = "other"
    weighting_scheme = "logit_normal"
    loss_of_image = True

    def sigmas(self, num_inference_steps: int) -> Any:
        return None

    def encode_prompt(
        self, pipeline: Pipeline, prompt: str, negative: str, guided: bool, device: torch.device
    ) -> tuple[Conditioning, Conditioning]:
        text: Any = self.call_text(pipeline, prompt)
        embeds, unwanted, pooled, unwanted_pooled = pipeline.encode_prompt(
            text,
            text,
            text,
            device=device,
            do_classifier_free_guidance=guided,
            negative_prompt=negative,
        )
        told = {"prompt_embeds": embeds, "pooled": pooled}
        if not guided:
            return told, {}
        return told, {"prompt_embeds": unwanted, "pooled": unwanted_pooled}

    def encode_ids(
        self,
        encoders: list[Any],
        input_ids: list[torch.Tensor],
        geometry: torch.Tensor | None,
    ) -> Conditioning:
        clips = [
            encoder(ids, output_hidden_states=True)
            for encoder, ids in zip(encoders[:2], input_ids[:2], strict=True)
        ]
        told = {
            "clip_embeds": torch.cat([one.hidden_states[-2] for one in clips], dim=-1),
            "pooled": torch.cat([one[0] for one in clips], dim=-1),
        }
        if len(encoders) > 2:
            told["t5_embeds"] = encoders[2](input_ids[2])[0]
        return told

    def predict(
        self, denoiser: Any, latents: torch.Tensor, timestep: torch.Tensor, told: Conditioning
    ) -> torch.Tensor:
        embeds = told.get("prompt_embeds")
        if embeds is None:
            embeds = _joined(told, denoiser.config.joint_attention_dim)
        return denoiser(
            hidden_states=latents,
            timestep=timestep.expand(len(latents)),
            encoder_hidden_states=embeds,
            pooled_projections=told["pooled"],
            return_dict=False,
        )[0]


def _joined(told: Conditioning, width: int) -> torch.Tensor:
    """The CLIPs' output, widened with zeros, and T5's: (B, length, width)."""
    clip = told["clip_embeds"]
    t5 = told.get("t5_embeds", clip.new_zeros(len(clip), T5_LENGTH, width))
    return torch.cat([F.pad(clip, (0, width - clip.shape[-1])), t5], dim=-2)
