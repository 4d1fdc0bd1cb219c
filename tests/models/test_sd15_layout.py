"""Stable Diffusion 1.5's layout at the smallest size that keeps it: trained on, saved, and loaded
by stock diffusers.
"""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file
from stock import load_pipeline, refined_by, stock_images
from transformers import CLIPTextConfig, CLIPTextModel

from sgdmix_hub import train_adapter
from sgdmix_hub.demo.tiny_unet import build_tokenizer
from sgdmix_hub.models.adapters import LORA_FILE, TOKENS_FILE
from sgdmix_hub.settings.adapter_training import AdapterSettings

SIZE = 64


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Four levels with two blocks each, attention on the first three, an f8 autoencoder, 77 tokens,
    noise prediction, PNDM.
    """
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    tokenizer.model_max_length = 77
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        projection_dim=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=2,
        norm_num_groups=4,
    )
    schedule = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "skip_prk_steps": True,
        "steps_offset": 1,
    }
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=SIZE // 8,
            block_out_channels=(32, 64, 64, 64),
            cross_attention_dim=32,
            attention_head_dim=8,
        ),
        scheduler=PNDMScheduler(**schedule),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    folder = tmp_path_factory.mktemp("sd15") / "base"
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.mark.slow
def test_an_adapter_of_this_layout_is_what_stock_diffusers_loads(base, birds, tmp_path):
    adapter = tmp_path / "adapter"
    train_adapter.main(
        AdapterSettings(
            dataset_name=str(birds),
            output_dir=str(adapter),
            pretrained_model_name_or_path=str(base),
            metaclass="bird",
            rank=4,
            lora_alpha=8,
            learning_rate=0.05,
            token_learning_rate=0.05,
            num_train_samples=4,
            total_batch_size=2,
            resolution=SIZE,
            num_inference_steps=2,
            judged_strength=0.5,
        )
    )
    # two attentions with four projections each, in 6 blocks down, 1 in the middle, 9 up; two
    # matrices each
    assert len(load_file(adapter / LORA_FILE)) == 2 * 4 * (6 + 1 + 9) * 2
    assert len(load_file(adapter / TOKENS_FILE)) == 4
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    expected = refined_by(load_pipeline(base, adapter), images)
    assert np.array_equal(stock_images(base, adapter, images, tmp_path), expected)
