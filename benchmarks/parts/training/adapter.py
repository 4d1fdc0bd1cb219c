"""Loops of an adapter's training: the package's, and one written like diffusers' examples."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from datasets import ClassLabel, Dataset, Features, Image
from diffusers import DDPMScheduler
from peft import LoraConfig
from torch.nn import functional as F

from sgdmix_hub.data.splits import load_split
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.bases.loading import load_base
from sgdmix_hub.models.prompts import prompt_ids, token_for
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.training.adapter.batches import Latents, training_batches
from sgdmix_hub.training.adapter.dataset import DomainImages
from sgdmix_hub.training.adapter.latents import kept_latents
from sgdmix_hub.training.adapter.loop import build_optimizer, denoising_loss
from sgdmix_hub.training.adapter.model import load_adapted
from sgdmix_hub.training.precision import dtype_of
from sgdmix_hub.training.share import Share

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


def accelerator_for(settings: AdapterSettings) -> Accelerator:
    return Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=settings.mixed_precision)


def own_steps(settings: AdapterSettings, compiled: bool = False) -> Iterator[None]:
    """The loop of train_adapter.py without checkpoints and logs: endless optimizer steps."""
    accelerator = accelerator_for(settings)
    split = load_split(settings, resolve(settings.dataset_name, repo_type="dataset"))
    loaded, model = load_adapted(resolve(settings.pretrained_model_name_or_path), settings, CLASSES)
    noising = loaded.family.noising(loaded.pipeline.scheduler.config)
    (encoder,) = loaded.family.encoders
    prompts = prompt_ids(
        encoder, loaded.tokenizer(encoder), CLASSES, 1, settings.metaclass, settings.prompt_template
    ).to(accelerator.device)
    trained = list(model.trained().values())
    if compiled:
        model.denoiser.compile()
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


def stock_steps(settings: AdapterSettings) -> Iterator[None]:
    """The same training as diffusers' examples write it."""
    accelerator = accelerator_for(settings)
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
