"""The model in training: a base with LoRA on its denoiser's attention, and learned tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.training_utils import cast_training_params
from peft import LoraConfig
from torch import nn

from sgdmix_hub.hub.pins import Pin
from sgdmix_hub.models.bases.family import Encoder, Family
from sgdmix_hub.models.bases.loading import LoadedBase, load_base
from sgdmix_hub.models.prompts import add_tokens
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.training.precision import dtype_of

from .known_prompts import KnownPrompts, know_prompts
from .memory import frees_encoders
from .token_embedding import TokenEmbedding


class AdaptedModel(nn.Module):
    """Text encoders and denoiser as one module, whose gradients are synchronised together."""

    def __init__(
        self,
        family: Family,
        text_encoders: list[Any],
        denoiser: Any,
        tokens: Mapping[str, TokenEmbedding | KnownPrompts],
    ):
        """`tokens`: by their encoder's key, in the order of `text_encoders`; or none at all."""
        super().__init__()
        self.family = family
        self.text_encoders = nn.ModuleList(text_encoders)
        self.denoiser = denoiser
        self._tokens = tokens  # part of the text encoders, too

    def forward(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        input_ids: list[torch.Tensor],
        geometry: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The denoiser's prediction for noisy latents, both (B, c, h, w).

        `timesteps`: (B,), as `Noising.told` gives them. `input_ids`: (B, length) for every text
        encoder. `geometry`: int64 (B, 6), for families that need it.
        """
        told = self.family.encode_ids(list(self.text_encoders), input_ids, geometry)
        return self.family.predict(self.denoiser, latents, timesteps, told)

    def learned(self) -> dict[str, nn.Parameter]:
        """The learned tokens, (classes * vectors, dim), by their encoder's key."""
        return {key: tokens.learned for key, tokens in self._tokens.items()}

    def token_scale(self) -> float:
        """How large the learned rows are, as a multiple of an input's; only an encoder that is
        alone learns in its output.
        """
        return max((tokens.scale for tokens in self._tokens.values()), default=1.0)

    def token_tensors(self) -> dict[str, torch.Tensor]:
        """What a file of learned tokens is made of, by name."""
        parts = [tokens.tensors(key) for key, tokens in self._tokens.items()]
        return {name: value for part in parts for name, value in part.items()}

    def lora(self) -> dict[str, nn.Parameter]:
        """The LoRA weights by name."""
        return {
            name: parameter
            for name, parameter in self.denoiser.named_parameters()
            if parameter.requires_grad
        }

    def trained(self) -> dict[str, nn.Parameter]:
        """All trained parameters by name."""
        return {f"tokens.{key}": parameter for key, parameter in self.learned().items()} | {
            f"denoiser.{name}": parameter for name, parameter in self.lora().items()
        }


def load_adapted(
    base: Pin, settings: AdapterSettings, num_classes: int
) -> tuple[LoadedBase, AdaptedModel]:
    """The base as a pipeline, and its trained part as a model; they share their weights.

    Trained weights and the autoencoder are float32; the other weights are loaded in the training's
    precision. The learned tokens start as the mean of the metaclass's tokens. Raises `UserError`.
    """
    dtype = dtype_of(settings)
    loaded = load_base(base, dtype, "text_to_image", vae_dtype=torch.float32)
    loaded.check_size(settings.resolution)
    loaded.use_scheduler()
    encoders = loaded.encoders
    for part in (loaded.denoiser, loaded.pipeline.vae, *map(loaded.network, encoders)):
        part.requires_grad_(False)
    for encoder in encoders:
        without_dropout(loaded.network(encoder))
    tokens = {
        encoder.key: _learn_tokens(loaded, encoder, settings, num_classes)
        for encoder in (encoders if settings.num_vectors else [])
    }
    text_encoders = [loaded.network(encoder) for encoder in encoders]
    loaded.denoiser.add_adapter(
        LoraConfig(
            r=settings.rank,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            init_lora_weights="gaussian",
            target_modules=list(loaded.family.lora_targets),
        )
    )
    model = AdaptedModel(loaded.family, text_encoders, loaded.denoiser, tokens)
    model.to(dtype)  # also what libraries keep in single precision, and new layers
    cast_training_params(model, torch.float32)
    if settings.gradient_checkpointing:
        model.denoiser.enable_gradient_checkpointing()
        for network in [] if frees_encoders(settings) else text_encoders:
            network.gradient_checkpointing_enable({"use_reentrant": False})
    return loaded, model


def without_dropout(network: nn.Module) -> None:
    """Makes a frozen network compute in a training what it computes in a generation.

    It stays in training mode, which its gradient checkpointing needs; T5 is saved with a dropout.
    """
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout"):  # of fused attention
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def _learn_tokens(
    base: LoadedBase, encoder: Encoder, settings: AdapterSettings, num_classes: int
) -> TokenEmbedding | KnownPrompts:
    """Gives an encoder the classes' tokens, as the mean of the metaclass's tokens, or takes what
    it says of them in its place.
    """
    tokenizer, network = base.tokenizer(encoder), base.network(encoder)
    metaclass_ids = tokenizer(settings.metaclass, add_special_tokens=False).input_ids
    first = len(tokenizer)
    add_tokens(tokenizer, num_classes, settings.num_vectors)
    embedding = network.get_input_embeddings()
    initial = embedding.weight[metaclass_ids].float().mean(dim=0).detach()
    initial = initial.expand(num_classes * settings.num_vectors, -1)
    tokens = TokenEmbedding(embedding, initial, first)
    network.set_input_embeddings(tokens)
    if settings.token_place != "output":
        return tokens
    known = know_prompts(base, encoder, settings, tokens)
    setattr(base.pipeline, encoder.model, known)
    return known
