"""Trains an image classifier on real images, or on real and synthetic ones.

The classifier may serve a CAM, or show whether a dataset helps (downstream). Writes into
`output_dir`: the model (safetensors), its image processor, `classifier.json` (pins, subset,
settings, accuracy), and a card; `state/` holds the checkpoints, from which the same command
resumes. With validation images the best weights are kept, otherwise the last ones. The evaluation
split is measured once, at the end.
"""

from __future__ import annotations

import dataclasses
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import ProgressCallback, Trainer, set_seed

from sgdmix_hub.data.report import usable_rows
from sgdmix_hub.data.splits import (
    Split,
    attributes_of,
    load_evaluation_split,
    load_split,
    subset_record,
)
from sgdmix_hub.figures.plots import draw_curve
from sgdmix_hub.hub.formats import CLASSIFIER_FACTS
from sgdmix_hub.hub.licences import stated_license
from sgdmix_hub.hub.pins import Pin, resolve
from sgdmix_hub.models.classifier import Classifier, build_for_training, save_classifier
from sgdmix_hub.output_folder import OutputFolder
from sgdmix_hub.publishing.model_card import write_classifier_card
from sgdmix_hub.publishing.read import PublishedRows, load_published
from sgdmix_hub.runtime.environment import versions
from sgdmix_hub.runtime.launch import launch
from sgdmix_hub.runtime.ranks import on_rank_zero, say, start_processes, wait_for_everyone
from sgdmix_hub.runtime.shared_memory import check_shared_memory, loader_bytes
from sgdmix_hub.runtime.stopping import forget_failure, lock_folder, wait_for_file
from sgdmix_hub.settings.training import ClassifierSettings, recorded
from sgdmix_hub.training.classifier.accuracy import (
    EvaluationImages,
    accuracy_of,
    evaluate_on,
    result_line,
)
from sgdmix_hub.training.classifier.batches import batch_norm_samples, ready_for_share
from sgdmix_hub.training.classifier.best_weights import BestWeights, hold_out
from sgdmix_hub.training.classifier.dataset import training_images
from sgdmix_hub.training.classifier.losses import balanced_softmax_prior, classification_loss
from sgdmix_hub.training.classifier.trainer import (
    SampleTrainer,
    TrainingBar,
    checkpoint_to_resume,
    training_arguments,
)
from sgdmix_hub.training.log import TrainingLog, check_tracker
from sgdmix_hub.training.precision import precision_of
from sgdmix_hub.training.resume import check_push, is_finished, push_trained
from sgdmix_hub.training.share import Share, share_of

from .errors import UserError
from .files import fill_folder, read_json, write_json

LOSS_PICTURE = "assets/loss.png"
# Settings of the measurement, which comes after the training.
MEASUREMENT = frozenset({"eval_split", "group_column", "many_shot", "few_shot"})


def main(settings: ClassifierSettings) -> None:
    """One training. Raises `UserError`, `Preempted`."""
    settings.validate()
    folder = Path(settings.output_dir)
    rank = start_processes(settings.num_threads)
    share = share_of(settings, rank)
    with lock_folder(OutputFolder(folder).state, finished=folder / CLASSIFIER_FACTS):
        check_tracker(settings.report_to)
        on_rank_zero(lambda: check_push(settings))
        split = load_split(
            settings, on_rank_zero(lambda: resolve(settings.dataset_name, repo_type="dataset"))
        )
        model_pin = on_rank_zero(lambda: resolve(settings.model))
        synthetic = (
            load_published(settings.synthetic, settings.synthetic_config_name)
            if settings.synthetic
            else None
        )
        eval_pin = None
        if (name := settings.eval_dataset_name) is not None:
            eval_pin = on_rank_zero(lambda: resolve(name, repo_type="dataset"))
        facts = classifier_facts(settings, split, model_pin, synthetic, eval_pin)
        if not on_rank_zero(lambda: is_finished(folder / CLASSIFIER_FACTS, identity_of(facts))):
            if synthetic is not None:
                synthetic.check_made_from(split, facts["subset"])
            evaluation = load_evaluation(settings, split, eval_pin)
            train_and_save(settings, split, model_pin, synthetic, evaluation, facts, share, folder)
        else:
            before = on_rank_zero(lambda: read_json(folder / CLASSIFIER_FACTS))
            evaluation = None
            if measurement_of(before) != measurement_of(facts):
                evaluation = load_evaluation(settings, split, eval_pin)
            if evaluation is None:
                say(f"classifier: {folder} is complete, nothing to train")
            else:
                say(f"classifier: {folder} is complete, measuring {settings.eval_split} only")
                measure_again(settings, split, evaluation, before, facts, share, folder)
        if rank.is_main_process:
            write_classifier_card(settings, folder)
            push_trained(settings, folder, f"Classifier of {len(split.class_names)} classes")
            forget_failure(OutputFolder(folder).state)
        wait_for_everyone()


