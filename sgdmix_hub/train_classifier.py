"""Trains an image classifier on real images, or on real and synthetic ones.

The same program makes the classifier that saliency looks through and the downstream classifiers that show whether a dataset helps.
Writes into `output_dir`: the model (safetensors), its image processor, `classifier.json` (pins, subset, settings, accuracy), a card; the
checkpoints, from which the same command goes on, are in `state/`. Which weights are kept is decided on validation images, where there are
any; the evaluation split is measured once, with the weights that were kept.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import ProgressCallback, Trainer, TrainingArguments, set_seed

from .accuracy import EvaluationImages, accuracy_of, evaluate_on
from .checkpoints import newest_whole, seal_folder
from .classifiers import build_for_training, load_network, save_classifier
from .data import Split, attributes_of, load_evaluation_split, load_split, subset_record
from .errors import UserError
from .files import DamagedFile, fill_folder, read_json, read_sealed, write_json, write_sealed
from .inputs import CLASSIFIER_FACTS, versions
from .licences import stated_license
from .losses import balanced_softmax_prior, classification_loss
from .model_cards import write_classifier_card
from .pins import Pin, resolve
from .preprocessing import recorded_preprocessing
from .processes import (
    different_facts,
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
from .published import PublishedRows, load_published
from .shared_memory import check_shared_memory, loader_bytes
from .split_report import usable_rows
from .training_images import TrainingImages, training_images
from .training_log import TrainingLog, check_tracker, draw_curve
from .training_push import check_push, push_trained
from .training_settings import ClassifierSettings, recorded
from .validation import BestWeights, hold_out

LOSS_PICTURE = "assets/loss.png"
SEALED = "sealed.json"  # a checkpoint's record
MEASUREMENT = frozenset({"eval_split", "group_column", "many_shot", "few_shot"})  # settings of what is done after the weights are final


class TrainingBar(ProgressCallback):
    """The Trainer's bar over the updates, without its printed dictionaries and its second bar for the evaluation; its losses go into the
    training's log; tells the images their epoch; heeds SIGTERM."""

    def __init__(self, log: TrainingLog, images: TrainingImages):
        super().__init__()
        self.log, self.images = log, images

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        if state.is_world_process_zero:
            self.log.rewind(state.global_step)

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.images.epoch = int(state.epoch or 0)

    def on_step_end(self, args, state, control, **kwargs):
        super().on_step_end(args, state, control, **kwargs)
        control.should_log |= control.should_save  # losses since the last line are not in a checkpoint: it goes on with none
        stop_if_requested()

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            seal_folder(Path(args.output_dir) / f"checkpoint-{state.global_step}", SEALED, {"step": state.global_step})

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and "loss" in logs:
            self.log.append({"step": state.global_step, "loss": logs["loss"], "lr": logs["learning_rate"]})

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        pass


def training_arguments(settings: ClassifierSettings, folder: Path) -> TrainingArguments:
    """The settings as the Trainer's arguments, on the processes that were started before."""
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.num_train_epochs,
        per_device_train_batch_size=settings.per_device_train_batch_size,
        per_device_eval_batch_size=settings.per_device_train_batch_size * 2,
        learning_rate=settings.learning_rate,
        optim=settings.optim,
        optim_args="momentum=0.9" if settings.optim == "sgd" else None,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup_ratio,
        lr_scheduler_type="cosine",
        dataloader_num_workers=settings.dataloader_num_workers,
        seed=settings.seed,
        use_cpu=not torch.cuda.is_available(),
        accelerator_config={"use_configured_state": True},
        ddp_find_unused_parameters=False,
        save_strategy="steps",
        save_steps=settings.checkpointing_steps,
        save_total_limit=settings.checkpoints_total_limit,
        logging_strategy="steps",
        logging_steps=settings.logging_steps,
        report_to=settings.report_to,
        disable_tqdm=False,
        remove_unused_columns=False,
    )


def checkpoint_to_resume(folder: Path, which: str, identity: dict) -> Path | None:
    """The checkpoint in `folder` that a training goes on from; notes there what is being trained. Raises `UserError` when its checkpoints
    are those of another training, and for a folder that is no checkpoint."""
    record = folder / "training.json"
    if which == "none":
        shutil.rmtree(folder, ignore_errors=True)
    elif record.exists() and (different := different_facts(read_identity(record), identity)):
        raise UserError(
            f"{folder} has checkpoints of another training ({', '.join(different)} differ): start over with --resume_from_checkpoint none, "
            "or choose another --output_dir"
        )
    write_sealed(record, identity)
    finished = sorted((path.parent for path in folder.glob(f"checkpoint-*/{SEALED}")), key=lambda path: int(path.name.rpartition("-")[2]))
    if which in ("latest", "none"):
        return newest_whole(finished, SEALED)
    if Path(which) not in finished or newest_whole([Path(which)], SEALED) is None:
        raise UserError(
            f"{which} is no checkpoint of this training, or not a whole one: give latest, none, or a folder like "
            f"{folder / 'checkpoint-500'}"
        )
    return Path(which)


