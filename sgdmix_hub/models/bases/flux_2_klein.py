"""FLUX.2-klein: a language model's layers as the text, latents packed and normalised by batch norm.

Stock diffusers has no img2img for it. Its inpainting with a white mask is one, and tells the
transformer the image as a reference, too; so does this family.
"""

from __future__ import annotations

from typing import Any

import torch

from .family import Conditioning, Pipeline
from .flow import PATCH, ChatEncoder, FlowFamily, masked, packed, places, unpacked
from .latents import LatentSpace

READ_LAYERS = (9, 18, 27)  # of the language model, as stock reads them
REFERENCE_TIME = 10  # the coordinate that sets the reference apart from the image


class Qwen3Encoder(ChatEncoder):
    thinking = False


class Flux2Latents(LatentSpace):
    """Of AutoencoderKLFlux2; latents are the posterior's mean, as stock takes them."""

    def moments(self, vae: Any, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = vae.encode(pixels).latent_dist.mode()
        return mean, torch.zeros_like(mean)

    def draw(
        self, vae: Any, pixels: torch.Tensor, generators: list[torch.Generator]
    ) -> torch.Tensor:
        return vae.encode(pixels).latent_dist.mode()

    def noise(
        self,
        shape: torch.Size,
        generators: list[torch.Generator],
        device: torch.device,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        rows, channels, height, width = shape
        patches = torch.Size((rows, channels * PATCH**2, height // PATCH, width // PATCH))
        drawn = super().noise(patches, generators, device, dtype)
        return unpacked(drawn.flatten(2).transpose(1, 2), height, width)

    def scaled(self, latents: torch.Tensor, vae: Any) -> torch.Tensor:
        mean, std = _moments(latents, vae)
        return unpacked((packed(latents) - mean) / std, *latents.shape[-2:])

    def unscaled(self, latents: torch.Tensor, vae: Any) -> torch.Tensor:
        mean, std = _moments(latents, vae)
        return unpacked(packed(latents) * std + mean, *latents.shape[-2:])


class Flux2Klein(FlowFamily):
    """Guided unless the base says that it is distilled.

    The LoRA is on the attention of both kinds of blocks, but for the output of the single ones.
    """

    name = "flux-2-klein"
    title = "FLUX.2-klein"
    class_names = ("Flux2KleinPipeline", "Flux2KleinInpaintPipeline")
    text_to_image = "Flux2KleinPipeline"
    image_to_image = "Flux2KleinInpaintPipeline"
    encoders = (
        Qwen3Encoder(
            "tokenizer",
            "text_encoder",
            "qwen3",
            max_length=512,
            masked=True,
            outputs=READ_LAYERS,
        ),
    )
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0", "to_qkv_mlp_proj")
    weights = {
        "transformer": "diffusion_pytorch_model.safetensors",
        "vae": "diffusion_pytorch_model.safetensors",
        "text_encoder": "model.safetensors",
    }
    license = "apache-2.0"  # of 4B; 9B has a non-commercial one
    latents = Flux2Latents()

    def given_channels(self, vae: dict[str, Any]) -> Any:
        return 4 * vae["latent_channels"] if type(vae.get("latent_channels")) is int else None

    def of_pipeline(self, pipeline: Pipeline) -> dict[str, Any]:
        return {"is_distilled": pipeline.config["is_distilled"]}

    def shift(
        self, pipeline: Pipeline, scheduler: Any, num_inference_steps: int, size: tuple[int, int]
    ) -> float:
        from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

        return compute_empirical_mu(self.num_tokens(pipeline, size), num_inference_steps)

    def encode_prompt(
        self, pipeline: Pipeline, prompt: str, negative: str, guided: bool, device: torch.device
    ) -> tuple[Conditioning, Conditioning]:
        texts = [prompt, negative] if guided else [prompt]
        told = [
            {"prompt_embeds": pipeline.encode_prompt(self.call_text(pipeline, text), device)[0]}
            for text in texts
        ]
        return told[0], told[1] if guided else {}

    def encode_ids(
        self,
        encoders: list[Any],
        input_ids: list[torch.Tensor],
        geometry: torch.Tensor | None,
    ) -> Conditioning:
        (encoder,), (ids,) = encoders, input_ids
        ids, mask = masked(ids)
        output = encoder.base_model(
            input_ids=ids, attention_mask=mask.long(), output_hidden_states=True, use_cache=False
        )
        layers = [output.hidden_states[layer] for layer in READ_LAYERS]
        return {"prompt_embeds": torch.cat(layers, dim=-1)}

    def embeds_guidance(self, pipeline: Pipeline) -> bool:
        return bool(pipeline.config["is_distilled"])

    def of_start(self, latents: torch.Tensor) -> Conditioning:
        return {"reference": latents}

    def call_options(
        self, pipeline: Pipeline, guidance_scale: float, images: torch.Tensor | None
    ) -> dict[str, Any]:
        options = super().call_options(pipeline, guidance_scale, images)
        return (
            options if images is None else options | {"mask_image": torch.ones_like(images[:, :1])}
        )

    def predict(
        self, denoiser: Any, latents: torch.Tensor, timestep: torch.Tensor, told: Conditioning
    ) -> torch.Tensor:
        rows, _, height, width = latents.shape
        embeds, shown = told["prompt_embeds"], [latents]
        if "reference" in told:
            shown.append(told["reference"])
        at = places(height, width, latents.device)
        zeros = at.new_zeros(len(at), 1)
        ids = [torch.cat([zeros + REFERENCE_TIME * n, at, zeros], dim=1) for n in range(len(shown))]
        words = torch.arange(embeds.shape[1], device=latents.device)
        tokens = denoiser(
            hidden_states=torch.cat([packed(one) for one in shown], dim=1),
            timestep=timestep.expand(rows).to(latents.dtype) / 1000,
            guidance=None,
            encoder_hidden_states=embeds,
            txt_ids=torch.stack([torch.zeros_like(words)] * 3 + [words], dim=1).repeat(rows, 1, 1),
            img_ids=torch.cat(ids).repeat(rows, 1, 1),
            return_dict=False,
        )[0]
        return unpacked(tokens[:, : len(at)], height, width)


def _moments(latents: torch.Tensor, vae: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of every channel of packed latents, (4 * c,)."""
    mean = vae.bn.running_mean.to(latents)
    std = torch.sqrt(vae.bn.running_var + vae.config.batch_norm_eps).to(latents)
    return mean, std
