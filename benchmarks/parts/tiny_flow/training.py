"""Training of the tiny flow-matching base: time steps, noise, target and weights of the family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from parts.tiny_flow.batched import Batched
from parts.tiny_flow.model import Denoiser, build_denoiser, build_scheduler, build_tokenizer
from safetensors.torch import load_file

from sgdmix_hub.demo.tiny_training import Stage, load_average, save_tensors, to_tensor
from sgdmix_hub.demo.tiny_unet import CAPTION_DROP, bird_weights, world_scenes
from sgdmix_hub.demo.train_tiny_base import TINY_BASE
from sgdmix_hub.demo.world import caption
from sgdmix_hub.models.bases.z_image import ZImage

FAMILY = ZImage()
BATCH = 16
TEXT_TOKENS = 32  # the longest caption takes 30
LEARNING_RATE = 1.5e-3
STAGE = "transformer"
ENCODED_AT_ONCE = 64


def load_vae() -> AutoencoderKL:
    """The packaged base's autoencoder, with the shift that Z-Image's pipeline asks for."""
    vae = AutoencoderKL.from_pretrained(TINY_BASE / "vae", torch_dtype=torch.float32)
    vae.register_to_config(shift_factor=0.0)
    return vae.eval()


def cached_latents(images: np.ndarray, vae: Any, path: Path) -> dict[str, torch.Tensor]:
    """`mean` and `std` of every image's latents, float16 (N, c, h, w); made on first use."""
    if path.exists():
        return load_file(path)
    parts = []
    with torch.no_grad():
        for start in range(0, len(images), ENCODED_AT_ONCE):
            pixels = to_tensor(images[start : start + ENCODED_AT_ONCE])
            moments = FAMILY.latents.moments(vae, pixels)
            parts.append([moment.half() for moment in moments])
    means, deviations = zip(*parts, strict=True)
    save_tensors({"mean": torch.cat(means), "std": torch.cat(deviations)}, path)
    return load_file(path)


def caption_ids(tokenizer: Any, captions: list[str]) -> torch.Tensor:
    """Input ids as the family's training has them, padding negative: int64 (N, TEXT_TOKENS)."""
    encoder = FAMILY.encoders[0]
    texts = [encoder.text(tokenizer, text) for text in captions]
    tokens = tokenizer(texts, padding="max_length", max_length=TEXT_TOKENS, return_tensors="pt")
    return torch.where(tokens.attention_mask == 0, ~tokens.input_ids, tokens.input_ids)


def train(
    images: np.ndarray,
    latents: dict[str, torch.Tensor],
    vae: Any,
    folder: Path,
    steps: int,
    seed: int,
    compiled: bool,
) -> None:
    """Trains text encoder and transformer from scratch, or from the folder's checkpoint on.

    `images`: uint8 (N, 64, 64, 4), whose last channel is the bird's mask. `compiled`: faster; a CPU
    needs a C++ compiler.
    """
    tokenizer, noising = build_tokenizer(), FAMILY.noising(build_scheduler().config)
    denoiser = build_denoiser(latents["mean"].shape[1], seed)
    transformer = Batched(denoiser.transformer, latents["mean"].shape[-1], TEXT_TOKENS)
    if compiled:
        transformer.batch = torch.compile(transformer.batch, dynamic=False)
    scenes = world_scenes(len(images), seed)

    def captions_of(rows: list[int], step: int) -> list[str]:
        random = np.random.default_rng([seed, step])
        return [
            "" if random.random() < CAPTION_DROP else caption(*scenes[row], random) for row in rows
        ]

    def loss_of(step: int, generator: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(scenes), (BATCH,), generator=generator)
        mean, deviation = latents["mean"][rows].float(), latents["std"][rows].float()
        drawn = mean + deviation * torch.randn(mean.shape, generator=generator)
        clean = drawn * vae.config.scaling_factor
        noise = torch.randn(mean.shape, generator=generator)
        timesteps = torch.stack([noising.draw(generator) for _ in rows])
        ids = caption_ids(tokenizer, captions_of(rows.tolist(), step))
        with torch.autocast("cpu", torch.bfloat16):
            told = FAMILY.encode_ids([denoiser.text_encoder], [ids], None)
            predicted = FAMILY.predict(
                transformer,
                noising.noised(clean, noise, timesteps),
                noising.told(timesteps),
                told,
            )
        error = predicted.float() - noising.target(clean, noise, timesteps)
        places = bird_weights(images[rows.numpy()], mean.shape[-1])
        return noising.weighted(
            (places * error.square()).mean((1, 2, 3)), timesteps, snr_gamma=None
        ).mean()

    Stage(STAGE, denoiser, folder, steps, LEARNING_RATE, seed).run(loss_of)


def trained(folder: Path, channels: int, seed: int) -> tuple[Denoiser, int]:
    """The averaged weights of the last checkpoint, and its step."""
    denoiser = build_denoiser(channels, seed)
    return denoiser, load_average(denoiser, folder / f"{STAGE}.safetensors")
