"""Stable Diffusion 1 and 2, and what was made of them: Turbo, LCM, fine-tuned versions."""

from __future__ import annotations

from typing import Any

import torch

from sgdmix_hub.models.prompts import check_width, fault_of_count, token_for

from .family import Conditioning, Encoder, Pipeline
from .unet import UNetFamily


class StableDiffusion(UNetFamily):
    """One CLIP. Learned tokens are a file of one tensor a class, (dim,) or (vectors, dim)."""

    name = "stable-diffusion"
    title = "Stable Diffusion 1 and 2"
    class_names = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
    text_to_image = "StableDiffusionPipeline"
    image_to_image = "StableDiffusionImg2ImgPipeline"
    encoders = (Encoder("tokenizer", "text_encoder", "clip_l"),)
    weights = {
        "unet": "diffusion_pytorch_model.safetensors",
        "vae": "diffusion_pytorch_model.safetensors",
        "text_encoder": "model.safetensors",
        "safety_checker": "model.safetensors",
    }
    license = "creativeml-openrail-m"

    def options(self, safety_checker: bool) -> dict[str, Any]:
        return {} if safety_checker else {"safety_checker": None, "requires_safety_checker": False}

    def encode_prompt(
        self, pipeline: Pipeline, prompt: str, negative: str, guided: bool, device: torch.device
    ) -> tuple[Conditioning, Conditioning]:
        wanted, unwanted = pipeline.encode_prompt(
            prompt, device, 1, guided, negative_prompt=negative
        )
        return {"prompt_embeds": wanted}, {"prompt_embeds": unwanted} if guided else {}

    def encode_ids(
        self,
        encoders: list[Any],
        input_ids: list[torch.Tensor],
        geometry: torch.Tensor | None,
    ) -> Conditioning:
        (encoder,), (ids,) = encoders, input_ids
        return {"prompt_embeds": encoder(ids)[0]}

    def token_file(
        self, learned: dict[str, torch.Tensor], num_vectors: int
    ) -> dict[str, torch.Tensor]:
        vectors = learned["clip_l"].unflatten(0, (-1, num_vectors))
        # diffusers reads a tensor (dim,) as one token and (k, dim) as k tokens
        return {
            token_for(label): (rows[0] if num_vectors == 1 else rows).clone()
            for label, rows in enumerate(vectors)
        }

    def fault_of_tokens(self, tokens: dict[str, torch.Tensor], num_classes: int) -> str | None:
        expected = [token_for(label) for label in range(num_classes)]
        missing = [token for token in expected if token not in tokens]
        if missing:
            return f"has no learned token {missing[0]}"
        if len(tokens) > num_classes:
            return f"has learned tokens besides those of its {num_classes} classes"
        counts = (len(rows) if rows.ndim == 2 else int(rows.ndim == 1) for rows in tokens.values())
        faults = (fault_of_count(count * num_classes, num_classes) for count in counts)
        return next((fault for fault in faults if fault is not None), None)

    def load_tokens(
        self, pipeline: Pipeline, tokens: dict[str, torch.Tensor], num_classes: int
    ) -> None:
        for rows in tokens.values():
            check_width(rows, getattr(pipeline, self.encoders[0].model))
        # one dictionary per token: a file with several tokens is refused if given by path
        pipeline.load_textual_inversion([{name: row} for name, row in tokens.items()])
