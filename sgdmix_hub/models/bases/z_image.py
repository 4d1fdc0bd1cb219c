"""Z-Image: one language model as its text encoder, latents that are not packed."""

from __future__ import annotations

from typing import Any

import torch

from .family import Conditioning, Pipeline
from .flow import ChatEncoder, FlowFamily, masked, padded

EMBEDS = ("prompt_embeds", "prompt_mask")


class ZImage(FlowFamily):
    """The transformer takes lists, and predicts x - n: the negative of a flow's velocity.

    Guidance is w + s (w - u), as the stock pipeline has it: a scale s is one less than elsewhere.
    """

    name = "z-image"
    title = "Z-Image"
    class_names = ("ZImagePipeline", "ZImageImg2ImgPipeline")
    text_to_image = "ZImagePipeline"
    image_to_image = "ZImageImg2ImgPipeline"
    encoders = (
        ChatEncoder(
            "tokenizer",
            "text_encoder",
            "qwen3",
            max_length=512,
            masked=True,
            padded=False,
            outputs=(-2,),
        ),
    )
    weights = {
        "transformer": "diffusion_pytorch_model.safetensors",
        "vae": "diffusion_pytorch_model.safetensors",
        "text_encoder": "model.safetensors",
    }
    license = "apache-2.0"
    fits_float16 = False

    def sigmas(self, num_inference_steps: int) -> Any:
        return torch.linspace(1.0, 1 / num_inference_steps, num_inference_steps).tolist()

    def encode_prompt(
        self, pipeline: Pipeline, prompt: str, negative: str, guided: bool, device: torch.device
    ) -> tuple[Conditioning, Conditioning]:
        wanted, unwanted = pipeline.encode_prompt(
            [self.call_text(pipeline, prompt)],
            device=device,
            do_classifier_free_guidance=guided,
            negative_prompt=[negative],
        )
        return _told(wanted[0]), _told(unwanted[0]) if guided else {}

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
            input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False
        )
        return {"prompt_embeds": output.hidden_states[-2], "prompt_mask": mask}

    def guided(
        self, unwanted: torch.Tensor, wanted: torch.Tensor, guidance_scale: float
    ) -> torch.Tensor:
        return wanted + guidance_scale * (wanted - unwanted)

    def call_options(
        self, pipeline: Pipeline, guidance_scale: float, images: torch.Tensor | None
    ) -> dict[str, Any]:
        scale = guidance_scale if guidance_scale > 1 else 0.0  # stock guides above 0
        return super().call_options(pipeline, scale, images)

    def predict(
        self, denoiser: Any, latents: torch.Tensor, timestep: torch.Tensor, told: Conditioning
    ) -> torch.Tensor:
        time = (1000 - timestep.expand(len(latents))) / 1000
        texts = [
            embeds[mask]
            for embeds, mask in zip(told["prompt_embeds"], told["prompt_mask"], strict=True)
        ]
        images = list(latents[:, :, None].unbind(0))
        predicted = denoiser(images, time, texts, return_dict=False)[0]
        return -torch.stack(list(predicted)).squeeze(2)


def _told(embeds: torch.Tensor) -> Conditioning:
    """A prompt's embeddings, (length, dim), as one row."""
    mask = torch.ones(1, len(embeds), dtype=torch.bool, device=embeds.device)
    return {"prompt_embeds": embeds[None], "prompt_mask": mask}