def train_and_save(
    settings: ClassifierSettings,
    split: Split,
    model_pin: Pin,
    synthetic: PublishedRows | None,
    evaluation: Split | None,
    facts: dict,
    share: Share,
    folder: Path,
) -> None:
    """Trains, measures, and writes the classifier's files. A collective. Raises `UserError`."""
    set_seed(settings.seed)
    model, preprocessing = build_for_training(
        model_pin,
        split.class_names,
        settings.image_size,
        settings.resize_size,
        settings.from_scratch,
    )
    model, share = ready_for_share(settings, model, preprocessing.size, share)
    check_loaders(settings, share, preprocessing.size, evaluation is not None)
    as_measured = preprocessing.evaluation()
    rows, validation = training_rows(settings, split, as_measured)
    images = training_images(
        settings, split, rows, synthetic, preprocessing.training(settings.augmentation)
    )
    counts = np.bincount(split.labels[rows], minlength=len(split.class_names))
    prior = balanced_softmax_prior(counts) if settings.loss == "balanced-softmax" else None
    checkpoints = OutputFolder(folder).checkpoints
    arguments = training_arguments(settings, share, checkpoints)
    log = TrainingLog(OutputFolder(folder).training_log)
    trainer = SampleTrainer(
        model,
        args=arguments,
        train_dataset=images,
        eval_dataset=validation,
        compute_loss_func=partial(
            classification_loss, label_smoothing=settings.label_smoothing_factor, log_prior=prior
        ),
        compute_metrics=accuracy_of,
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(TrainingBar(log, images))
    best = BestWeights(OutputFolder(folder).best_weights, log, settings.eval_steps)
    if validation is not None:
        trainer.add_callback(best)
    circumstances = {
        "precision": precision_of(settings),
        "batch_norm_samples": batch_norm_samples(model, share),
    }
    identity = identity_of(facts) | circumstances
    checkpoint = on_rank_zero(
        lambda: checkpoint_to_resume(checkpoints, settings.resume_from_checkpoint, identity)
    )
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    results: dict[str, Any] = {
        "base_license": stated_license(model_pin),
        "versions": versions(),
        "num_processes": arguments.world_size,
        **circumstances,
        "preprocessing": preprocessing.record(),
    }
    if validation is not None:
        results["validation"] = {"images": len(validation)} | best.load_into(model)
    if evaluation is not None:
        results |= evaluate_on(trainer, evaluation, as_measured, counts, settings)

    def write(working: Path) -> None:
        save_classifier(model, preprocessing, working)
        curve = log.curve()
        draw_curve(curve, working / LOSS_PICTURE)
        write_json(working / CLASSIFIER_FACTS, facts | results | {"loss_curve": curve})

    if trainer.is_world_process_zero():
        fill_folder(folder, write, last=CLASSIFIER_FACTS)
    wait_for_file(folder / CLASSIFIER_FACTS)  # a shared file system may show it late
    say(result_line(folder, settings, results))


def check_loaders(
    settings: ClassifierSettings, share: Share, size: int, is_evaluated: bool
) -> None:
    """Raises `UserError` if the data loaders' workers lack shared memory: they would hang."""
    validated = settings.validation_split is not None or settings.validation_share > 0
    # an evaluation batch is twice as large; during a validation both loaders have workers
    batches = 3 if validated else 2 if is_evaluated else 1
    images = share.batch_size * batches
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    check_shared_memory(
        loader_bytes(settings.dataloader_num_workers, images, size, ranks),
        f"{ranks * settings.dataloader_num_workers} workers of data loaders",
        "fewer --dataloader_num_workers (0 needs none), a smaller --per_device_train_batch_size, "
        "or ",
    )


def measure_again(
    settings: ClassifierSettings,
    split: Split,
    evaluation: Split,
    before: dict,
    facts: dict,
    share: Share,
    folder: Path,
) -> None:
    """Measures the finished classifier in the folder again, with other settings of the measurement.
    A collective. `before`: its classifier.json.
    """
    pin = on_rank_zero(lambda: resolve(str(folder)))
    classifier = Classifier(pin, torch.device("cpu"))
    rows, _ = training_rows(settings, split, classifier.transform)
    counts = np.bincount(split.labels[rows], minlength=len(split.class_names))
    arguments = training_arguments(settings, share, OutputFolder(folder).checkpoints)
    trainer = Trainer(model=classifier.model, args=arguments)
    results = evaluate_on(trainer, evaluation, classifier.transform, counts, settings)
    say(result_line(folder, settings, results))
    kept = {name: value for name, value in before.items() if name not in ("metrics", "groups")}
    changed = {name: facts[name] for name in ("settings", "eval_dataset")}
    if trainer.is_world_process_zero():
        write_json(folder / CLASSIFIER_FACTS, kept | results | changed)
    wait_for_everyone()


def load_evaluation(settings: ClassifierSettings, split: Split, pin: Pin | None) -> Split | None:
    """The usable rows of eval_split, from the dataset at `pin` if given; None without eval_split.
    Raises `UserError`.
    """
    if settings.eval_split is None:
        return None
    evaluation = load_evaluation_split(settings, settings.eval_split, split, pin)
    if settings.group_column is not None:
        attributes_of(evaluation, settings.group_column)
    return dataclasses.replace(evaluation, subset=evaluation.decodable())


def training_rows(
    settings: ClassifierSettings, split: Split, transform
) -> tuple[np.ndarray, EvaluationImages | None]:
    """The rows to train on, int64 (n,), and the validation images, if any. Raises `UserError`."""
    rows = usable_rows(settings, split)
    if settings.validation_split is not None:
        validation = load_evaluation_split(settings, settings.validation_split, split)
        return rows, EvaluationImages(validation, validation.decodable(), transform)
    if settings.validation_share == 0:
        return rows, None
    held = hold_out(split.labels, rows, settings.validation_share, settings.subset_seed)
    if not len(held):
        raise UserError(
            f"validation_share {settings.validation_share} of {len(rows)} images holds out none of "
            "any class: give a larger one"
        )
    return np.setdiff1d(rows, held), EvaluationImages(split, held, transform)


def classifier_facts(
    settings: ClassifierSettings,
    split: Split,
    model: Pin,
    synthetic: PublishedRows | None,
    eval_dataset: Pin | None = None,
) -> dict:
    """Identity of the training, for classifier.json: pins, subset, classes, recorded settings."""
    return {
        "subset": subset_record(settings, split),
        "model": str(model),
        "synthetic": str(synthetic.pin) if synthetic else None,
        "eval_dataset": str(eval_dataset) if eval_dataset else None,
        "class_names": split.class_names,
        "settings": recorded(settings),
    }


def identity_of(facts: dict) -> dict:
    """The facts that determine the weights, without those of the measurement. A checkpoint is
    resumed, or a training is finished, only if they match.
    """
    settings = {name: value for name, value in facts["settings"].items() if name not in MEASUREMENT}
    return {name: value for name, value in facts.items() if name != "eval_dataset"} | {
        "settings": settings
    }


def measurement_of(facts: dict) -> dict:
    """The facts that determine what is measured."""
    return {"eval_dataset": facts["eval_dataset"]} | {
        name: facts["settings"].get(name) for name in sorted(MEASUREMENT)
    }


if __name__ == "__main__":
    launch(main, ClassifierSettings)
