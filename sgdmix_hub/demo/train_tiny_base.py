"""Train the tiny Stable-Diffusion-format base on procedural birds, and export it.

    python scripts/train_tiny_base.py --work_dir outputs/tiny_base

Stages, in order: `vae` (autoencoder), `unet` (text encoder and denoiser), `decoder` (only the
autoencoder's decoder) and `export`. Each stage resumes from its checkpoint in `--work_dir`. `unet`
and `decoder` are independent and can run at the same time.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import cv2
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open

from sgdmix_hub.arithmetic import set_arithmetic

from .tiny_training import cached_world, logged_minutes
from .tiny_unet import build_scheduler, build_tokenizer, load_denoiser, train_unet
from .tiny_vae import cache_latents, held_out_psnr, load_vae, train_decoder, train_vae

# Each stage with those whose checkpoints it needs.
STAGES = {"vae": (), "unet": ("vae",), "decoder": ("vae",), "export": ("vae", "unet")}
TINY_BASE = Path(__file__).parent / "tiny_base"
CARD = """\
---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
# A tiny Stable Diffusion of procedural birds

A complete pipeline at 64x64 (AutoencoderKL f4, CLIP text encoder, UNet with v-prediction), \
trained from scratch on
random birds of `sgdmix_hub.demo.world` alone. It exists so that everything here runs offline, on \
a CPU, in seconds; it
knows nothing but these birds.

Trained by `{command}`

| | |
|---|---|
| autoencoder | {vae_steps} steps, then {decoder_steps} steps of the decoder alone |
| text encoder and denoiser | {unet_steps} steps of batch 32 |
| reconstruction of held-out birds | {psnr:.1f} dB |
| training | {minutes:.0f} minutes in all, one thread a stage |
| weights | {megabytes:.1f} MB, stored in fp16: load with `dtype=torch.float32` on a CPU |
"""


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--stages",
        nargs="+",
        choices=list(STAGES),
        default=list(STAGES),
        help="stages to run, in the order given",
    )
    parser.add_argument(
        "--work_dir",
        type=Path,
        default=Path("outputs/tiny_base"),
        help="checkpoints, caches and log.jsonl",
    )
    parser.add_argument(
        "--output_dir",
        type=Path,
        default=TINY_BASE,
        help="the exported pipeline; replaced as a whole",
    )
    parser.add_argument("--num_images", type=int, default=16_000, help="random birds to train on")
    parser.add_argument("--vae_steps", type=int, default=12_000)
    parser.add_argument("--unet_steps", type=int, default=10_000)
    parser.add_argument("--decoder_steps", type=int, default=5_000)
    parser.add_argument(
        "--start_from",
        type=Path,
        help="pipeline folder of an earlier base; training starts from its weights",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the models (faster; on a CPU needs a C++ compiler)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    for name in ("num_images", "vae_steps", "unet_steps", "decoder_steps"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return args


def megabytes(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def replace_folder(new, target):
    """Replaces `target` with the finished folder `new`, by renames only."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(new, target)
    shutil.rmtree(old, ignore_errors=True)


def scaling_factor(work_dir):
    with safe_open(work_dir / "latents.safetensors", "pt") as file:
        return round(file.get_tensor("scaling_factor").item(), 5)


def export(work_dir, output_dir, seed):
    """Writes the averaged weights of the newest checkpoints as an fp16 pipeline."""
    vae, vae_steps, decoder_steps = load_vae(work_dir, seed)
    denoiser, unet_steps = load_denoiser(work_dir, seed)
    vae.register_to_config(scaling_factor=scaling_factor(work_dir))
    quality = held_out_psnr(vae, seed)()["psnr"]
    parts: dict[str, Any] = {
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    pipeline: Any = StableDiffusionPipeline(
        vae=vae,
        text_encoder=denoiser.text_encoder,
        tokenizer=build_tokenizer(),
        unet=denoiser.unet,
        scheduler=build_scheduler(),
        **parts,
    )
    new = output_dir.with_name(f".{output_dir.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    pipeline.to(torch.float16).save_pretrained(new, safe_serialization=True)
    steps = {"vae_steps": vae_steps, "unet_steps": unet_steps, "decoder_steps": decoder_steps}
    stages = [] if decoder_steps else ["--stages vae unet export"]
    counts = [f"--{name} {count}" for name, count in steps.items() if count]
    command = " ".join(["python scripts/train_tiny_base.py", *stages, *counts])
    facts = steps | {
        "psnr": quality,
        "minutes": round(logged_minutes(work_dir)),
        "megabytes": megabytes(new),
    }
    (new / "README.md").write_text(CARD.format(command=f"{command} --seed {seed}", **facts))
    replace_folder(new, output_dir)
    return facts


def run_stage(stage, args):
    if stage == "export":
        print(json.dumps(export(args.work_dir, args.output_dir, args.seed)))
        return
    images = cached_world(args.work_dir, args.num_images, args.seed)
    if stage == "vae":
        train_vae(
            images,
            args.work_dir,
            args.vae_steps,
            args.seed,
            args.device,
            args.start_from,
            args.compile,
        )
        return
    latents = cache_latents(images, args.work_dir, args.seed, args.device)
    if stage == "unet":
        train_unet(
            images,
            latents,
            args.work_dir,
            args.unet_steps,
            args.seed,
            args.device,
            args.start_from,
            args.compile,
        )
    else:
        train_decoder(images, latents, args.work_dir, args.decoder_steps, args.seed, args.device)


def main(argv=None):
    args = parse_args(argv)
    cv2.setNumThreads(1)
    set_arithmetic()
    for stage in args.stages:
        missing = [
            needed
            for needed in STAGES[stage]
            if not (args.work_dir / f"{needed}.safetensors").exists()
        ]
        if missing:
            print(
                f"train_tiny_base: run --stages {' '.join(missing)} before {stage}", file=sys.stderr
            )
            raise SystemExit(2)
        run_stage(stage, args)


if __name__ == "__main__":
    main()
