"""Adapter training against a loop written like diffusers' examples: steps per second, memory.

    python benchmarks/training.py                    # the layout of SD 1.5 at a tenth of its width,
    128x128: for a CPU python benchmarks/training.py --shape sd15       # its real size with random
    weights, 512x512, bf16: for a GPU

Weights do not change speed, so they are random. Both loops train LoRA of rank 10 and learned tokens
at the same batch on the same images; the stock one as `train_text_to_image_lora.py` and
`textual_inversion.py` do: the autoencoder at every step, gradients for the whole embedding table,
of which all rows but the new ones are put back after every step. Each loop is measured in processes
of its own, in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from accelerate import Accelerator
from datasets import ClassLabel, Dataset, Features, Image
from diffusers import (
    DDPMScheduler,
)
from parts.sd15 import SHAPES, build_base
from peft import LoraConfig
from torch.nn import functional as F

from sgdmix_hub.data.splits import load_split
from sgdmix_hub.files import write_json
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.bases.loading import load_base
from sgdmix_hub.models.prompts import prompt_ids, token_for
from sgdmix_hub.runtime.ranks import start_processes
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.training.adapter.batches import Latents, training_batches
from sgdmix_hub.training.adapter.dataset import DomainImages
from sgdmix_hub.training.adapter.latents import kept_latents
from sgdmix_hub.training.adapter.loop import build_optimizer, denoising_loss
from sgdmix_hub.training.adapter.model import load_adapted
from sgdmix_hub.training.precision import dtype_of
from sgdmix_hub.training.share import Share

LOOPS = ("sgdmix_hub", "sgdmix_hub, latents cached", "stock")
CLASSES, IMAGES, BATCH, RANK = 4, 16, 4, 10


def write_images(folder: Path, resolution: int) -> None:
    """Noise in the shape of a dataset: four classes, sixteen images."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (resolution, resolution, 3), np.uint8) for _ in range(IMAGES)]
    features = Features(
        image=Image(), label=ClassLabel(names=[f"class {label}" for label in range(CLASSES)])
    )
    rows = Dataset.from_dict(
        {"image": images, "label": [row % CLASSES for row in range(IMAGES)]}, features=features
    )
    (folder / "data").mkdir(parents=True)
    rows.to_parquet(folder / "data" / "train-00000-of-00001.parquet")


def settings_for(shape: dict, base: Path, images: Path, cached: bool) -> AdapterSettings:
    return AdapterSettings(
        dataset_name=str(images),
        output_dir=str(base.parent),
        metaclass="bird",
        pretrained_model_name_or_path=str(base),
        rank=RANK,
        lora_alpha=RANK,
        total_batch_size=BATCH,
        cache_latents=cached,
        mixed_precision=shape["precision"],
        resolution=shape["resolution"],
    )


def own_steps(settings: AdapterSettings, accelerator: Accelerator):
    """The loop of train_adapter.py without checkpoints and logs: endless optimizer steps."""
    split = load_split(settings, resolve(settings.dataset_name, repo_type="dataset"))
    loaded, model = load_adapted(resolve(settings.pretrained_model_name_or_path), settings, CLASSES)
    noising = loaded.family.noising(loaded.pipeline.scheduler.config)
    (encoder,) = loaded.family.encoders
    prompts = prompt_ids(
        encoder, loaded.tokenizer(encoder), CLASSES, 1, settings.metaclass, settings.prompt_template
    ).to(accelerator.device)
    trained = list(model.trained().values())
    denoiser, optimizer = accelerator.prepare(model, build_optimizer(settings, model))
    share = Share(0, 1, BATCH, 1)
    cached = settings.cache_latents
    images = DomainImages(
        split, split.subset, settings.seed, settings.resolution, settings.resize, not cached
    )
    latents = Latents(loaded.pipeline.vae, accelerator.device, loaded.family.latents)
    if cached:
        folder = Path(settings.output_dir) / "latents"
        base = resolve(settings.pretrained_model_name_or_path)
        latents.kept = kept_latents(folder, settings, images, base, latents.encode, 0, 1)
    batches = training_batches(settings, images, [], latents, noising.draw, share, range(10_000))
    denoiser.train()
    for batch in batches:
        noisy = noising.noised(batch.latents, batch.noise, batch.timesteps)
        prediction = denoiser(noisy, batch.timesteps, [prompts[batch.labels]])
        errors = denoising_loss(
            prediction, batch.latents, batch.noise, batch.timesteps, noising, None
        )
        accelerator.backward((errors * batch.weights).sum())
        accelerator.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield


