"""The networks of a tiny base in Z-Image's layout, for images of 64x64."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers import pre_tokenizers
from torch import nn
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3Model

from sgdmix_hub.demo.tiny_unet import learn_merges
from sgdmix_hub.demo.world import vocabulary

SPACE = "Ġ"  # how byte-level tokenizers write the space before a word
START, END = "<|im_start|>", "<|im_end|>"
# A chat of one message without roles: two tokens more than the prompt.
TEMPLATE = f"{{% for message in messages %}}{START}{{{{ message.content }}}}{END}{{% endfor %}}"
TEXT_WIDTH, TEXT_LAYERS = 128, 3  # the family reads the last layer but one
WIDTH, LAYERS, HEADS = 128, 6, 4
SHIFT = 2.0


def build_tokenizer() -> Qwen2Tokenizer:
    """Byte by byte, but each word of the world, with the space before it, is one token."""
    merges = learn_merges([[SPACE, *word] for word in vocabulary()])
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = dict.fromkeys([*letters, *("".join(pair) for pair in merges)])
    tokenizer = Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,
        model_max_length=512,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [START, END]})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def build_text_encoder(tokenizer: Qwen2Tokenizer) -> Qwen3Model:
    """A causal language model, whose last layer is frozen: nothing reads it."""
    encoder = Qwen3Model(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            num_hidden_layers=TEXT_LAYERS,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=TEXT_WIDTH // 4,
            max_position_embeddings=512,
        )
    )
    encoder.layers[-1].requires_grad_(False)
    encoder.norm.requires_grad_(False)
    return encoder


def build_transformer(channels: int) -> ZImageTransformer2DModel:
    """Blocks that begin as the identity and an output that begins as zero, as in DiT."""
    transformer = ZImageTransformer2DModel(
        in_channels=channels,
        dim=WIDTH,
        n_layers=LAYERS,
        n_refiner_layers=1,
        n_heads=HEADS,
        n_kv_heads=HEADS,
        cap_feat_dim=TEXT_WIDTH,
        axes_dims=[8, 12, 12],
    )
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            if "adaLN_modulation" in name or name.endswith("final_layer.2-1.linear"):
                nn.init.zeros_(module.weight)
    return transformer


class Denoiser(nn.Module):
    """Text encoder and transformer in one module: trained, averaged and saved together."""

    def __init__(self, text_encoder: nn.Module, transformer: nn.Module):
        super().__init__()
        self.text_encoder, self.transformer = text_encoder, transformer


def build_denoiser(channels: int, seed: int) -> Denoiser:
    torch.manual_seed(seed)
    return Denoiser(build_text_encoder(build_tokenizer()), build_transformer(channels))


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(shift=SHIFT)


def pipeline_of(denoiser: Denoiser, vae: Any) -> ZImagePipeline:
    return ZImagePipeline(
        scheduler=build_scheduler(),
        vae=vae,
        text_encoder=denoiser.text_encoder,
        tokenizer=build_tokenizer(),
        transformer=denoiser.transformer,
    )
