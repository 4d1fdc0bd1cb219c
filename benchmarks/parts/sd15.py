"""Models in the layout of Stable Diffusion 1.5, with random weights."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from sgdmix_hub.demo.tiny_unet import build_tokenizer
from sgdmix_hub.models.bases.stable_diffusion import StableDiffusion

# channels of the UNet and the autoencoder, width of the text encoder, its layers, resolution,
# precision
SHAPES = {
    "small": {
        "unet": (32, 64, 128, 128),
        "vae": (16, 32, 64, 64),
        "text": 96,
        "layers": 4,
        "resolution": 128,
        "precision": "no",
    },
    "sd15": {
        "unet": (320, 640, 1280, 1280),
        "vae": (128, 256, 512, 512),
        "text": 768,
        "layers": 12,
        "resolution": 512,
        "precision": "bf16",
    },
}


def build_base(shape: dict) -> StableDiffusionPipeline:
    """SD 1.5's layout with random weights.

    Four levels with two blocks each, attention on the first three, f8, noise prediction.
    """
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    text = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=shape["text"],
        intermediate_size=4 * shape["text"],
        projection_dim=shape["text"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=12,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    unet = build_unet(shape)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=shape["vae"],
        layers_per_block=2,
        norm_num_groups=16,
    )
    schedule = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "skip_prk_steps": True,
        "steps_offset": 1,
    }
    parts = {
        "unet": unet,
        "vae": vae,
        "text_encoder": CLIPTextModel(text),
        "tokenizer": tokenizer,
        "scheduler": PNDMScheduler(**schedule),
    }
    unchecked = StableDiffusion().options(safety_checker=False)
    return StableDiffusionPipeline(**parts, **unchecked, feature_extractor=None)


def build_unet(shape: dict) -> UNet2DConditionModel:
    """The same pipeline's UNet."""
    return UNet2DConditionModel(
        sample_size=shape["resolution"] // 8,
        block_out_channels=shape["unet"],
        cross_attention_dim=shape["text"],
        attention_head_dim=8,
    )
