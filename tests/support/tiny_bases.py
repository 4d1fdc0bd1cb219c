"""Base models of every family with random weights, for images of 32x32."""

import torch
from diffusers import (
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from tiny_models import build_tiny_pipeline
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sgdmix_hub.demo.tiny_unet import build_tokenizer

# SDXL's own schedule; Turbo's and Lightning's differ in the spacing
SDXL_SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "interpolation_type": "linear",
}


def build_sdxl(scheduler=None, **unet_options) -> StableDiffusionXLPipeline:
    """SDXL's layout: two CLIPs of different widths and tokenizers, pooled output, time ids.

    `scheduler`: SDXL's own if not given. `unet_options`: other values of the UNet's config.
    """
    parts = build_tiny_pipeline().components
    torch.manual_seed(1)
    first, second = build_tokenizer(), build_tokenizer()
    second.pad_token = "!"  # as SDXL's second tokenizer pads
    text = parts["text_encoder"].config.to_dict()
    # the last layer but one is read, as SDXL does, so there must be two
    text |= {"num_hidden_layers": 2, "vocab_size": len(first)}
    wide = text | {"hidden_size": 48, "num_attention_heads": 4, "projection_dim": 24}
    options = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 24,
        "cross_attention_dim": 32 + 48,
    }
    unet = UNet2DConditionModel.from_config(parts["unet"].config, **options | unet_options)
    return StableDiffusionXLPipeline(
        vae=parts["vae"],
        text_encoder=CLIPTextModel(CLIPTextConfig(**text)),
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**wide)),
        tokenizer=first,
        tokenizer_2=second,
        unet=unet,
        scheduler=scheduler or EulerDiscreteScheduler(**SDXL_SCHEDULE),
        add_watermarker=False,
    )


def save_random_lora(unet, path, targets=("to_q", "to_v", "conv1", "time_emb_proj")):
    """A LoRA of a UNet with random weights, in peft's format, as distillations publish them."""
    torch.manual_seed(3)
    unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=list(targets)))
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    state = get_peft_model_state_dict(unet)
    save_file({f"unet.{name}": value.contiguous() for name, value in state.items()}, path)
