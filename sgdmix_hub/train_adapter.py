"""Trains one adapter for a domain: DreamBooth + LoRA on the UNet's attention + one learned token a class, jointly.

Writes into `output_dir` what stock diffusers loads (see adapters.py), with the pins and the subset it was trained on.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import DDPMScheduler, StableDiffusionPipeline
from diffusers.optimization import get_scheduler
from diffusers.training_utils import compute_snr
from peft import LoraConfig
from torch import nn
from torch.nn import functional as F
from torchvision.transforms import v2
from tqdm.auto import tqdm

from .adapters import FACTS_FILE, save_adapter
from .config import AdapterSettings, UserError
from .data import Split, load_split, prompt_for, square, subset_record, token_for
from .pins import Pin, resolve
from .processes import is_finished, launch, on_rank_zero, replace_folder, say, start_processes, stop_if_requested, wait_for_file
from .refine import NO_SAFETY_CHECKER, load_base

LORA_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


class TokenEmbedding(nn.Module):
    """The text encoder's embedding with learned rows after it. The old rows stay frozen, hence bit-identical."""

    def __init__(self, embedding: nn.Embedding, initial: torch.Tensor):
        """`initial`: float (classes, dim), the first values of the learned rows."""
        super().__init__()
        self.embedding = embedding.requires_grad_(False)
        self.learned = nn.Parameter(initial.clone())

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        old = self.embedding.num_embeddings
        rows = self.embedding(input_ids.clamp(max=old - 1))
        is_learned = input_ids >= old
        learned = self.learned[(input_ids - old).clamp(min=0)].to(rows.dtype)
        return torch.where(is_learned[..., None], learned, rows)


class Denoiser(nn.Module):
    """Text encoder and UNet as one module, so that both are trained under one gradient synchronisation."""

    def __init__(self, text_encoder: nn.Module, unet: nn.Module):
        super().__init__()
        self.text_encoder = text_encoder
        self.unet = unet

    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
        prompt_embeds = self.text_encoder(input_ids)[0]
        return self.unet(latents, timesteps, prompt_embeds).sample


class DomainImages(torch.utils.data.Dataset):
    """The subset's images as float (3, resolution, resolution) in [-1, 1], with their labels."""

    def __init__(self, split: Split, rows: np.ndarray, resolution: int, resize: str):
        self.split, self.rows, self.resolution, self.resize = split, rows, resolution, resize
        self.to_tensor = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.5])])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> dict:
        row = int(self.rows[position])
        image = square(self.split.image(row), self.resolution, self.resize)
        return {"position": position, "pixels": self.to_tensor(image), "label": int(self.split.labels[row])}


class LatentCache:
    """Mean and standard deviation of each image's latents, as it is and mirrored, encoded on first use."""

    def __init__(self, vae: nn.Module, enabled: bool):
        self.vae, self.enabled = vae, enabled
        self.parameters: dict[tuple[int, bool], tuple[torch.Tensor, torch.Tensor]] = {}

    @torch.no_grad()
    def sample(self, positions: list[int], pixels: torch.Tensor, flips: list[bool]) -> torch.Tensor:
        """Scaled latents (B, c, h, w), drawn from the VAE's posterior, for pixels (B, 3, H, W) mirrored where `flips` says."""
        keys = list(zip(positions, flips, strict=True))
        missing = [i for i, key in enumerate(keys) if key not in self.parameters]
        if missing:
            views = torch.stack([pixels[i].flip(-1) if flips[i] else pixels[i] for i in missing])
            posterior = self.vae.encode(views).latent_dist
            for i, mean, std in zip(missing, posterior.mean, posterior.std, strict=True):
                self.parameters[keys[i]] = (mean, std)
        mean, std = (torch.stack(part) for part in zip(*(self.parameters[key] for key in keys), strict=True))
        if not self.enabled:
            self.parameters.clear()
        return (mean + std * torch.randn_like(mean)) * self.vae.config.scaling_factor


