"""Draws what the tiny base can do: samples for captions, reconstructions, and img2img of held-out birds at three strengths.

python benchmarks/tiny_base.py            # writes docs/tiny_base.png
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from PIL import Image, ImageDraw, ImageFont

from sgdmix_hub.demo.birds import render_bird
from sgdmix_hub.demo.tiny_training import HELD_OUT, scene_generator
from sgdmix_hub.demo.train_tiny_base import TINY_BASE
from sgdmix_hub.demo.world import random_scene
from sgdmix_hub.pins import resolve
from sgdmix_hub.refine import load_base

CAPTIONS = [
    "a photo of a red bird in a forest",
    "a photo of a blue bird with barred yellow wings at the sea",
    "a photo of a white bird with a black head in the sky",
    "a photo of a yellow bird with spotted blue wings on a meadow",
    "a photo of a black bird with long orange tail in the desert",
    "a photo of a purple bird with hooked yellow beak in the snow",
    "a photo of a green bird with red head on a cliff",
    "a photo of a pink bird with spiky purple crest at night",
]
STRENGTHS = (0.3, 0.5, 0.7)
GUIDANCE_SCALE, STEPS = 3.0, 30
PANEL, GAP, LABEL_WIDTH = 128, 4, 190


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(count)]


def rows_of(pipeline: StableDiffusionPipeline) -> dict[str, np.ndarray]:
    """Label -> images, float (8, 64, 64, 3) in [0, 1]."""
    options = {"guidance_scale": GUIDANCE_SCALE, "num_inference_steps": STEPS, "output_type": "np"}
    rows = {"from captions": pipeline(CAPTIONS, generator=generators(len(CAPTIONS)), **options).images}
    images, captions = [], []
    for index in range(len(CAPTIONS)):
        rng = scene_generator(0, HELD_OUT, index)
        bird, background, caption = random_scene(rng)
        images.append(render_bird(bird, rng, background)[0] / 255)
        captions.append(caption)
    rows["held-out birds"] = np.stack(images)
    pixels = torch.from_numpy(rows["held-out birds"]).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        decoded = pipeline.vae.decode(pipeline.vae.encode(pixels * 2 - 1).latent_dist.mode()).sample
    rows["through the VAE"] = (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    img2img = StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False)
    img2img.set_progress_bar_config(disable=True)
    for strength in STRENGTHS:
        made = img2img(captions, image=pixels, strength=strength, generator=generators(len(captions)), **options)
        rows[f"img2img, S = {strength}"] = made.images
    return rows


def draw(rows: dict[str, np.ndarray]) -> Image.Image:
    """One labelled line of enlarged images a row."""
    font = ImageFont.load_default(16)
    sheet = Image.new("RGB", (LABEL_WIDTH + len(CAPTIONS) * (PANEL + GAP), len(rows) * (PANEL + GAP)), "white")
    canvas = ImageDraw.Draw(sheet)
    for number, (label, images) in enumerate(rows.items()):
        top = number * (PANEL + GAP)
        canvas.text((8, top + PANEL / 2), label, fill="black", font=font, anchor="lm")
        for column, image in enumerate(images):
            panel = Image.fromarray(np.uint8(image * 255 + 0.5)).resize((PANEL, PANEL), Image.Resampling.LANCZOS)
            sheet.paste(panel, (LABEL_WIDTH + column * (PANEL + GAP), top))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--base", default=str(TINY_BASE), help="pipeline folder")
    parser.add_argument("--output", default="docs/tiny_base.png", help="picture to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = load_base(StableDiffusionPipeline, resolve(arguments.base), torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    draw(rows_of(pipeline)).save(arguments.output)


if __name__ == "__main__":
    main()
