"""The training loop of an adapter."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers.optimization import get_scheduler
from torch.nn import functional as F
from tqdm.auto import tqdm

from sgdmix_hub.data.report import usable_rows
from sgdmix_hub.data.splits import Split
from sgdmix_hub.hub.pins import Pin
from sgdmix_hub.models.bases.loading import LoadedBase
from sgdmix_hub.models.bases.noising import Noising
from sgdmix_hub.models.prompts import prompt_ids
from sgdmix_hub.runtime.stopping import stop_if_requested
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.settings.fields import AUTO
from sgdmix_hub.training.dropout import SampleSeeds, use_sample_dropout
from sgdmix_hub.training.log import TrainingLog
from sgdmix_hub.training.precision import dtype_of, precision_of
from sgdmix_hub.training.share import Share, fitted
from sgdmix_hub.training.trial import on_trial

from .answers import answer_ahead
from .batches import Batch, Latents, training_batches
from .checkpoints import Checkpoints
from .dataset import DomainImages, geometries
from .drawn_images import class_images, draw_validation
from .latents import kept_latents
from .model import AdaptedModel, load_adapted


def denoising_loss(
    prediction: torch.Tensor,
    latents: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    noising: Noising,
    snr_gamma: float | None,
) -> torch.Tensor:
    """Squared error (B,) to what the base predicts, weighted as `Noising.weighted` says."""
    target = noising.target(latents, noise, timesteps)
    loss = F.mse_loss(prediction.float(), target.float(), reduction="none").mean(dim=(1, 2, 3))
    return noising.weighted(loss, timesteps, snr_gamma)


def build_optimizer(settings: AdapterSettings, model: AdaptedModel) -> torch.optim.Optimizer:
    """AdamW for the LoRA weights and, with its own rate and no decay, the tokens.

    AdamW's steps are as large as the rate, whatever the gradient: rows that are many times larger
    take steps that are as much larger, or they would not leave their place.
    """
    lora = {
        "params": list(model.lora().values()),
        "lr": settings.learning_rate,
        "weight_decay": settings.adam_weight_decay,
    }
    tokens = {
        "params": list(model.learned().values()),
        "lr": settings.token_learning_rate * model.token_scale(),
        "weight_decay": 0.0,
    }
    return torch.optim.AdamW([lora, tokens])


@dataclass(frozen=True)
class Denoising:
    """The forward and backward pass of one batch, and the update after the last one of a step.

    `denoiser` and `optimizer` are accelerate's; `prompts`: for every text encoder, the input ids, a
    row per label; `geometry`: `geometries` of the images, if the base is told them.
    """

    settings: AdapterSettings
    accelerator: Accelerator
    denoiser: torch.nn.Module
    optimizer: Any
    noising: Noising
    prompts: list[torch.Tensor]
    trained: dict[str, torch.nn.Parameter]
    dropout: SampleSeeds
    geometry: torch.Tensor | None = None

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Returns the batch's loss."""
        self.dropout.rows = batch.seeds
        with self.accelerator.accumulate(self.denoiser):
            noisy = self.noising.noised(batch.latents, batch.noise, batch.timesteps)
            prompts = [ids[batch.labels] for ids in self.prompts]
            geometry = None if self.geometry is None else self.geometry[batch.rows]
            told = self.noising.told(batch.timesteps)
            prediction = self.denoiser(noisy, told, prompts, geometry)
            errors = denoising_loss(
                prediction,
                batch.latents,
                batch.noise,
                batch.timesteps,
                self.noising,
                self.settings.snr_gamma,
            )
            loss = (errors * batch.weights).sum()
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(self.trained.values(), self.settings.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return loss.detach()


@dataclass
class LossRecord:
    """Collects losses and writes their mean, with the learning rates, to log and trackers."""

    accelerator: Accelerator
    schedule: Any
    log: TrainingLog
    losses: list[torch.Tensor] = field(default_factory=list)

    def write(self, step: int) -> float:
        """Writes and returns the mean of the losses since the last call. Collective."""
        local = torch.stack(self.losses).mean()
        self.losses.clear()
        mean = self.accelerator.reduce(local, "mean").item()
        lora_rate, token_rate = self.schedule.get_last_lr()
        record = {"loss": mean, "lr": lora_rate, "token_lr": token_rate}
        self.accelerator.log(record, step=step)
        if self.accelerator.is_main_process:
            self.log.append({"step": step, **record})
        return mean


def class_prompts(
    settings: AdapterSettings, class_names: list[str], base: LoadedBase
) -> list[torch.Tensor]:
    """For every text encoder, the input ids of all classes' prompts and of the bare one."""
    return [
        prompt_ids(
            encoder,
            base.tokenizer(encoder),
            len(class_names),
            settings.num_vectors,
            settings.metaclass,
            settings.prompt_template,
            class_names,
        )
        for encoder in base.encoders
    ]


def prepare(
    settings: AdapterSettings,
    prompts: list[torch.Tensor],
    base: LoadedBase,
    model: AdaptedModel,
    dropout: SampleSeeds,
    accelerator: Accelerator,
    steps: int,
) -> tuple[Denoising, Any]:
    """The training step and the learning rates' schedule, ready for `accelerator`."""
    optimizer = build_optimizer(settings, model)
    schedule = get_scheduler(
        settings.lr_scheduler,
        optimizer,
        num_warmup_steps=settings.lr_warmup_steps,
        num_training_steps=steps,
    )
    denoiser, optimizer = accelerator.prepare(model, optimizer)
    accelerator.register_for_checkpointing(schedule)
    denoise = Denoising(
        settings,
        accelerator,
        denoiser,
        optimizer,
        base.family.noising(base.pipeline.scheduler.config, settings.weighting_scheme),
        [ids.to(accelerator.device) for ids in prompts],
        model.trained(),
        dropout,
    )
    return denoise, schedule


def train(
    settings: AdapterSettings,
    split: Split,
    base: Pin,
    facts: dict,
    accelerator: Accelerator,
    share: Share,
    state: Path,
) -> tuple[AdaptedModel, int]:
    """Trains from the latest checkpoint on; returns the model and its number of steps. Collective.

    `facts`: identity of the training, which a checkpoint must match, with `precision`. `share`: as
    planned; smaller batches are taken if the GPU cannot hold it. `state`: the folder of
    checkpoints, log and validation sheets. Raises `UserError`.
    """
    set_seed(settings.seed)  # initial LoRA weights
    num_classes, is_main = len(split.class_names), accelerator.is_main_process
    rows = usable_rows(settings, split)
    last = num_steps(settings, len(rows))
    loaded, model = load_adapted(base, settings, num_classes)
    dropout = use_sample_dropout(model)  # numbers all layers, also of encoders that are freed
    device = accelerator.device
    prompts = class_prompts(settings, split.class_names, loaded)
    if settings.num_vectors == 0:
        answer_ahead(loaded, model, prompts, device, dtype_of(settings))
    if settings.per_device_train_batch_size == AUTO and device.type == "cuda":
        trial = partial(attempt, settings, loaded, model, prompts, dropout, device)
        share = fitted(share, trial)
    accelerator.gradient_accumulation_steps = share.accumulation
    denoise, schedule = prepare(settings, prompts, loaded, model, dropout, accelerator, last)
    if loaded.family.needs_geometry:
        told = geometries(split, rows, settings.resolution, settings.resize)
        denoise = replace(denoise, geometry=torch.from_numpy(told).to(device))
    checkpoints = Checkpoints(
        state / "checkpoints",
        accelerator,
        denoise.trained,
        facts | {"precision": precision_of(settings)},
        settings.checkpoints_total_limit,
    )
    step = checkpoints.restore(settings.resume_from_checkpoint)
    record = LossRecord(accelerator, schedule, TrainingLog(state / "log.jsonl"))
    if is_main:
        record.log.rewind(step)
    prior_images = (
        class_images(settings, base, accelerator, state / "class_images")
        if settings.with_prior_preservation
        else []
    )
    images = DomainImages(
        split,
        rows,
        settings.seed,
        settings.resolution,
        settings.resize,
        decoded=not settings.cache_latents,
        total_batch_size=settings.total_batch_size,
    )
    latents = Latents(loaded.pipeline.vae, device, loaded.family.latents)
    if settings.cache_latents:
        ranks = (accelerator.process_index, accelerator.num_processes)
        latents.kept = kept_latents(
            state / "latents", settings, images, base, latents.encode, *ranks
        )
    batches = training_batches(
        settings,
        images,
        prior_images,
        latents,
        denoise.noising.draw,
        share,
        range(step, last),
    )
    denoise.denoiser.train()
    with tqdm(total=last, initial=step, desc="adapter", unit="step", disable=not is_main) as bar:
        for batch in batches:
            stop_if_requested()
            record.losses.append(denoise(batch))
            if not accelerator.sync_gradients:
                continue
            schedule.step()
            step += 1
            bar.update()
            is_saved = step == last or step % settings.checkpointing_steps == 0
            # also at checkpoints: the losses collected so far would be lost on resuming
            if is_saved or step % settings.logging_steps == 0:
                bar.set_postfix(loss=f"{record.write(step):.4f}", refresh=False)
            every = settings.validation_steps
            if is_main and (step == last or (every and step % every == 0)):
                path = validation_sheet(state, step)
                draw_validation(settings, split.class_names, loaded, model, accelerator, path, step)
            if is_saved:
                checkpoints.save(step)
    return model, last


def num_steps(settings: AdapterSettings, num_images: int) -> int:
    """Optimizer steps of a training on that many images, rounded up to whole ones."""
    samples = settings.num_train_samples or settings.num_train_epochs * num_images
    return math.ceil(samples / settings.total_batch_size)


def attempt(
    settings: AdapterSettings,
    base: LoadedBase,
    model: AdaptedModel,
    prompts: list[torch.Tensor],
    dropout: SampleSeeds,
    device: torch.device,
    size: int,
) -> None:
    """A forward and backward pass of `size` samples, beside all that the training keeps.

    The model's weights and buffers stay as they are, and so does the random state.
    """
    model.to(device).train()
    kept = [torch.empty_like(value, device=device) for value in model.trained().values()] * 2
    count = size * (2 if settings.with_prior_preservation else 1)
    shape = base.family.latents.shape(base.pipeline.vae.to(device), settings.resolution)
    dropout.rows = list(range(count))
    timesteps = torch.zeros(count, dtype=torch.int64, device=device)
    ids = [of_one[:1].expand(count, -1).to(device) for of_one in prompts]
    geometry = None
    if base.family.needs_geometry:
        geometry = torch.zeros(count, 6, dtype=torch.int64, device=device)
    dtype = dtype_of(settings)
    with on_trial(model, device):
        latents = torch.randn(count, *shape, device=device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            prediction = model(latents, timesteps, ids, geometry)
        prediction.float().square().mean().backward()
    del kept


def validation_sheet(state: Path, step: int) -> Path:
    """Where the images drawn after a step are."""
    return state / "validation" / f"step-{step:07d}.png"
