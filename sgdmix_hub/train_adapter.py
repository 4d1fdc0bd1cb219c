"""Trains one adapter for a domain: DreamBooth + LoRA on the UNet's attention + learned tokens, jointly.

    training (checkpoints in state/) -> files that stock diffusers loads -> what a judge says of its images -> card -> push

Every step is skipped when its result is there, so the same command continues a run that was stopped. The samples of an optimizer step are
functions of (seed, step): a training that is killed ends with the weights of one that was not, and one that is spread over processes
trains on the same images and noise.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext
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

from .adapter_model import PRECISIONS, AdaptedModel, load_adapted
from .adapters import FACTS_FILE, save_adapter
from .bases import check_supported
from .batches import training_batches
from .checkpoints import Checkpoints
from .contact_sheet import SheetRow, draw_contact_sheet
from .data import Split, load_split, subset_record
from .errors import UserError
from .files import fill_folder, write_atomically
from .inputs import versions
from .judging import Judge, judge_adapter
from .licences import stated_license
from .model_cards import write_adapter_card
from .pins import Pin, resolve
from .processes import (
    forget_failure,
    is_finished,
    launch,
    lock_folder,
    on_rank_zero,
    say,
    start_processes,
    stop_if_requested,
    wait_for_file,
)
from .prompts import bare_prompt, prompt_for, prompt_ids, token_for
from .refine import NO_SAFETY_CHECKER, load_base, with_scheduler
from .samples import Share
from .sampling import draw_images, drawing, drawing_options
from .seeds import RandomStream, seed_of
from .split_report import usable_rows
from .training_log import TrainingLog, check_tracker, draw_curve, track_image
from .training_push import check_push, push_trained
from .training_settings import AdapterSettings, recorded

LOSS_PICTURE, SAMPLES_PICTURE = "assets/loss.png", "assets/samples.png"
SHOWN_CLASSES, SHOWN_IMAGES = 8, 4


def denoising_loss(prediction, latents, noise, timesteps, scheduler, snr_gamma: float | None) -> torch.Tensor:
    """Squared error (B,) to the noise or the velocity, as the base predicts; with `snr_gamma`, min-SNR weighted (Hang et al., 2023)."""
    velocity = scheduler.config.prediction_type == "v_prediction"
    target = scheduler.get_velocity(latents, noise, timesteps) if velocity else noise
    loss = F.mse_loss(prediction.float(), target.float(), reduction="none").mean(dim=(1, 2, 3))
    if snr_gamma is not None:
        snr = compute_snr(scheduler, timesteps)
        loss = loss * snr.clamp(max=snr_gamma) / (snr + 1 if velocity else snr.clamp(min=1e-8))
    return loss


def training_scheduler(pipeline: StableDiffusionPipeline) -> DDPMScheduler:
    """The base's noise schedule. Raises `UserError` for a base that predicts neither noise nor velocity."""
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    if scheduler.config.prediction_type not in ("epsilon", "v_prediction"):
        raise UserError(f"the base predicts {scheduler.config.prediction_type}: epsilon and v_prediction are supported")
    return scheduler


def class_images(settings: AdapterSettings, base: Pin, accelerator: Accelerator, folder: Path) -> list[Path]:
    """The base's own images of the bare metaclass, for prior preservation; each is drawn once, by the rank whose turn it is.

    They are kept in a folder of `folder` whose name says what they were drawn from: a training with other settings draws its own.
    """
    prompt, options = bare_prompt(settings.metaclass, settings.prompt_template), drawing_options(settings)
    drawn_from = options | {"base": str(base), "prompt": prompt, "seed": settings.seed, "mixed_precision": settings.mixed_precision}
    folder = folder / hashlib.sha256(json.dumps(drawn_from, sort_keys=True).encode()).hexdigest()[:16]
    paths = [folder / f"{number:05d}.png" for number in range(settings.num_class_images)]
    mine = [number for number in range(len(paths)) if number % accelerator.num_processes == accelerator.process_index]
    missing = [number for number in mine if not paths[number].exists()]
    if missing:
        pipeline = load_base(StableDiffusionPipeline, base, PRECISIONS[settings.mixed_precision], **NO_SAFETY_CHECKER)
        pipeline = with_scheduler(pipeline, "dpmsolver++").to(accelerator.device)
        for start in range(0, len(missing), settings.train_batch_size):
            numbers = missing[start : start + settings.train_batch_size]
            seeds = [seed_of(RandomStream.PRIOR_IMAGE, settings.seed, number) for number in numbers]
            for number, image in zip(numbers, draw_images(pipeline, [prompt] * len(numbers), seeds, **options), strict=True):
                write_atomically(paths[number], lambda path, image=image: Image.fromarray(image).save(path, format="PNG"))
    for path in paths:
        wait_for_file(path)
    return paths


