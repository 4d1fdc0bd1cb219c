"""Qwen-Image: a vision-language model's last layer as the text, latents of a video autoencoder."""

from __future__ import annotations

from typing import Any

import torch

from .family import Conditioning, Encoder, Pipeline
from .flow import FlowFamily, masked, packed, padded, unpacked
from .latents import LatentSpace

TEMPLATE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, "
    "quantity, text, spatial relationships of the objects and background:<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
SYSTEM_TOKENS = 34  # of the template, which the transformer is not told
EMBEDS = ("prompt_embeds", "prompt_mask")


class DescribingEncoder(Encoder):
    def text(self, tokenizer: Any, prompt: str) -> str:
        return TEMPLATE.format(prompt)


class QwenLatents(LatentSpace):
    """Of AutoencoderKLQwenImage, for which an image is a video of one frame."""

    channels_last = False

    def shape(self, vae: Any, resolution: int) -> tuple[int, int, int]:
        side = resolution // self.factor(vae)
        return vae.config.z_dim, side, side

    def factor(self, vae: Any) -> int:
        return 2 ** len(vae.config.temperal_downsample)

    def moments(self, vae: Any, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = super().moments(vae, pixels[:, :, None])
        return mean[:, :, 0], std[:, :, 0]

    def draw(
        self, vae: Any, pixels: torch.Tensor, generators: list[torch.Generator]
    ) -> torch.Tensor:
        return super().draw(vae, pixels[:, :, None], generators)[:, :, 0]

    def decode(self, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        return super().decode(vae, latents[:, :, None])[:, :, 0]

    def scaled(self, latents: torch.Tensor, vae: Any) -> torch.Tensor:
        mean, weight = _moments(latents, vae)
        return (latents - mean) * weight

    def unscaled(self, latents: torch.Tensor, vae: Any) -> torch.Tensor:
        mean, weight = _moments(latents, vae)
        return latents / weight + mean


class QwenImage(FlowFamily):
    """Guidance keeps the length of the wanted prediction, token by token."""

    name = "qwen-image"
    title = "Qwen-Image"
    class_names = ("QwenImagePipeline", "QwenImageImg2ImgPipeline")
    text_to_image = "QwenImagePipeline"
    image_to_image = "QwenImageImg2ImgPipeline"
    encoders = (
        DescribingEncoder(
            "tokenizer",
            "text_encoder",
            "qwen2_5_vl",
            max_length=1024 + SYSTEM_TOKENS,
            masked=True,
            padded=False,
            outputs=(-1,),
        ),
    )
    weights = {
        "transformer": "diffusion_pytorch_model.safetensors",
        "vae": "diffusion_pytorch_model.safetensors",
        "text_encoder": "model.safetensors",
    }
    license = "apache-2.0"
    latents = QwenLatents()

    def given_channels(self, vae: dict[str, Any]) -> Any:
        return 4 * vae["z_dim"] if type(vae.get("z_dim")) is int else None

    def encode_prompt(
        self, pipeline: Pipeline, prompt: str, negative: str, guided: bool, device: torch.device
    ) -> tuple[Conditioning, Conditioning]:
        texts = [prompt, negative] if guided else [prompt]
        told = [
            _told(pipeline.encode_prompt(self.call_text(pipeline, text), device)[0])
            for text in texts
        ]
        return told[0], told[1] if guided else {}

    def joined(self, parts: list[Conditioning]) -> Conditioning:
        return super().joined(padded(parts, EMBEDS))

    def encode_ids(
        self,
        encoders: list[Any],
        input_ids: list[torch.Tensor],
        geometry: torch.Tensor | None,
    ) -> Conditioning:
        (encoder,), (ids,) = encoders, input_ids
        ids, mask = masked(ids)
        output = encoder.base_model(
            input_ids=ids, attention_mask=mask.long(), output_hidden_states=True
        )
        told = [
            _told(states[shown][None, SYSTEM_TOKENS:])
            for states, shown in zip(output.hidden_states[-1], mask, strict=True)
        ]
        return self.joined(told)

    def guided(
        self, unwanted: torch.Tensor, wanted: torch.Tensor, guidance_scale: float
    ) -> torch.Tensor:
        height, width = wanted.shape[-2:]
        tokens, away = packed(wanted), packed(unwanted)
        guided = away + guidance_scale * (tokens - away)
        lengths = [torch.norm(one, dim=-1, keepdim=True) for one in (tokens, guided)]
        return unpacked(guided * (lengths[0] / lengths[1]), height, width)

    def call_options(
        self, pipeline: Pipeline, guidance_scale: float, images: torch.Tensor | None
    ) -> dict[str, Any]:
        options = super().call_options(pipeline, guidance_scale, images)
        scale = options.pop("guidance_scale")
        return options | {"true_cfg_scale": scale, "negative_prompt": "" if scale > 1 else None}

    def predict(
        self, denoiser: Any, latents: torch.Tensor, timestep: torch.Tensor, told: Conditioning
    ) -> torch.Tensor:
        rows, _, height, width = latents.shape
        mask = told["prompt_mask"]
        tokens = denoiser(
            hidden_states=packed(latents),
            timestep=timestep.expand(rows).to(latents.dtype) / 1000,
            guidance=None,
            encoder_hidden_states_mask=None if mask.all() else mask.long(),
            encoder_hidden_states=told["prompt_embeds"],
            img_shapes=[[(1, height // 2, width // 2)]] * rows,
            return_dict=False,
        )[0]
        return unpacked(tokens, height, width)


def _told(embeds: torch.Tensor) -> Conditioning:
    """A prompt's embeddings, (1, length, dim), as one row."""
    mask = torch.ones(1, embeds.shape[1], dtype=torch.bool, device=embeds.device)
    return {"prompt_embeds": embeds, "prompt_mask": mask}


def _moments(latents: torch.Tensor, vae: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and reciprocal deviation of every channel, (1, c, 1, 1)."""
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return mean.to(latents), 1.0 / std.to(latents)