def read_identity(record: Path) -> dict:
    """What the checkpoints beside it are of. Raises `UserError` when that is lost."""
    try:
        return read_sealed(record)
    except DamagedFile:
        raise UserError(
            f"{record} is torn or was changed since it was written, so nothing says what its checkpoints are of: start over with "
            "--resume_from_checkpoint none, or choose another --output_dir"
        ) from None


def main(settings: ClassifierSettings) -> None:
    """One training. Raises `UserError`, `Preempted`."""
    settings.validate()
    folder = Path(settings.output_dir)
    processes = start_processes(settings.num_threads)
    with lock_folder(folder / "state", finished=folder / CLASSIFIER_FACTS) if processes.is_main_process else nullcontext():
        check_tracker(settings.report_to)
        on_rank_zero(lambda: check_push(settings))
        split = load_split(settings, on_rank_zero(lambda: resolve(settings.dataset_name, repo_type="dataset")))
        model_pin = on_rank_zero(lambda: resolve(settings.model))
        synthetic = load_published(settings.synthetic, settings.synthetic_config_name) if settings.synthetic else None
        eval_pin = on_rank_zero(lambda: resolve(settings.eval_dataset_name, repo_type="dataset")) if settings.eval_dataset_name else None
        facts = classifier_facts(settings, split, model_pin, synthetic, eval_pin)
        if not on_rank_zero(lambda: is_finished(folder / CLASSIFIER_FACTS, identity_of(facts))):
            if synthetic is not None:
                synthetic.check_made_from(split, facts["subset"])
            evaluation = load_evaluation(settings, split, eval_pin) if settings.eval_split else None
            train_and_save(settings, split, model_pin, synthetic, evaluation, facts, folder)
        else:
            before = on_rank_zero(lambda: read_json(folder / CLASSIFIER_FACTS))
            if settings.eval_split is None or measurement_of(before) == measurement_of(facts):
                say(f"classifier: {folder} is complete, nothing to train")
            else:
                say(f"classifier: {folder} is complete, only {settings.eval_split} is measured")
                measure_again(settings, split, load_evaluation(settings, split, eval_pin), before, facts, folder)
        if processes.is_main_process:
            write_classifier_card(settings, folder)
            push_trained(settings, folder, f"Classifier of {len(split.class_names)} classes")
            forget_failure(folder / "state")
        processes.wait_for_everyone()


def train_and_save(
    settings: ClassifierSettings,
    split: Split,
    model_pin: Pin,
    synthetic: PublishedRows | None,
    evaluation: Split | None,
    facts: dict,
    folder: Path,
) -> None:
    """Trains, measures, and puts the classifier's files into the folder. A collective. Raises `UserError`."""
    set_seed(settings.seed)
    model, preprocessing = build_for_training(
        model_pin, split.class_names, settings.image_size, settings.resize_size, settings.from_scratch
    )
    check_loaders(settings, preprocessing.size, evaluation is not None)
    as_measured = preprocessing.evaluation()
    rows, validation = training_rows(settings, split, as_measured)
    images = training_images(settings, split, rows, synthetic, preprocessing.training(settings.augmentation))
    counts = np.bincount(split.labels[rows], minlength=len(split.class_names))
    prior = balanced_softmax_prior(counts) if settings.loss == "balanced-softmax" else None
    arguments = training_arguments(settings, folder / "state" / "checkpoints")
    log = TrainingLog(folder / "state" / "log.jsonl")
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=images,
        eval_dataset=validation,
        compute_loss_func=partial(classification_loss, label_smoothing=settings.label_smoothing_factor, log_prior=prior),
        compute_metrics=accuracy_of,
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(TrainingBar(log, images))
    best = BestWeights(folder / "state" / "best", log, settings.eval_steps)
    if validation is not None:
        trainer.add_callback(best)
    identity = identity_of(facts) | {"num_processes": arguments.world_size}
    checkpoint = on_rank_zero(lambda: checkpoint_to_resume(Path(arguments.output_dir), settings.resume_from_checkpoint, identity))
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    found = {"base_license": stated_license(model_pin), "versions": versions(), "num_processes": arguments.world_size}
    found["preprocessing"] = preprocessing.record()
    if validation is not None:
        found["validation"] = {"images": len(validation)} | best.load_into(trainer.model)
    if evaluation is not None:
        found |= evaluate_on(trainer, evaluation, as_measured, counts, settings)

    def write(working: Path) -> None:
        save_classifier(trainer.model, preprocessing, working)
        curve = log.curve()
        draw_curve(curve, working / LOSS_PICTURE)
        write_json(working / CLASSIFIER_FACTS, facts | found | {"loss_curve": curve})

    if trainer.is_world_process_zero():
        fill_folder(folder, write, last=CLASSIFIER_FACTS)
    wait_for_file(folder / CLASSIFIER_FACTS)  # a shared file system may show it late


