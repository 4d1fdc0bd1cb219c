"""The training loop of an adapter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import DDPMScheduler
from diffusers.optimization import get_scheduler
from diffusers.training_utils import compute_snr
from torch.nn import functional as F
from tqdm.auto import tqdm

from sgdmix_hub.data.report import usable_rows
from sgdmix_hub.data.splits import Split
from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.pins import Pin
from sgdmix_hub.models.bases import Pipeline
from sgdmix_hub.models.prompts import prompt_ids
from sgdmix_hub.runtime.stopping import stop_if_requested
from sgdmix_hub.settings.training import AdapterSettings
from sgdmix_hub.training.log import TrainingLog

from .batches import Batch, training_batches
from .checkpoints import Checkpoints
from .dataset import Share
from .drawn_images import class_images, draw_validation
from .model import AdaptedModel, load_adapted


def denoising_loss(
    prediction: torch.Tensor,
    latents: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    scheduler: Any,
    snr_gamma: float | None,
) -> torch.Tensor:
    """Squared error (B,) to the noise or the velocity, whichever the base predicts.

    With `snr_gamma` it is weighted by min-SNR (Hang et al., 2023).
    """
    predicts_velocity = scheduler.config.prediction_type == "v_prediction"
    target = scheduler.get_velocity(latents, noise, timesteps) if predicts_velocity else noise
    loss = F.mse_loss(prediction.float(), target.float(), reduction="none").mean(dim=(1, 2, 3))
    if snr_gamma is None:
        return loss
    snr = compute_snr(scheduler, timesteps)
    scale = snr + 1 if predicts_velocity else snr.clamp(min=1e-8)
    return loss * snr.clamp(max=snr_gamma) / scale


def training_scheduler(pipeline: Pipeline) -> Any:
    """The base's noise schedule. Raises `UserError` unless it predicts noise or velocity."""
    scheduler: Any = DDPMScheduler.from_config(pipeline.scheduler.config)
    predicted = scheduler.config.prediction_type
    if predicted not in ("epsilon", "v_prediction"):
        raise UserError(
            f"the base predicts {predicted}: use one that predicts epsilon or v_prediction"
        )
    return scheduler


def build_optimizer(settings: AdapterSettings, model: AdaptedModel) -> torch.optim.Optimizer:
    """AdamW for the LoRA weights and, with its own rate and no decay, the tokens."""
    lora = {
        "params": list(model.lora().values()),
        "lr": settings.learning_rate,
        "weight_decay": settings.adam_weight_decay,
    }
    tokens = {
        "params": [model.tokens.learned],
        "lr": settings.token_learning_rate,
        "weight_decay": 0.0,
    }
    return torch.optim.AdamW([lora, tokens])


@dataclass(frozen=True)
class Denoising:
    """The forward and backward pass of one batch, and the update after the last one of a step.

    `denoiser` and `optimizer` are accelerate's; `prompts`: input ids, a row per label.
    """

    settings: AdapterSettings
    accelerator: Accelerator
    denoiser: torch.nn.Module
    optimizer: Any
    scheduler: Any
    prompts: torch.Tensor
    trained: dict[str, torch.nn.Parameter]

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Returns the batch's loss."""
        torch.manual_seed(batch.seed)  # dropout's draws
        with self.accelerator.accumulate(self.denoiser):
            noisy = self.scheduler.add_noise(batch.latents, batch.noise, batch.timesteps)
            prediction = self.denoiser(noisy, batch.timesteps, self.prompts[batch.labels])
            errors = denoising_loss(
                prediction,
                batch.latents,
                batch.noise,
                batch.timesteps,
                self.scheduler,
                self.settings.snr_gamma,
            )
            loss = (errors * batch.weights).sum()
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(self.trained.values(), self.settings.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return loss.detach()


def train(
    settings: AdapterSettings,
    split: Split,
    base: Pin,
    facts: dict,
    accelerator: Accelerator,
    state: Path,
) -> AdaptedModel:
    """Trains from the latest checkpoint on and returns the model. Raises `UserError`. Collective.

    `facts`: identity of the training, which a checkpoint must match. `state`: the folder of
    checkpoints, log and validation sheets.
    """
    set_seed(settings.seed)  # initial LoRA weights
    pipeline, model = load_adapted(base, settings, len(split.class_names))
    scheduler = training_scheduler(pipeline)
    prompts = prompt_ids(
        pipeline,
        len(split.class_names),
        settings.num_vectors,
        settings.metaclass,
        settings.prompt_template,
    )
    rows = usable_rows(settings, split)
    trained = model.trained()
    optimizer = build_optimizer(settings, model)
    schedule = get_scheduler(
        settings.lr_scheduler,
        optimizer,
        num_warmup_steps=settings.lr_warmup_steps,
        num_training_steps=settings.max_train_steps,
    )
    denoiser, optimizer = accelerator.prepare(model, optimizer)
    accelerator.register_for_checkpointing(schedule)

    share = Share(
        accelerator.process_index,
        accelerator.num_processes,
        settings.train_batch_size,
        settings.gradient_accumulation_steps,
    )
    identity = facts | {"total_batch": share.total_batch}
    checkpoints = Checkpoints(
        state / "checkpoints", accelerator, trained, identity, settings.checkpoints_total_limit
    )
    step = checkpoints.restore(settings.resume_from_checkpoint)
    log = TrainingLog(state / "log.jsonl")
    is_main = accelerator.is_main_process
    if is_main:
        log.rewind(step)
    prior_images = (
        class_images(settings, base, accelerator, state / "class_images")
        if settings.with_prior_preservation
        else []
    )
    batches = training_batches(
        settings,
        split,
        rows,
        prior_images,
        pipeline.vae,
        scheduler.config.num_train_timesteps,
        share,
        step,
        accelerator.device,
        is_main,
    )
    denoise = Denoising(
        settings,
        accelerator,
        denoiser,
        optimizer,
        scheduler,
        prompts.to(accelerator.device),
        trained,
    )
    losses: list[torch.Tensor] = []
    denoiser.train()
    with tqdm(
        total=settings.max_train_steps,
        initial=step,
        desc="adapter",
        unit="step",
        disable=not is_main,
    ) as bar:
        for batch in batches:
            stop_if_requested()
            losses.append(denoise(batch))
            if not accelerator.sync_gradients:
                continue
            schedule.step()
            step += 1
            bar.update()
            is_last = step == settings.max_train_steps
            is_saved = is_last or step % settings.checkpointing_steps == 0
            # also at checkpoints: the losses collected so far would be lost on resuming
            if is_saved or step % settings.logging_steps == 0:
                mean = accelerator.reduce(torch.stack(losses).mean(), "mean").item()
                losses.clear()
                bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
                lora_rate, token_rate = schedule.get_last_lr()
                record = {"loss": mean, "lr": lora_rate, "token_lr": token_rate}
                accelerator.log(record, step=step)
                if is_main:
                    log.append({"step": step, **record})
            every = settings.validation_steps
            if is_main and (is_last or (every and step % every == 0)):
                path = validation_sheet(state, step)
                draw_validation(
                    settings, split.class_names, pipeline, model, accelerator, path, step
                )
            if is_saved:
                checkpoints.save(step)
    return model


def validation_sheet(state: Path, step: int) -> Path:
    """Where the images drawn after a step are."""
    return state / "validation" / f"step-{step:07d}.png"
