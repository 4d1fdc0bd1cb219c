"""Stable Diffusion XL, and what was made of it: Turbo, Lightning, LCM, fine-tuned versions."""

from __future__ import annotations

from typing import Any

import torch

from sgdmix_hub.errors import shown
from sgdmix_hub.models.prompts import check_width, fault_of_count, tokens_of

from .family import Conditioning, Configs, Encoder, Pipeline
from .unet import UNetFamily


class StableDiffusionXL(UNetFamily):
    """Two CLIPs, the second one's pooled output, and the geometry of the image (`time_ids`).

    Learned tokens are a file of one tensor an encoder, `clip_l` and `clip_g`, (tokens, dim), as
    diffusers' pivotal tuning writes it (train_dreambooth_lora_sdxl_advanced.py).
    """

    name = "stable-diffusion-xl"
    title = "Stable Diffusion XL"
    class_names = ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline")
    text_to_image = "StableDiffusionXLPipeline"
    image_to_image = "StableDiffusionXLImg2ImgPipeline"
    encoders = (
        Encoder("tokenizer", "text_encoder", "clip_l", hidden=(-2,)),
        Encoder("tokenizer_2", "text_encoder_2", "clip_g", hidden=(-2,)),
    )
    weights = {
        "unet": "diffusion_pytorch_model.safetensors",
        "vae": "diffusion_pytorch_model.safetensors",
        "text_encoder": "model.safetensors",
        "text_encoder_2": "model.safetensors",
    }
    license = "openrail++"
    needs_geometry = True
    conditioning = "text_time"

    def fault(self, index: dict[str, Any], configs: Configs) -> str | None:
        stated = {encoder.model: index.get(encoder.model) for encoder in self.encoders}
        absent = [name for name, part in stated.items() if not part or part == [None, None]]
        if absent or index.get("requires_aesthetics_score"):
            return f"no {absent[0] if absent else 'plain conditioning'}, like SDXL's refiner"
        return super().fault(index, configs)

    def options(self, safety_checker: bool) -> dict[str, Any]:
        # an invisible watermark would be learned from the published images
        return {"add_watermarker": False}

    def of_pipeline(self, pipeline: Pipeline) -> dict[str, Any]:
        name = "force_zeros_for_empty_prompt"
        return {name: pipeline.config[name]}

    def encode_prompt(
        self, pipeline: Pipeline, prompt: str, negative: str, guided: bool, device: torch.device
    ) -> tuple[Conditioning, Conditioning]:
        embeds, unwanted, pooled, unwanted_pooled = pipeline.encode_prompt(
            prompt,
            device=device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=guided,
            # without one, most bases take zeros in the place of the empty prompt
            negative_prompt=negative or None,
        )
        told = {"prompt_embeds": embeds, "text_embeds": pooled}
        if not guided:
            return told, {}
        return told, {"prompt_embeds": unwanted, "text_embeds": unwanted_pooled}

    def encode_ids(
        self,
        encoders: list[Any],
        input_ids: list[torch.Tensor],
        geometry: torch.Tensor | None,
    ) -> Conditioning:
        assert geometry is not None, "`needs_geometry` is set"
        outputs = [
            encoder(ids, output_hidden_states=True)
            for encoder, ids in zip(encoders, input_ids, strict=True)
        ]
        embeds = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        pooled = outputs[-1][0]
        return {
            "prompt_embeds": embeds,
            "text_embeds": pooled,
            "time_ids": geometry.float(),  # float16 ends at 65,504
        }

    def of_images(
        self, pipeline: Pipeline, height: int, width: int, guidance_scale: float
    ) -> Conditioning:
        unet = pipeline.components["unet"]
        time_ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=unet.dtype)
        told = super().of_images(pipeline, height, width, guidance_scale)
        return told | {"time_ids": time_ids.to(unet.device)}

    def added(self, told: Conditioning) -> Conditioning:
        return {name: told[name] for name in ("text_embeds", "time_ids")}

    def overflows(self, vae: Any) -> bool:
        """The original autoencoder does in float16, and its config says so."""
        return vae.dtype == torch.float16 and vae.config.force_upcast

    def token_file(
        self, learned: dict[str, torch.Tensor], num_vectors: int
    ) -> dict[str, torch.Tensor]:
        return {key: rows.clone() for key, rows in learned.items()}

    def fault_of_tokens(self, tokens: dict[str, torch.Tensor], num_classes: int) -> str | None:
        keys = [encoder.key for encoder in self.encoders]
        missing = [key for key in keys if key not in tokens]
        if missing:
            return f"has no learned tokens {missing[0]}"
        if unknown := set(tokens) - set(keys):
            return f"has learned tokens {shown(min(unknown))}, and its base takes none of that name"
        counts = {len(tokens[key]) for key in keys if tokens[key].ndim == 2}
        return fault_of_count(counts.pop() if len(counts) == 1 else 0, num_classes)

    def load_tokens(
        self, pipeline: Pipeline, tokens: dict[str, torch.Tensor], num_classes: int
    ) -> None:
        for encoder in self.encoders:
            rows = tokens[encoder.key]
            check_width(rows, getattr(pipeline, encoder.model))
            count = len(rows) // num_classes
            names = [name for label in range(num_classes) for name in tokens_of(label, count)]
            pipeline.load_textual_inversion(
                rows,
                token=names,
                text_encoder=getattr(pipeline, encoder.model),
                tokenizer=getattr(pipeline, encoder.tokenizer),
            )
