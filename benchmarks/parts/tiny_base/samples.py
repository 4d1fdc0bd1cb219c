"""What a base makes: cached samples for captions, reconstructions and img2img of held-out birds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from tqdm.auto import tqdm

from sgdmix_hub.demo.tiny_training import to_tensor
from sgdmix_hub.files import write_atomically
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.bases.loading import load_base

SAMPLER = {
    "guidance_scale": 3.0,
    "num_inference_steps": 20,
}  # with the scheduler that the base brings
BATCH = 50


def load_pipeline(folder: Path) -> StableDiffusionPipeline:
    pipeline = load_base(resolve(str(folder)), torch.float32, "text_to_image").pipeline
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def as_uint8(images: np.ndarray) -> np.ndarray:
    """Images in [0, 1] -> uint8 of the same shape."""
    return np.uint8(images * 255 + 0.5)


def generators(seeds: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def make_samples(
    pipeline: StableDiffusionPipeline, captions: list[str], seeds: list[int]
) -> np.ndarray:
    """One image for each caption, from noise of its own seed, uint8 (N, 64, 64, 3)."""
    return as_uint8(
        pipeline(captions, generator=generators(seeds), output_type="np", **SAMPLER).images
    )


def cached_samples(
    pipeline: StableDiffusionPipeline, captions: list[str], folder: Path
) -> np.ndarray:
    """The same, image i from seed i; batches are kept in `folder`, so a second call resumes."""
    batches = []
    for start in tqdm(range(0, len(captions), BATCH), desc="samples", disable=None):
        seeds = list(range(start, min(start + BATCH, len(captions))))
        path = folder / f"{seeds[0]:06d}-{seeds[-1]:06d}.npy"
        if not path.exists():
            images = make_samples(pipeline, [captions[seed] for seed in seeds], seeds)
            write_atomically(path, lambda temporary, images=images: save_array(temporary, images))
        batches.append(np.load(path))
    return np.concatenate(batches)


def save_array(path: Path, array: np.ndarray) -> None:
    """`np.save` under exactly that name."""
    with open(path, "wb") as file:
        np.save(file, array)


def through_vae(vae: AutoencoderKL, images: np.ndarray) -> np.ndarray:
    """The mean latents' reconstructions, uint8 (N, 64, 64, 3) like `images`."""
    decoded = []
    with torch.no_grad():
        for start in range(0, len(images), BATCH):
            latents = vae.encode(to_tensor(images[start : start + BATCH])).latent_dist.mode()
            decoded.append(vae.decode(latents).sample.permute(0, 2, 3, 1).numpy())
    return as_uint8((np.concatenate(decoded) / 2 + 0.5).clip(0, 1))


def translate(
    pipeline: StableDiffusionPipeline, images: np.ndarray, captions: list[str], strength: float
) -> np.ndarray:
    """img2img at a strength, image i with noise of seed i, uint8 (N, 64, 64, 3) like `images`."""
    img2img = StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False)
    img2img.set_progress_bar_config(disable=True)
    pixels = to_tensor(images) / 2 + 0.5
    options = {
        "strength": strength,
        "generator": generators(list(range(len(images)))),
        "output_type": "np",
    }
    return as_uint8(img2img(captions, image=pixels, **options, **SAMPLER).images)
