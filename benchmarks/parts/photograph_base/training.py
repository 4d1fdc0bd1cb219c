"""Autoencoder and denoiser of the photographs' base, from the packaged base's weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open
from torch.nn import functional
from transformers import CLIPTextModel

from sgdmix_hub.demo.tiny_training import Stage, load_average, psnr, take_over, to_tensor
from sgdmix_hub.demo.tiny_unet import (
    CAPTION_DROP,
    MIN_SNR_GAMMA,
    Denoiser,
    build_denoiser,
    build_scheduler,
    build_tokenizer,
    tokenize,
)
from sgdmix_hub.demo.tiny_vae import KL_WEIGHT, LATENT_CHANNELS, batch_of, build_vae, cache_latents
from sgdmix_hub.demo.train_tiny_base import TINY_BASE

# Most steps see crops of the crops, where a step is four times cheaper; the last ones whole crops.
SMALL_SHARE, SMALL, SMALL_BATCH, WHOLE_BATCH = 0.75, 64, 8, 2
BATCH = 8
UNNAMED = 0.5  # share of the captions that do not name what the crop shows


def started_vae(seed: int) -> AutoencoderKL:
    """The autoencoder with the packaged base's weights, which training starts from."""
    vae = build_vae(seed)
    take_over(vae, AutoencoderKL, TINY_BASE / "vae")
    return vae


def reconstruction_psnr(vae: AutoencoderKL, images: np.ndarray) -> float:
    """dB of the round trip through the mean latents of uint8 images (n, h, w, 3)."""
    with torch.no_grad():
        parts = to_tensor(images).split(16)
        decoded = [vae.decode(vae.encode(part).latent_dist.mode()).sample for part in parts]
    return round(psnr(torch.cat(parts), torch.cat(decoded)), 2)


def train_vae(
    images: np.ndarray, held_out: np.ndarray, work_dir: Path, steps: int, seed: int
) -> None:
    """Trains encoder and decoder; resumes."""
    vae = started_vae(seed)
    stage = Stage("vae", vae, work_dir, steps, 1e-3, seed)
    small_steps = int(steps * SMALL_SHARE)

    def loss_fn(step: int, generator: torch.Generator) -> torch.Tensor:
        small = step < small_steps
        batch = batch_of(images, SMALL_BATCH if small else WHOLE_BATCH, generator, "cpu")
        if small:
            side = min(SMALL, batch.shape[2])
            y, x = torch.randint(batch.shape[2] - side + 1, (2,), generator=generator).tolist()
            batch = batch[:, :, y : y + side, x : x + side]
        batch = batch.contiguous(memory_format=torch.channels_last)
        shape = (len(batch), LATENT_CHANNELS, batch.shape[2] // 4, batch.shape[3] // 4)
        noise = torch.randn(shape, generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(batch).latent_dist
            decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        mean, variance = posterior.mean.float(), posterior.var.float()
        divergence = 0.5 * (mean.square() + variance - 1 - variance.log()).mean()
        return functional.mse_loss(decoded.float(), batch) + KL_WEIGHT * divergence

    stage.run(loss_fn, lambda: {"psnr": reconstruction_psnr(vae, held_out)})


def captions(shown: list[str], rows: list[int], rng: np.random.Generator) -> list[str]:
    """ "a photo of a NAME", "a photo" or nothing, for each of these crops."""
    texts = []
    for row in rows:
        draw = rng.random()
        named = shown[row] and draw > CAPTION_DROP + UNNAMED
        whole = f"a photo of a {shown[row]}" if named else "a photo"
        texts.append("" if draw < CAPTION_DROP else whole)
    return texts


Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, list[str]], torch.Tensor]


def velocity_loss(denoiser: Denoiser) -> Loss:
    """The loss that the packaged base was trained with, of clean latents, noise and captions."""
    tokenizer, scheduler = build_tokenizer(), build_scheduler()
    signal = scheduler.alphas_cumprod

    def loss(
        clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, texts: list[str]
    ) -> torch.Tensor:
        noisy = scheduler.add_noise(clean, noise, timesteps)
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            velocity = denoiser(noisy, timesteps, tokenize(tokenizer, texts))
        error = velocity.float() - scheduler.get_velocity(clean, noise, timesteps)
        snr = signal[timesteps] / (1 - signal[timesteps])
        weight = snr.clamp(max=MIN_SNR_GAMMA) / (snr + 1)
        return (weight * error.square().mean((1, 2, 3))).mean()

    return loss


def train_denoiser(
    images: np.ndarray,
    shown: list[str],
    held_out: np.ndarray,
    work_dir: Path,
    steps: int,
    seed: int,
) -> None:
    """Trains text encoder and UNet on the trained autoencoder's latents; resumes."""
    latents = cache_latents(images, work_dir, seed, "cpu")
    vae = build_vae(seed)
    load_average(vae, work_dir / "vae.safetensors")
    factor = latents["scaling_factor"]
    with torch.no_grad():
        parts = [vae.encode(part).latent_dist.mode() for part in to_tensor(held_out).split(16)]
    unseen = torch.cat(parts) * factor
    drawn = torch.Generator().manual_seed(seed)
    unseen_noise = torch.randn(unseen.shape, generator=drawn)
    unseen_times = torch.linspace(0, 999, len(unseen)).long()  # the same levels at every look
    denoiser = build_denoiser(seed)
    take_over(denoiser.text_encoder, CLIPTextModel, TINY_BASE / "text_encoder")
    take_over(denoiser.unet, UNet2DConditionModel, TINY_BASE / "unet")
    loss = velocity_loss(denoiser)
    stage = Stage("unet", denoiser, work_dir, steps, 8e-4, seed + 2)

    def loss_fn(step: int, generator: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(images), (BATCH,), generator=generator)
        mean, deviation = latents["mean"][rows].float(), latents["std"][rows].float()
        clean = (mean + deviation * torch.randn(mean.shape, generator=generator)) * factor
        noise = torch.randn(mean.shape, generator=generator)
        timesteps = torch.randint(1000, (BATCH,), generator=generator)
        texts = captions(shown, rows.tolist(), np.random.default_rng([seed, step]))
        return loss(clean, noise, timesteps, texts)

    def evaluate() -> dict[str, float]:
        given = zip(
            unseen.split(BATCH), unseen_noise.split(BATCH), unseen_times.split(BATCH), strict=True
        )
        losses = [loss(*batch, ["a photo"] * len(batch[0])).item() for batch in given]
        return {"held_out_loss": round(math.fsum(losses) / len(losses), 5)}

    stage.run(loss_fn, evaluate)


def export(work_dir: Path, output_dir: Path, seed: int) -> None:
    """Writes the averaged weights of the last checkpoints as a pipeline in fp16."""
    vae, denoiser = build_vae(seed), build_denoiser(seed)
    load_average(vae, work_dir / "vae.safetensors")
    load_average(denoiser, work_dir / "unet.safetensors")
    with safe_open(work_dir / "latents.safetensors", "pt") as file:
        factor = file.get_tensor("scaling_factor").item()
    vae.register_to_config(scaling_factor=round(factor, 5))
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=denoiser.text_encoder,
        tokenizer=build_tokenizer(),
        unet=denoiser.unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(output_dir, safe_serialization=True)
