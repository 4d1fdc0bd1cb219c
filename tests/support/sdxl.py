"""SDXL at a tiny size: our refiner, and the stock pipeline that it is compared with."""

import numpy as np
import torch
from diffusers import (
    StableDiffusionXLImg2ImgPipeline,
)
from PIL import Image

from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.adapters import read_adapter
from sgdmix_hub.models.bases.schedulers import with_scheduler
from sgdmix_hub.models.prompts import RowPrompt
from sgdmix_hub.models.refine import Refiner
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.presets import apply_preset

CPU = torch.device("cpu")
SIZE, BATCH = 32, 3
SEEDS = [11, 2**62 + 5, 13]


PROMPT = [RowPrompt("a photo of a bird")]


def refiner(base, adapter=None, **values):
    defaults = {
        "preset": "paper",
        "strength": 0.5,
        "num_inference_steps": 6,
        "guidance_scale": 5.0,
        "batch_size": BATCH,
        "resolution": SIZE,
    }
    settings = AugmentSettings(
        dataset_name="unused",
        output_dir="unused",
        adapter="unused",
        classifier="unused",
        **(defaults | values),
    )
    learned = None if adapter is None else read_adapter(resolve(str(adapter)))
    return Refiner(resolve(str(base)), learned, apply_preset(settings), CPU)


def stock_images(pipeline, images, prompt, strength, steps=6, guidance_scale=5.0):
    """Stock img2img, uint8 (B, size, size, 3)."""
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline(
        prompt=prompt,
        image=[Image.fromarray(image) for image in images],
        num_images_per_prompt=len(images),
        strength=strength,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
    ).images
    return np.stack([np.asarray(image) for image in drawn])


def stock_pipeline(base, scheduler="dpmsolver++"):
    pipeline = StableDiffusionXLImg2ImgPipeline.from_pretrained(base, add_watermarker=False)
    return with_scheduler(pipeline, scheduler)