def check_loaders(settings: ClassifierSettings, size: int, is_evaluated: bool) -> None:
    """Raises `UserError` where the data loaders' workers have not the shared memory that they need: they would wait for it for ever."""
    validated = settings.validation_split is not None or settings.validation_share > 0
    images = settings.per_device_train_batch_size * (3 if validated else 2 if is_evaluated else 1)  # twice as many are evaluated at once
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    check_shared_memory(
        loader_bytes(settings.dataloader_num_workers, images, size, ranks),
        f"{ranks * settings.dataloader_num_workers} workers of data loaders",
        "fewer --dataloader_num_workers (0 needs none), a smaller --per_device_train_batch_size, or ",
    )


def measure_again(settings: ClassifierSettings, split: Split, evaluation: Split, before: dict, facts: dict, folder: Path) -> None:
    """Measures the finished classifier in the folder, whose facts are `before`, as the settings now say. A collective."""
    transform = recorded_preprocessing(before.get("preprocessing"), folder.name).evaluation()
    rows, _ = training_rows(settings, split, transform)
    counts = np.bincount(split.labels[rows], minlength=len(split.class_names))
    arguments = training_arguments(settings, folder / "state" / "checkpoints")
    trainer = Trainer(model=load_network(str(folder), f"classifier {folder.name}"), args=arguments)
    found = evaluate_on(trainer, evaluation, transform, counts, settings)
    kept = {name: value for name, value in before.items() if name not in ("metrics", "groups")}
    if trainer.is_world_process_zero():
        write_json(folder / CLASSIFIER_FACTS, kept | found | {name: facts[name] for name in ("settings", "eval_dataset")})
    trainer.accelerator.wait_for_everyone()


def usable(split: Split, name: str, setting: str) -> Split:
    """The split without the rows whose image cannot be decoded. Raises `UserError` when none is left: that is told before a training, not
    after it."""
    if not len(split.subset):
        raise UserError(f"split {name!r} of {split.pin.name} has no labelled row: give another --{setting}")
    rows = split.decodable()
    if not len(rows):
        raise UserError(
            f"no image of split {name!r} of {split.pin.name} can be decoded: give another --{setting}, or fetch its files again"
        )
    return dataclasses.replace(split, subset=rows)


def load_evaluation(settings: ClassifierSettings, split: Split, pin: Pin | None) -> Split:
    """The usable rows of the split that is measured in the end, of the dataset at `pin` where there is one. Raises `UserError`."""
    evaluation = load_evaluation_split(settings, settings.eval_split, split, pin)
    if settings.group_column is not None:
        attributes_of(evaluation, settings.group_column)
    return usable(evaluation, settings.eval_split, "eval_split")


def training_rows(settings: ClassifierSettings, split: Split, transform) -> tuple[np.ndarray, EvaluationImages | None]:
    """The rows to train on, int64 (n,), and the images to choose the weights on, if there are any. Raises `UserError`."""
    rows = usable_rows(settings, split)
    if settings.validation_split is not None:
        validation = usable(
            load_evaluation_split(settings, settings.validation_split, split), settings.validation_split, "validation_split"
        )
        return rows, EvaluationImages(validation, validation.subset, transform)
    if settings.validation_share == 0:
        return rows, None
    held = hold_out(split.labels, rows, settings.validation_share, settings.subset_seed)
    if not len(held):
        raise UserError(f"validation_share {settings.validation_share} of {len(rows)} images is none of any class: give a larger one")
    return np.setdiff1d(rows, held), EvaluationImages(split, held, transform)


def classifier_facts(
    settings: ClassifierSettings, split: Split, model: Pin, synthetic: PublishedRows | None, eval_dataset: Pin | None = None
) -> dict:
    """What classifier.json says: pins, subset, classes, settings without places and speed."""
    return {
        "subset": subset_record(settings, split),
        "model": str(model),
        "synthetic": str(synthetic.pin) if synthetic else None,
        "eval_dataset": str(eval_dataset) if eval_dataset else None,
        "class_names": split.class_names,
        "settings": recorded(settings),
    }


def identity_of(facts: dict) -> dict:
    """The facts that decide the weights, which a checkpoint or a finished training must share: not those of the measurement after them."""
    settings = {name: value for name, value in facts["settings"].items() if name not in MEASUREMENT}
    return {name: value for name, value in facts.items() if name != "eval_dataset"} | {"settings": settings}


def measurement_of(facts: dict) -> dict:
    """The facts that decide what is measured, with which weights ever."""
    return {"eval_dataset": facts["eval_dataset"]} | {name: facts["settings"].get(name) for name in sorted(MEASUREMENT)}


if __name__ == "__main__":
    launch(main, ClassifierSettings)