def add_tokens(pipeline: StableDiffusionPipeline, num_classes: int, metaclass: str) -> TokenEmbedding:
    """Adds one token a class to the tokenizer and gives the text encoder learned rows for them, which start as the metaclass."""
    tokenizer, text_encoder = pipeline.tokenizer, pipeline.text_encoder
    tokens = [token_for(label) for label in range(num_classes)]
    taken = sorted(set(tokens) & set(tokenizer.get_vocab()))
    if taken:
        raise UserError(f"the base model's tokenizer already has {taken[0]}: it was adapted before, use the original base")
    metaclass_ids = tokenizer(metaclass, add_special_tokens=False).input_ids
    embedding = text_encoder.get_input_embeddings()
    initial = embedding.weight[metaclass_ids].mean(dim=0).detach().float()
    tokenizer.add_tokens(tokens)
    learned = TokenEmbedding(embedding, initial.expand(num_classes, -1))
    text_encoder.set_input_embeddings(learned)
    return learned


def tokenize_prompts(tokenizer, settings: AdapterSettings, num_classes: int) -> torch.Tensor:
    """Input ids (classes, length) of the classes' prompts. Raises `UserError` when a prompt does not fit the text encoder."""
    prompts = [prompt_for(label, settings.metaclass, settings.prompt_template) for label in range(num_classes)]
    length = max(len(ids) for ids in tokenizer(prompts).input_ids)
    if length > tokenizer.model_max_length:
        raise UserError(f"the prompt takes {length} tokens, the text encoder reads {tokenizer.model_max_length}: shorten prompt_template")
    ids = tokenizer(prompts, padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt").input_ids
    for label in range(num_classes):
        if tokenizer.convert_tokens_to_ids(token_for(label)) not in ids[label]:
            raise UserError(f"the tokenizer lost {token_for(label)} in {prompts[label]!r}: put spaces around {{token}}")
    return ids


def denoising_loss(prediction, latents, noise, timesteps, scheduler, snr_gamma: float | None) -> torch.Tensor:
    """Mean squared error to the noise or the velocity, as the base predicts; with `snr_gamma`, min-SNR weighted (Hang et al., 2023)."""
    velocity = scheduler.config.prediction_type == "v_prediction"
    target = scheduler.get_velocity(latents, noise, timesteps) if velocity else noise
    loss = F.mse_loss(prediction.float(), target.float(), reduction="none").mean(dim=(1, 2, 3))
    if snr_gamma is not None:
        snr = compute_snr(scheduler, timesteps)
        weight = snr.clamp(max=snr_gamma) / (snr + 1 if velocity else snr.clamp(min=1e-8))
        loss = loss * weight
    return loss.mean()


def train(settings: AdapterSettings, split: Split, base: Pin, accelerator: Accelerator):
    """The training loop. Returns the trained UNet and the learned tokens, float (classes, dim)."""
    pipeline = load_base(StableDiffusionPipeline, base, torch.float32, **NO_SAFETY_CHECKER)
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    if scheduler.config.prediction_type not in ("epsilon", "v_prediction"):
        raise UserError(f"the base predicts {scheduler.config.prediction_type}: epsilon and v_prediction are supported")
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.requires_grad_(False)
    tokens = add_tokens(pipeline, len(split.class_names), settings.metaclass)
    prompts = tokenize_prompts(pipeline.tokenizer, settings, len(split.class_names)).to(accelerator.device)
    pipeline.unet.add_adapter(
        LoraConfig(r=settings.rank, lora_alpha=settings.lora_alpha, init_lora_weights="gaussian", target_modules=LORA_TARGETS)
    )
    lora = [parameter for parameter in pipeline.unet.parameters() if parameter.requires_grad]
    groups = [{"params": lora, "lr": settings.learning_rate}, {"params": [tokens.learned], "lr": settings.token_learning_rate}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    schedule = get_scheduler(
        settings.lr_scheduler,
        optimizer,
        num_warmup_steps=settings.lr_warmup_steps * accelerator.num_processes,
        num_training_steps=settings.max_train_steps * accelerator.num_processes,
    )
    images = DomainImages(split, split.decodable(), settings.resolution, settings.resize)
    shuffler = torch.Generator().manual_seed(settings.seed)
    if not len(images):
        raise UserError("no image of the subset can be decoded")
    # With less than a batch for every process, dropping the last ones would leave nothing to train on.
    drop_last = len(images) >= settings.train_batch_size * accelerator.num_processes
    loader = torch.utils.data.DataLoader(
        images, batch_size=settings.train_batch_size, shuffle=True, generator=shuffler, drop_last=drop_last
    )
    denoiser = Denoiser(pipeline.text_encoder, pipeline.unet)
    denoiser, optimizer, loader, schedule = accelerator.prepare(denoiser, optimizer, loader, schedule)
    vae = pipeline.vae.to(accelerator.device).eval()
    latent_cache = LatentCache(vae, settings.cache_latents)
    denoiser.train()
    bar = tqdm(total=settings.max_train_steps, desc="adapter", unit="step", disable=not accelerator.is_main_process)
    steps = 0
    while steps < settings.max_train_steps:
        for batch in loader:
            stop_if_requested()
            with accelerator.accumulate(denoiser):
                size = len(batch["label"])
                flips = (torch.rand(size) < 0.5).tolist() if settings.random_flip else [False] * size
                latents = latent_cache.sample(batch["position"].tolist(), batch["pixels"], flips)
                noise = torch.randn_like(latents)
                timesteps = torch.randint(scheduler.config.num_train_timesteps, (size,), device=latents.device)
                noisy = scheduler.add_noise(latents, noise, timesteps)
                prediction = denoiser(noisy, timesteps, prompts[batch["label"]])
                loss = denoising_loss(prediction, latents, noise, timesteps, scheduler, settings.snr_gamma)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_([*lora, tokens.learned], settings.max_grad_norm)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                steps += 1
                bar.update()
                bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
            if steps == settings.max_train_steps:
                break
    bar.close()
    return accelerator.unwrap_model(denoiser).unet, tokens.learned


def main(settings: AdapterSettings) -> None:
    """One training. Raises `UserError`."""
    folder = Path(settings.output_dir)
    start_processes(settings.num_threads)
    split = load_split(settings, on_rank_zero(lambda: resolve(settings.dataset_name, repo_type="dataset")))
    base = on_rank_zero(lambda: resolve(settings.pretrained_model_name_or_path))
    facts = adapter_facts(settings, split, base)
    if on_rank_zero(lambda: is_finished(folder / FACTS_FILE, facts)):
        say(f"adapter: {folder} is complete, nothing to do")
        return
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision=settings.mixed_precision,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
    )
    # Every rank draws its own noise; a rank's data order comes from the shuffler, which all share.
    set_seed(settings.seed, device_specific=True)
    unet, learned_tokens = train(settings, split, base, accelerator)
    if accelerator.is_main_process:
        replace_folder(folder, lambda working: save_adapter(working, unet, learned_tokens, facts))
    accelerator.wait_for_everyone()
    wait_for_file(folder / FACTS_FILE)  # a shared file system may show it late


def adapter_facts(settings: AdapterSettings, split: Split, base: Pin) -> dict:
    """What adapter.json says: classes and their tokens, prompt, pins, subset, settings."""
    left_out = {"output_dir", "dataset_name", "pretrained_model_name_or_path", "num_threads", "cache_latents"}
    return {
        "class_names": split.class_names,
        "tokens": [token_for(label) for label in range(len(split.class_names))],
        "metaclass": settings.metaclass,
        "prompt_template": settings.prompt_template,
        "base": str(base),
        "subset": subset_record(settings, split),
        "settings": {name: value for name, value in dataclasses.asdict(settings).items() if name not in left_out},
    }


if __name__ == "__main__":
    launch(main, AdapterSettings)
