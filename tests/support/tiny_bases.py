"""Base models of every family with random weights, for images of 32x32."""

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from tiny_models import build_tiny_pipeline
from tokenizers import pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

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


# ---- families trained by flow matching ----

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
UNUSED_ROWS = 30  # rows of an embedding without a token, as the originals have some


def qwen_tokenizer() -> Qwen2Tokenizer:
    """Byte by byte, with a chat's template and the originals' long maximum."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Qwen2Tokenizer(
        vocab={letter: index for index, letter in enumerate(letters)},
        merges=[],
        model_max_length=131_072,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHAT
    return tokenizer


def t5_tokenizer() -> T5Tokenizer:
    letters = [chr(code) for code in range(33, 127)]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return T5Tokenizer(
        vocab=vocab + [(letter, -3.0) for letter in letters], extra_ids=0, model_max_length=512
    )


def t5_encoder(tokenizer: T5Tokenizer) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer) + UNUSED_ROWS,
            d_model=16,
            d_kv=8,
            d_ff=32,
            num_layers=1,
            num_heads=2,
        )
    )


def qwen3_config(tokenizer: Qwen2Tokenizer, layers: int) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=len(tokenizer) + UNUSED_ROWS,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=1024,
    )


def clip_config(tokenizer, **values) -> CLIPTextConfig:
    options = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "projection_dim": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return CLIPTextConfig(**options | values)


VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (8, 16, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 32,
}


def build_vae() -> AutoencoderKL:
    return AutoencoderKL(latent_channels=16, scaling_factor=0.36, shift_factor=0.12, **VAE)


def build_z_image() -> ZImagePipeline:
    torch.manual_seed(1)
    tokenizer = qwen_tokenizer()
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
        vae=build_vae(),
        text_encoder=Qwen3Model(qwen3_config(tokenizer, layers=2)),
        tokenizer=tokenizer,
        transformer=ZImageTransformer2DModel(
            in_channels=16,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=16,
            axes_dims=[8, 4, 4],
            axes_lens=[256, 32, 32],
        ),
    )


def build_sd3(with_t5: bool = True) -> StableDiffusion3Pipeline:
    torch.manual_seed(1)
    first, second, third = build_tokenizer(), build_tokenizer(), t5_tokenizer()
    second.pad_token = "!"
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=16,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=40,
            caption_projection_dim=16,
            pooled_projection_dim=32,
            out_channels=16,
            pos_embed_max_size=24,
            qk_norm="rms_norm",
            dual_attention_layers=(0,),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=build_vae(),
        text_encoder=CLIPTextModelWithProjection(clip_config(first)),
        tokenizer=first,
        text_encoder_2=CLIPTextModelWithProjection(clip_config(second)),
        tokenizer_2=second,
        text_encoder_3=_wide_t5(third) if with_t5 else None,
        tokenizer_3=third if with_t5 else None,
    )


def _wide_t5(tokenizer: T5Tokenizer) -> T5EncoderModel:
    """Wider than both CLIPs together, as the original is."""
    config = t5_encoder(tokenizer).config
    config.d_model = 40
    return T5EncoderModel(config)


def build_flux(guidance_embeds: bool = True) -> FluxPipeline:
    """FLUX.1 dev; schnell without `guidance_embeds`."""
    torch.manual_seed(1)
    first, second = build_tokenizer(), t5_tokenizer()
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=build_vae(),
        text_encoder=CLIPTextModel(clip_config(first)),
        tokenizer=first,
        text_encoder_2=t5_encoder(second),
        tokenizer_2=second,
        transformer=FluxTransformer2DModel(
            in_channels=64,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            pooled_projection_dim=16,
            guidance_embeds=guidance_embeds,
            axes_dims_rope=(4, 6, 6),
        ),
    )


def build_flux2_klein(is_distilled: bool = False) -> Flux2KleinPipeline:
    torch.manual_seed(1)
    tokenizer = qwen_tokenizer()
    vae = AutoencoderKLFlux2(latent_channels=8, **VAE)
    vae.bn.running_mean.normal_(std=0.1)
    vae.bn.running_var.uniform_(0.5, 1.5)
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae,
        text_encoder=Qwen3ForCausalLM(qwen3_config(tokenizer, layers=28)),
        tokenizer=tokenizer,
        transformer=Flux2Transformer2DModel(
            in_channels=32,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=48,
            timestep_guidance_channels=32,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        ),
        is_distilled=is_distilled,
    )


def build_qwen_image() -> QwenImagePipeline:
    torch.manual_seed(1)
    tokenizer = qwen_tokenizer()
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer) + UNUSED_ROWS,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "max_position_embeddings": 2048,
            "rope_parameters": {
                "mrope_section": [1, 1, 2],
                "rope_type": "default",
                "rope_theta": 1e6,
            },
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 16,
        },
    )
    return QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02
        ),
        vae=AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 2, 2],
            num_res_blocks=1,
            temperal_downsample=[False, True],
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.0, 2.0, 0.5, 1.5],
        ),
        text_encoder=Qwen2_5_VLForConditionalGeneration(config),
        tokenizer=tokenizer,
        transformer=QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(8, 4, 4),
        ),
    )


# family's name -> its base
BUILD = {
    "stable-diffusion": build_tiny_pipeline,
    "stable-diffusion-xl": build_sdxl,
    "z-image": build_z_image,
    "stable-diffusion-3": build_sd3,
    "flux": build_flux,
    "flux-2-klein": build_flux2_klein,
    "qwen-image": build_qwen_image,
}
