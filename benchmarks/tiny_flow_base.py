"""Train a tiny flow-matching base, in Z-Image's layout, on procedural birds, and export it.

    python benchmarks/tiny_flow_base.py

Text encoder and transformer are trained from scratch on the latents of the packaged base's
autoencoder, with the time steps, noise, target and weights of the family that the package itself
uses. The same command continues from the last checkpoint in `work_dir`; with as many steps as are
done already it only exports. `benchmarks/two_bases.py` trains adapters on the result.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import cv2
import torch
from parts.tiny_flow.model import pipeline_of
from parts.tiny_flow.training import cached_latents, load_vae, train, trained

from sgdmix_hub.demo.tiny_training import cached_world, logged_minutes
from sgdmix_hub.demo.train_tiny_base import megabytes, replace_folder

CARD = """\
---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
# A tiny Z-Image of procedural birds

A complete pipeline at 64x64 in Z-Image's layout: a causal language model and a transformer, \
trained from scratch
by flow matching on random birds of `sgdmix_hub.demo.world`, with the autoencoder of \
`sgdmix_hub/demo/tiny_base`.

Trained by `python benchmarks/tiny_flow_base.py --steps {steps} --seed {seed}`: {steps} steps, \
{minutes:.0f} minutes.
Weights in fp16, {megabytes:.1f} MB: load with `torch_dtype=torch.float32` on a CPU.
"""


def export(work_dir: Path, output_dir: Path, seed: int) -> dict[str, float]:
    """Writes the averaged weights of the newest checkpoint as a pipeline in fp16."""
    vae = load_vae()
    denoiser, steps = trained(work_dir, vae.config.latent_channels, seed)
    new = output_dir.with_name(f".{output_dir.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    pipeline = pipeline_of(denoiser, vae).to(torch.float16)
    pipeline.save_pretrained(new, safe_serialization=True)
    facts = {"steps": steps, "minutes": logged_minutes(work_dir), "megabytes": megabytes(new)}
    (new / "README.md").write_text(CARD.format(seed=seed, **facts), encoding="utf-8")
    replace_folder(new, output_dir)
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=6000, help="steps of 16 images")
    parser.add_argument("--num_images", type=int, default=16_000, help="random birds to train on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--work_dir",
        type=Path,
        default=Path("outputs/benchmarks/tiny_flow"),
        help="checkpoint, caches and log.jsonl",
    )
    parser.add_argument(
        "--output_dir",
        type=Path,
        default=Path("outputs/tiny_flow_base"),
        help="the exported pipeline; replaced as a whole",
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile the transformer: needs a C++ compiler"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    work_dir = arguments.work_dir
    images, vae = cached_world(work_dir, arguments.num_images, arguments.seed), load_vae()
    latents = cached_latents(
        images, vae, work_dir / f"latents_{arguments.num_images}_{arguments.seed}.safetensors"
    )
    train(images, latents, vae, work_dir, arguments.steps, arguments.seed, arguments.compile)
    print(json.dumps(export(work_dir, arguments.output_dir, arguments.seed)))


if __name__ == "__main__":
    main()