def train(settings: AdapterSettings, split: Split, base: Pin, facts: dict, accelerator: Accelerator, state: Path) -> AdaptedModel:
    """The training loop, from the checkpoint that is gone on from. Returns the trained model. Raises `UserError`."""
    set_seed(settings.seed)  # LoRA's first values
    pipeline, model = load_adapted(base, settings, len(split.class_names))
    scheduler = training_scheduler(pipeline)
    prompts = prompt_ids(pipeline, len(split.class_names), settings.num_vectors, settings.metaclass, settings.prompt_template)
    prompts = prompts.to(accelerator.device)
    rows = usable_rows(settings, split)
    trained = model.trained()
    optimizer = build_optimizer(settings, model)
    schedule = get_scheduler(
        settings.lr_scheduler, optimizer, num_warmup_steps=settings.lr_warmup_steps, num_training_steps=settings.max_train_steps
    )
    denoiser, optimizer = accelerator.prepare(model, optimizer)
    accelerator.register_for_checkpointing(schedule)

    share = Share(accelerator.process_index, accelerator.num_processes, settings.train_batch_size, settings.gradient_accumulation_steps)
    identity = facts | {"total_batch": share.total_batch}
    checkpoints = Checkpoints(state / "checkpoints", accelerator, trained, identity, settings.checkpoints_total_limit)
    step = checkpoints.restore(settings.resume_from_checkpoint)
    log = TrainingLog(state / "log.jsonl")
    if accelerator.is_main_process:
        log.rewind(step)
    prior_images = class_images(settings, base, accelerator, state / "class_images") if settings.with_prior_preservation else []
    show = accelerator.is_main_process
    batches = training_batches(
        settings, split, rows, prior_images, pipeline.vae, scheduler.config.num_train_timesteps, share, step, accelerator.device, show
    )
    losses = []
    denoiser.train()
    with tqdm(total=settings.max_train_steps, initial=step, desc="adapter", unit="step", disable=not show) as bar:
        for batch in batches:
            stop_if_requested()
            torch.manual_seed(batch.seed)  # dropout's draws
            with accelerator.accumulate(denoiser):
                noisy = scheduler.add_noise(batch.latents, batch.noise, batch.timesteps)
                prediction = denoiser(noisy, batch.timesteps, prompts[batch.labels])
                errors = denoising_loss(prediction, batch.latents, batch.noise, batch.timesteps, scheduler, settings.snr_gamma)
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
            if saved or step % settings.logging_steps == 0:  # a training that goes on from a checkpoint has the same curve
                mean = accelerator.reduce(torch.stack(losses).mean(), "mean").item()
                losses.clear()
                bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
                record = {"loss": mean, "lr": schedule.get_last_lr()[0], "token_lr": schedule.get_last_lr()[1]}
                accelerator.log(record, step=step)
                if show:
                    log.append({"step": step, **record})
            if show and (finished or (settings.validation_steps and step % settings.validation_steps == 0)):
                validate(settings, split.class_names, pipeline, model, accelerator, step, state)
            if saved:
                checkpoints.save(step)
    return model


def build_optimizer(settings: AdapterSettings, model: AdaptedModel) -> torch.optim.Optimizer:
    """AdamW on the LoRA weights and, at a rate of their own and without decay, on the tokens."""
    lora = {"params": list(model.lora().values()), "lr": settings.learning_rate, "weight_decay": settings.adam_weight_decay}
    tokens = {"params": [model.tokens.learned], "lr": settings.token_learning_rate, "weight_decay": 0.0}
    return torch.optim.AdamW([lora, tokens])


