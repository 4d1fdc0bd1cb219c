"""The model in training: a base with LoRA on the UNet's attention, and learned tokens."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.training_utils import cast_training_params
from peft import LoraConfig
from torch import nn

from sgdmix_hub.hub.pins import Pin
from sgdmix_hub.models.adapters import LORA_TARGETS
from sgdmix_hub.models.bases import NO_SAFETY_CHECKER, Pipeline, load_base, with_scheduler
from sgdmix_hub.models.prompts import add_tokens
from sgdmix_hub.settings.training import AdapterSettings
from sgdmix_hub.training.precision import precision_of

PRECISIONS = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class TokenEmbedding(nn.Module):
    """The text encoder's embedding, frozen, followed by learned rows."""

    def __init__(self, embedding: nn.Embedding, initial: torch.Tensor):
        """`initial`: float (tokens, dim), of the learned rows."""
        super().__init__()
        self.embedding = embedding.requires_grad_(False)
        self.learned = nn.Parameter(initial.clone())

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        old = self.embedding.num_embeddings
        rows = self.embedding(input_ids.clamp(max=old - 1))
        is_learned = input_ids >= old
        learned = self.learned[(input_ids - old).clamp(min=0)].to(rows.dtype)
        return torch.where(is_learned[..., None], learned, rows)


class AdaptedModel(nn.Module):
    """Text encoder and UNet as one module, whose gradients are synchronised together."""

    def __init__(self, text_encoder: Any, unet: Any, tokens: TokenEmbedding):
        super().__init__()
        self.text_encoder = text_encoder
        self.unet = unet
        self.tokens = tokens

    def forward(
        self, latents: torch.Tensor, timesteps: torch.Tensor, input_ids: torch.Tensor
    ) -> torch.Tensor:
        """The UNet's prediction for noisy latents, both (B, c, h, w).

        `timesteps`: int64 (B,). `input_ids`: (B, length).
        """
        prompt_embeds = self.text_encoder(input_ids)[0]
        return self.unet(latents, timesteps, prompt_embeds).sample

    def lora(self) -> dict[str, nn.Parameter]:
        """The LoRA weights by name."""
        return {
            name: parameter
            for name, parameter in self.unet.named_parameters()
            if parameter.requires_grad
        }

    def trained(self) -> dict[str, nn.Parameter]:
        """All trained parameters by name."""
        return {"tokens": self.tokens.learned} | {
            f"unet.{name}": parameter for name, parameter in self.lora().items()
        }


def load_adapted(
    base: Pin, settings: AdapterSettings, num_classes: int
) -> tuple[Pipeline, AdaptedModel]:
    """The base as a pipeline, and its trained part as a model; they share their weights.

    Trained weights and the autoencoder are float32, the other weights have the training's
    precision. The learned tokens start as the mean of the metaclass's tokens. Raises `UserError`.
    """
    pipeline = load_base(StableDiffusionPipeline, base, torch.float32, **NO_SAFETY_CHECKER)
    pipeline = with_scheduler(pipeline, "dpmsolver++")
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.requires_grad_(False)
    metaclass_ids = pipeline.tokenizer(settings.metaclass, add_special_tokens=False).input_ids
    add_tokens(pipeline.tokenizer, num_classes, settings.num_vectors)
    embedding = pipeline.text_encoder.get_input_embeddings()
    initial = embedding.weight[metaclass_ids].mean(dim=0).detach()
    tokens = TokenEmbedding(embedding, initial.expand(num_classes * settings.num_vectors, -1))
    pipeline.text_encoder.set_input_embeddings(tokens)
    pipeline.unet.add_adapter(
        LoraConfig(
            r=settings.rank,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            init_lora_weights="gaussian",
            target_modules=LORA_TARGETS,
        )
    )
    model = AdaptedModel(pipeline.text_encoder, pipeline.unet, tokens)
    model.to(PRECISIONS[precision_of(settings)])
    cast_training_params(model, torch.float32)
    if settings.gradient_checkpointing:
        model.unet.enable_gradient_checkpointing()
        model.text_encoder.gradient_checkpointing_enable({"use_reentrant": False})
    return pipeline, model