def stock_steps(settings: AdapterSettings, accelerator: Accelerator):
    """The same training as diffusers' examples write it."""
    split = load_split(settings, resolve(settings.dataset_name, repo_type="dataset"))
    dtype = dtype_of(settings)
    base = load_base(
        resolve(settings.pretrained_model_name_or_path), torch.float32, "text_to_image"
    )
    pipeline = base.pipeline
    tokenizer, text_encoder, unet, vae = (
        pipeline.tokenizer,
        pipeline.text_encoder,
        pipeline.unet,
        pipeline.vae,
    )
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    for part in (text_encoder, unet, vae):
        part.requires_grad_(False)
    tokenizer.add_tokens([token_for(label) for label in range(CLASSES)])
    text_encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    embeddings = text_encoder.get_input_embeddings()
    before = embeddings.weight.detach().clone().to(accelerator.device)
    old = (
        torch.arange(embeddings.num_embeddings, device=accelerator.device)
        < embeddings.num_embeddings - CLASSES
    )
    unet.to(accelerator.device, dtype)
    vae.to(accelerator.device, dtype)
    unet.add_adapter(
        LoraConfig(
            r=RANK,
            lora_alpha=RANK,
            init_lora_weights="gaussian",
            target_modules=list(base.family.lora_targets),
        )
    )
    lora = [
        parameter.requires_grad_(True)
        for name, parameter in unet.named_parameters()
        if "lora" in name
    ]
    for parameter in lora:
        parameter.data = parameter.data.float()
    embeddings.weight.requires_grad_(True)
    optimizer = torch.optim.AdamW([{"params": lora}, {"params": [embeddings.weight]}], lr=5e-5)
    images = [np.asarray(split.image(row)) for row in range(IMAGES)]
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    loader = torch.utils.data.DataLoader(
        list(zip(pixels, split.labels.tolist(), strict=True)), batch_size=BATCH, shuffle=True
    )
    unet, text_encoder, optimizer, loader = accelerator.prepare(
        unet, text_encoder, optimizer, loader
    )
    unet.train()
    while True:
        for batch, labels in loader:
            latents = vae.encode(batch.to(dtype)).latent_dist.sample() * vae.config.scaling_factor
            noise = torch.randn_like(latents)
            timesteps = torch.randint(
                scheduler.config.num_train_timesteps, (len(labels),), device=latents.device
            )
            prompts = [f"a photo of a {token_for(int(label))} bird" for label in labels]
            ids = tokenizer(
                prompts,
                padding="max_length",
                max_length=tokenizer.model_max_length,
                return_tensors="pt",
            ).input_ids
            states = text_encoder(ids.to(latents.device))[0].to(dtype)
            prediction = unet(
                scheduler.add_noise(latents, noise, timesteps), timesteps, states
            ).sample
            accelerator.backward(F.mse_loss(prediction.float(), noise.float()))
            accelerator.clip_grad_norm_([*lora, embeddings.weight], 1.0)
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                embeddings.weight[old] = before[old]
            yield


def measure(loop: str, shape: dict, folder: Path, steps: int) -> dict:
    """One loop in this process: steps per second after three warm-up steps, peak memory in MB."""
    start_processes(num_threads=1)
    settings = settings_for(shape, folder / "base", folder / "images", cached="cached" in loop)
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(), mixed_precision=settings.mixed_precision
    )
    run = (stock_steps if loop == "stock" else own_steps)(settings, accelerator)
    for _ in range(3):
        next(run)
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(steps):
        next(run)
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    peak = (
        torch.cuda.max_memory_allocated() / 1e6
        if on_gpu
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    )
    return {"steps_per_second": steps / seconds, "peak_mb": peak}


def table(results: dict) -> str:
    shape = results["shape"]
    lines = [
        f"{results['device']}, torch {results['torch']}; UNet {shape['unet']}, "
        f"{shape['resolution']}x{shape['resolution']}, batch {BATCH}, "
        f"rank {RANK}, precision {shape['precision']}; medians of {results['turns']} interleaved "
        f"turns of {results['steps']} steps.",
        "",
        "| Loop | steps/s | against stock | peak memory, MB |",
        "|---|---|---|---|",
    ]
    rates = {
        loop: np.median([turn["steps_per_second"] for turn in turns])
        for loop, turns in results["loops"].items()
    }
    for loop, turns in results["loops"].items():
        peak = np.median([turn["peak_mb"] for turn in turns])
        lines.append(
            f"| {loop} | {rates[loop]:.3f} | {rates[loop] / rates['stock']:.2f} | {peak:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shape", choices=list(SHAPES), default="small")
    parser.add_argument("--steps", type=int, default=15, help="optimizer steps of each turn")
    parser.add_argument("--turns", type=int, default=3, help="times that each loop is measured")
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("benchmarks/results/training"),
        help="the .json and .md, without suffix",
    )
    parser.add_argument("--one", choices=LOOPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    shape = SHAPES[arguments.shape]
    if arguments.one:
        print(json.dumps(measure(arguments.one, shape, arguments.folder, arguments.steps)))
        return
    loops: dict[str, list[dict]] = {loop: [] for loop in LOOPS}
    with TemporaryDirectory() as name:
        folder = Path(name)
        build_base(shape).save_pretrained(folder / "base")
        write_images(folder / "images", shape["resolution"])
        for _ in range(arguments.turns):
            for loop, turns in loops.items():
                command = [
                    sys.executable,
                    __file__,
                    "--shape",
                    arguments.shape,
                    "--steps",
                    str(arguments.steps),
                    "--one",
                    loop,
                ]
                environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
                done = subprocess.run(
                    [*command, "--folder", name],
                    check=True,
                    capture_output=True,
                    text=True,
                    env=environment,
                )
                turns.append(json.loads(done.stdout.splitlines()[-1]))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU, one thread"
    results = {
        "shape": shape,
        "loops": loops,
        "steps": arguments.steps,
        "turns": arguments.turns,
        "device": device,
    }
    results["torch"] = torch.__version__.partition("+")[0]
    write_json(arguments.results.with_suffix(".json"), results)
    arguments.results.with_suffix(".md").write_text(table(results), encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