def validate(settings, class_names: list[str], pipeline, model: AdaptedModel, accelerator: Accelerator, step: int, state: Path) -> None:
    """A sheet of images of the first classes, always from the same noise, into `state/validation` and to the trackers."""
    shown = [label for label in range(min(len(class_names), SHOWN_CLASSES)) for _ in range(SHOWN_IMAGES)]
    prompts = [prompt_for(label, settings.metaclass, settings.prompt_template) for label in shown]
    with drawing(model, accelerator.device, PRECISIONS[settings.mixed_precision]):
        images = draw_images(pipeline, prompts, [number % SHOWN_IMAGES for number in range(len(shown))], **drawing_options(settings))
    starts = range(0, len(images), SHOWN_IMAGES)
    rows = [SheetRow(list(images[start : start + SHOWN_IMAGES]), class_names[shown[start]]) for start in starts]
    sheet = draw_contact_sheet(rows, [f"seed {number}" for number in range(SHOWN_IMAGES)])
    write_atomically(state / "validation" / f"step-{step:07d}.png", lambda path: sheet.save(path, format="PNG"))
    for tracker in accelerator.trackers:
        track_image(tracker, "validation", sheet, step)


def main(settings: AdapterSettings) -> None:
    """One training. Raises `UserError`, `Preempted`."""
    settings.validate()
    folder = Path(settings.output_dir)
    state = folder / "state"
    processes = start_processes(settings.num_threads)
    with lock_folder(state, finished=folder / FACTS_FILE) if processes.is_main_process else nullcontext():
        check_tracker(settings.report_to)
        on_rank_zero(lambda: check_push(settings))
        split = load_split(settings, on_rank_zero(lambda: resolve(settings.dataset_name, repo_type="dataset")))
        base = on_rank_zero(lambda: resolve(settings.pretrained_model_name_or_path))
        judge = on_rank_zero(lambda: resolve(settings.judge)) if settings.judge else None
        if judge is not None:
            Judge(judge, split.class_names, torch.device("cpu"))  # one that cannot judge is refused before the training, not after it
        facts = adapter_facts(settings, split, base)
        if on_rank_zero(lambda: is_finished(folder / FACTS_FILE, facts)):
            say(f"adapter: {folder} is complete, nothing to train")
        else:
            on_rank_zero(lambda: check_supported(base))
            train_and_save(settings, split, base, facts, folder)
        if judge is not None:
            judge_adapter(settings, split, base, judge, folder)
        if processes.is_main_process:
            write_adapter_card(settings, folder)
            push_trained(settings, folder, f"Adapter of {len(split.class_names)} classes")
            forget_failure(state)
        processes.wait_for_everyone()


def train_and_save(settings: AdapterSettings, split: Split, base: Pin, facts: dict, folder: Path) -> None:
    """Trains, and puts the adapter's files into the folder. A collective."""
    state = folder / "state"
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision=settings.mixed_precision,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        log_with=None if settings.report_to == "none" else settings.report_to,
        project_dir=str(state),
    )
    if settings.report_to != "none":
        accelerator.init_trackers("sgdmix_hub_adapter", config=facts["settings"])
    model = train(settings, split, base, facts, accelerator, state)
    for tracker in accelerator.trackers:  # end_training would end the processes' group as well
        tracker.finish()
    if accelerator.is_main_process:
        curve = TrainingLog(state / "log.jsonl").curve()
        found = {"loss_curve": curve, "base_license": stated_license(base), "versions": versions()}
        found |= {"num_processes": accelerator.num_processes}

        def write(working: Path) -> None:
            save_adapter(working, model.unet, model.tokens.learned, settings.num_vectors, facts | found)
            draw_curve(curve, working / LOSS_PICTURE)
            sheet = (state / "validation" / f"step-{settings.max_train_steps:07d}.png").read_bytes()
            (working / SAMPLES_PICTURE).write_bytes(sheet)

        fill_folder(folder, write, last=FACTS_FILE)
    wait_for_file(folder / FACTS_FILE)  # a shared file system may show it late


def adapter_facts(settings: AdapterSettings, split: Split, base: Pin) -> dict:
    """What adapter.json says: classes and their tokens, prompt, pins, subset, settings."""
    return {
        "class_names": split.class_names,
        "tokens": [token_for(label) for label in range(len(split.class_names))],
        "metaclass": settings.metaclass,
        "prompt_template": settings.prompt_template,
        "base": str(base),
        "subset": subset_record(settings, split),
        "settings": recorded(settings),
    }


if __name__ == "__main__":
    launch(main, AdapterSettings)
