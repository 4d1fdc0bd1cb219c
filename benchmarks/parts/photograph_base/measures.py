"""What the base makes of held-out photographs: its figures, and a sheet to look at."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from sgdmix_hub.demo.tiny_training import LOG, logged_minutes, to_tensor
from sgdmix_hub.demo.train_tiny_base import TINY_BASE
from sgdmix_hub.figures.panels import Group, Panel, draw_panels
from sgdmix_hub.pipeline import SGDMixPipeline

from .training import reconstruction_psnr

STRENGTHS = [0.3, 0.5, 0.7]
SHOWN, APART, FONT = 8, 7, 11  # crops on the sheet, and their distance: each of another photograph


def load_vae(base: Path) -> AutoencoderKL:
    """The autoencoder of a base, in fp32."""
    return AutoencoderKL.from_pretrained(base / "vae", torch_dtype=torch.float32)


def round_trip(vae: AutoencoderKL, images: np.ndarray) -> np.ndarray:
    """uint8 images (n, h, w, 3) as the autoencoder gives them back, through mean latents."""
    with torch.inference_mode():
        decoded = torch.cat(
            [
                vae.decode(vae.encode(part).latent_dist.mode()).sample
                for part in to_tensor(images).split(16)
            ]
        )
    values = (decoded.clamp(-1, 1) + 1).mul(127.5).round().to(torch.uint8)
    return values.permute(0, 2, 3, 1).numpy()


def figures(work_dir: Path, held_out: np.ndarray) -> dict:
    """Reconstruction beside the packaged base's, and the log of the training."""
    log = [json.loads(line) for line in (work_dir / LOG).read_text().splitlines()]
    bases = {"packaged": TINY_BASE, "photographs": work_dir / "base"}
    return {
        "held_out_crops": len(held_out),
        "psnr": {
            name: reconstruction_psnr(load_vae(folder), held_out) for name, folder in bases.items()
        },
        "minutes": round(logged_minutes(work_dir), 1),
        "log": [{key: value for key, value in line.items() if key != "seconds"} for line in log],
    }


def table(found: dict) -> str:
    """The figures as Markdown."""
    losses = [line for line in found["log"] if line["stage"] == "unet"]
    text = ["| Autoencoder | PSNR of held-out photographs |", "|---|---|"]
    text += [f"| {name} | {value:.1f} dB |" for name, value in found["psnr"].items()]
    text += ["", "| Denoiser, step | loss | held-out loss |", "|---|---|---|"]
    text += [
        f"| {line['step']} | {line['loss']:.3f} | {line['held_out_loss']:.3f} |" for line in losses
    ]
    return "\n".join(text)


def draw_sheet(base: Path, held_out: np.ndarray) -> Image.Image:
    """Held-out photographs, what the autoencoders give back, and what S makes of them."""
    originals = held_out[::APART][:SHOWN]
    columns = {
        "photograph": originals,
        "packaged\nautoencoder": round_trip(load_vae(TINY_BASE), originals),
        "autoencoder": round_trip(load_vae(base), originals),
    }
    pipeline = SGDMixPipeline.from_pretrained(
        str(base),
        class_names=["photo"],
        preset="paper",
        saliency_method="spectral-residual",
        mixing_method="none",
        resolution=originals.shape[1],
        num_inference_steps=10,
        guidance_scale=1.0,
        strength=STRENGTHS,
    )
    pictures = [Image.fromarray(one) for one in originals]
    for strength in STRENGTHS:
        seeds = list(range(len(pictures)))
        refined = pipeline(pictures, prompt="a photo", strength=strength, seeds=seeds).images
        columns[f"S = {strength}"] = np.stack([np.asarray(one) for one in refined])
    rows = [[Panel(one) for one in row] for row in zip(*columns.values(), strict=True)]
    return draw_panels([Group("", list(columns))], rows, originals.shape[1], FONT)
