"""Bases in the layouts of Stable Diffusion XL and Z-Image, with random weights in bfloat16.

Random weights change neither speed nor memory of the denoiser and the autoencoder. Text encoders
have the real widths and two layers: prompts are encoded once and the encoders freed, before
anything is timed.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from parts.tiny_flow.model import build_tokenizer as build_chat_tokenizer
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Qwen3Config,
    Qwen3Model,
)

from sgdmix_hub.demo.tiny_unet import build_tokenizer

TEXT_LAYERS = 2
SHAPES: dict[str, dict[str, Any]] = {
    "sdxl": {
        "layout": "sdxl",
        "resolution": 1024,
        "unet": (320, 640, 1280),
        "depths": (1, 2, 10),  # transformer layers of a level's attention
        "heads": (5, 10, 20),
        "vae": (128, 256, 512, 512),
        "text": (768, 1280),
    },
    "sdxl-tiny": {
        "layout": "sdxl",
        "resolution": 64,
        "unet": (32, 32, 64),
        "depths": (1, 1, 2),
        "heads": (2, 2, 4),
        "vae": (16, 16, 16, 16),
        "text": (32, 64),
    },
    "z-image": {
        "layout": "z-image",
        "resolution": 1024,
        "width": 3840,
        "layers": (30, 2),  # of the transformer, and of each of its refiners
        "heads": 30,
        "axes": (32, 48, 48),
        "vae": (128, 256, 512, 512),
        "text": 2560,
    },
    "z-image-tiny": {
        "layout": "z-image",
        "resolution": 64,
        "width": 32,
        "layers": (2, 1),
        "heads": 2,
        "axes": (8, 4, 4),
        "vae": (16, 16, 16, 16),
        "text": 32,
    },
}


def build_large(shape: dict[str, Any]) -> Any:
    """A pipeline of one of the shapes."""
    torch.manual_seed(0)
    kept = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)  # in float32 Z-Image would take 25 GB of memory
    try:
        return {"sdxl": build_sdxl, "z-image": build_z_image}[shape["layout"]](shape)
    finally:
        torch.set_default_dtype(kept)


def build_sdxl(shape: dict[str, Any]) -> StableDiffusionXLPipeline:
    """SDXL's layout: three levels, the first without attention; two CLIPs; time ids."""
    tokenizers = [build_tokenizer(), build_tokenizer()]
    widths = shape["text"]
    texts = [
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=width,
            intermediate_size=4 * width,
            projection_dim=width,
            num_hidden_layers=TEXT_LAYERS,
            num_attention_heads=width // 32,
            max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        for width, tokenizer in zip(widths, tokenizers, strict=True)
    ]
    return StableDiffusionXLPipeline(
        vae=build_vae(shape["vae"], 4, 0.13025),
        text_encoder=CLIPTextModel(texts[0]),
        text_encoder_2=CLIPTextModelWithProjection(texts[1]),
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        unet=build_denoiser(shape),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
        add_watermarker=False,
    )


def build_z_image(shape: dict[str, Any]) -> ZImagePipeline:
    """Z-Image's layout: one transformer over text and image, a language model, 16 channels."""
    tokenizer, width = build_chat_tokenizer(), shape["text"]
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
        vae=build_vae(shape["vae"], 16, 0.3611, shift=0.1159),
        text_encoder=Qwen3Model(
            Qwen3Config(
                vocab_size=len(tokenizer),
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=TEXT_LAYERS,
                num_attention_heads=width // 16,
                num_key_value_heads=width // 16,
                head_dim=16,
                max_position_embeddings=512,
            )
        ),
        tokenizer=tokenizer,
        transformer=build_denoiser(shape),
    )


def build_denoiser(shape: dict[str, Any]) -> UNet2DConditionModel | ZImageTransformer2DModel:
    """The UNet or the transformer of a shape."""
    if shape["layout"] == "sdxl":
        time_dim = 256
        return UNet2DConditionModel(
            sample_size=shape["resolution"] // 8,
            block_out_channels=shape["unet"],
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=shape["depths"],
            attention_head_dim=shape["heads"],
            cross_attention_dim=sum(shape["text"]),
            addition_embed_type="text_time",
            addition_time_embed_dim=time_dim,
            projection_class_embeddings_input_dim=6 * time_dim + shape["text"][1],
            use_linear_projection=True,
        )
    layers, refiners = shape["layers"]
    return ZImageTransformer2DModel(
        in_channels=16,
        dim=shape["width"],
        n_layers=layers,
        n_refiner_layers=refiners,
        n_heads=shape["heads"],
        n_kv_heads=shape["heads"],
        cap_feat_dim=shape["text"],
        axes_dims=list(shape["axes"]),
        axes_lens=[1536, 512, 512],
    )


def build_vae(
    channels: tuple[int, ...], latent_channels: int, scale: float, shift: float | None = None
) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=channels,
        layers_per_block=2,
        norm_num_groups=16,
        latent_channels=latent_channels,
        scaling_factor=scale,
        shift_factor=shift,
        force_upcast=False,
    )
