"""The training loop of an adapter."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import DDPMScheduler, StableDiffusionPipeline
from diffusers.optimization import get_scheduler
from diffusers.training_utils import compute_snr
from PIL import Image
from torch.nn import functional as F
from tqdm.auto import tqdm

from sgdmix_hub.data.report import usable_rows
from sgdmix_hub.data.splits import Split
from sgdmix_hub.errors import UserError
from sgdmix_hub.figures.panels import SheetRow, draw_contact_sheet
from sgdmix_hub.files import write_atomically
from sgdmix_hub.hub.pins import Pin
from sgdmix_hub.models.bases import NO_SAFETY_CHECKER, load_base, with_scheduler
from sgdmix_hub.models.prompts import bare_prompt, prompt_for, prompt_ids
from sgdmix_hub.models.sampling import draw_images, drawing, drawing_options
from sgdmix_hub.runtime.stopping import stop_if_requested, wait_for_file
from sgdmix_hub.seeds import RandomStream, seed_of
from sgdmix_hub.settings.training import AdapterSettings
from sgdmix_hub.training.log import TrainingLog, track_image

from .batches import training_batches
from .checkpoints import Checkpoints
from .dataset import Share
from .model import PRECISIONS, AdaptedModel, load_adapted

SHOWN_CLASSES, SHOWN_IMAGES = 8, 4


def denoising_loss(
    prediction, latents, noise, timesteps, scheduler, snr_gamma: float | None
) -> torch.Tensor:
    """Squared error (B,) to the noise or the velocity, as the base predicts; with `snr_gamma`,
    min-SNR weighted (Hang et al., 2023).
    """
    velocity = scheduler.config.prediction_type == "v_prediction"
    target = scheduler.get_velocity(latents, noise, timesteps) if velocity else noise
    loss = F.mse_loss(prediction.float(), target.float(), reduction="none").mean(dim=(1, 2, 3))
    if snr_gamma is not None:
        snr = compute_snr(scheduler, timesteps)
        loss = loss * snr.clamp(max=snr_gamma) / (snr + 1 if velocity else snr.clamp(min=1e-8))
    return loss


def training_scheduler(pipeline: StableDiffusionPipeline) -> DDPMScheduler:
    """The base's noise schedule. Raises `UserError` for a base that predicts neither noise nor
    velocity.
    """
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    if scheduler.config.prediction_type not in ("epsilon", "v_prediction"):
        raise UserError(
            f"the base predicts {scheduler.config.prediction_type}: epsilon and v_prediction are supported"
        )
    return scheduler


def class_images(
    settings: AdapterSettings, base: Pin, accelerator: Accelerator, folder: Path
) -> list[Path]:
    """The base's own images of the bare metaclass, for prior preservation; each is drawn once, by
    the rank whose turn it is.

    They are kept in a folder of `folder` whose name says what they were drawn from: a training with
    other settings draws its own.
    """
    prompt, options = (
        bare_prompt(settings.metaclass, settings.prompt_template),
        drawing_options(settings),
    )
    drawn_from = options | {
        "base": str(base),
        "prompt": prompt,
        "seed": settings.seed,
        "mixed_precision": settings.mixed_precision,
    }
    folder = (
        folder / hashlib.sha256(json.dumps(drawn_from, sort_keys=True).encode()).hexdigest()[:16]
    )
    paths = [folder / f"{number:05d}.png" for number in range(settings.num_class_images)]
    mine = [
        number
        for number in range(len(paths))
        if number % accelerator.num_processes == accelerator.process_index
    ]
    missing = [number for number in mine if not paths[number].exists()]
    if missing:
        pipeline = load_base(
            StableDiffusionPipeline, base, PRECISIONS[settings.mixed_precision], **NO_SAFETY_CHECKER
        )
        pipeline = with_scheduler(pipeline, "dpmsolver++").to(accelerator.device)
        for start in range(0, len(missing), settings.train_batch_size):
            numbers = missing[start : start + settings.train_batch_size]
            seeds = [seed_of(RandomStream.PRIOR_IMAGE, settings.seed, number) for number in numbers]
            for number, image in zip(
                numbers,
                draw_images(
                    pipeline,
                    [prompt] * len(numbers),
                    seeds,
                    on_step=stop_if_requested,
                    **options,
                ),
                strict=True,
            ):
                write_atomically(
                    paths[number],
                    lambda path, image=image: Image.fromarray(image).save(path, format="PNG"),
                )
    for path in paths:
        wait_for_file(path)
    return paths


def train(
    settings: AdapterSettings,
    split: Split,
    base: Pin,
    facts: dict,
    accelerator: Accelerator,
    state: Path,
) -> AdaptedModel:
    """The training loop, from the checkpoint that is gone on from. Returns the trained model.
    Raises `UserError`.
    """
    set_seed(settings.seed)  # LoRA's first values
    pipeline, model = load_adapted(base, settings, len(split.class_names))
    scheduler = training_scheduler(pipeline)
    prompts = prompt_ids(
        pipeline,
        len(split.class_names),
        settings.num_vectors,
        settings.metaclass,
        settings.prompt_template,
    )
    prompts = prompts.to(accelerator.device)
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
    if accelerator.is_main_process:
        log.rewind(step)
    prior_images = (
        class_images(settings, base, accelerator, state / "class_images")
        if settings.with_prior_preservation
        else []
    )
    show = accelerator.is_main_process
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
        show,
    )
    losses = []
    denoiser.train()
    with tqdm(
        total=settings.max_train_steps, initial=step, desc="adapter", unit="step", disable=not show
    ) as bar:
        for batch in batches:
            stop_if_requested()
            torch.manual_seed(batch.seed)  # dropout's draws
            with accelerator.accumulate(denoiser):
                noisy = scheduler.add_noise(batch.latents, batch.noise, batch.timesteps)
                prediction = denoiser(noisy, batch.timesteps, prompts[batch.labels])
                errors = denoising_loss(
                    prediction,
                    batch.latents,
                    batch.noise,
                    batch.timesteps,
                    scheduler,
                    settings.snr_gamma,
                )
                loss = (errors * batch.weights).sum()
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(trained.values(), settings.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.detach())
            if not accelerator.sync_gradients:
                continue
            schedule.step()
            step += 1
            bar.update()
            finished = step == settings.max_train_steps
            saved = finished or step % settings.checkpointing_steps == 0
            if (
                saved or step % settings.logging_steps == 0
            ):  # a training that goes on from a checkpoint has the same curve
                mean = accelerator.reduce(torch.stack(losses).mean(), "mean").item()
                losses.clear()
                bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
                record = {
                    "loss": mean,
                    "lr": schedule.get_last_lr()[0],
                    "token_lr": schedule.get_last_lr()[1],
                }
                accelerator.log(record, step=step)
                if show:
                    log.append({"step": step, **record})
            if show and (
                finished or (settings.validation_steps and step % settings.validation_steps == 0)
            ):
                validate(settings, split.class_names, pipeline, model, accelerator, step, state)
            if saved:
                checkpoints.save(step)
    return model


def build_optimizer(settings: AdapterSettings, model: AdaptedModel) -> torch.optim.Optimizer:
    """AdamW on the LoRA weights and, at a rate of their own and without decay, on the tokens."""
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


def validate(
    settings,
    class_names: list[str],
    pipeline,
    model: AdaptedModel,
    accelerator: Accelerator,
    step: int,
    state: Path,
) -> None:
    """A sheet of images of the first classes, always from the same noise, into `state/validation`
    and to the trackers.
    """
    shown = [
        label for label in range(min(len(class_names), SHOWN_CLASSES)) for _ in range(SHOWN_IMAGES)
    ]
    prompts = [prompt_for(label, settings.metaclass, settings.prompt_template) for label in shown]
    with drawing(model, accelerator.device, PRECISIONS[settings.mixed_precision]):
        images = draw_images(
            pipeline,
            prompts,
            [number % SHOWN_IMAGES for number in range(len(shown))],
            on_step=stop_if_requested,
            **drawing_options(settings),
        )
    starts = range(0, len(images), SHOWN_IMAGES)
    rows = [
        SheetRow(list(images[start : start + SHOWN_IMAGES]), class_names[shown[start]])
        for start in starts
    ]
    sheet = draw_contact_sheet(rows, [f"seed {number}" for number in range(SHOWN_IMAGES)])
    write_atomically(
        state / "validation" / f"step-{step:07d}.png", lambda path: sheet.save(path, format="PNG")
    )
    for tracker in accelerator.trackers:
        track_image(tracker, "validation", sheet, step)
