"""Trains an image classifier on real images, or on real and synthetic ones.

The same program makes the classifier that saliency looks through and the downstream classifiers that show whether a dataset helps.
Writes into `output_dir`: the model (safetensors), its image processor, `classifier.json` (pins, subset, settings, accuracy), a card; the
checkpoints, from which the same command goes on, are in `state/`.
"""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from transformers import ProgressCallback, Trainer, TrainingArguments, set_seed

from .cam import processor_size
from .classifiers import build_model, evaluation_transform, training_transform, with_size
from .config import UserError
from .data import Split, load_evaluation_split, load_split, subset_record
from .inputs import CLASSIFIER_FACTS, versions
from .licences import stated_license
from .losses import classification_loss
from .metrics.class_accuracy import ClassAccuracy
from .model_cards import write_classifier_card
from .pins import Pin, resolve
from .processes import (
    different_facts,
    fill_folder,
    is_finished,
    launch,
    lock_folder,
    on_rank_zero,
    read_json,
    say,
    start_processes,
    stop_if_requested,
    wait_for_file,
    write_json,
)
from .published import PublishedRows, load_published
from .training_images import EvaluationImages, TrainingImages, training_images
from .training_log import TrainingLog, check_tracker, draw_curve
from .training_push import check_push, push_trained
from .training_settings import ClassifierSettings, recorded

LOSS_PICTURE = "assets/loss.png"


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

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and "loss" in logs:
            self.log.append({"step": state.global_step, "loss": logs["loss"], "lr": logs["learning_rate"]})

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        pass


def evaluate_on(trainer: Trainer, split: Split, transform) -> dict:
    """Accuracy on a whole split."""
    output = trainer.predict(EvaluationImages(split, split.decodable(), transform))
    predictions = output.predictions.argmax(axis=-1)
    return ClassAccuracy().compute(predictions=predictions, references=output.label_ids)


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
    elif record.exists() and (different := different_facts(read_json(record), identity)):
        raise UserError(
            f"{folder} has checkpoints of another training ({', '.join(different)} differ): start over with --resume_from_checkpoint none, "
            "or choose another --output_dir"
        )
    write_json(record, identity)
    finished = [path for path in folder.glob("checkpoint-*") if is_whole(path)]
    if which in ("latest", "none"):
        return max(finished, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    if Path(which) not in finished:
        raise UserError(f"{which} is no checkpoint of this training: give latest, none, or a folder like {folder / 'checkpoint-500'}")
    return Path(which)


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end: the Trainer writes trainer_state.json last, which a kill may cut off."""
    try:
        read_json(checkpoint / "trainer_state.json")
    except (FileNotFoundError, ValueError):
        return False
    return True


def main(settings: ClassifierSettings) -> None:
    """One training. Raises `UserError`, `Preempted`."""
    folder = Path(settings.output_dir)
    processes = start_processes(settings.num_threads)
    with lock_folder(folder / "state") if processes.is_main_process else nullcontext():
        check_tracker(settings.report_to)
        on_rank_zero(lambda: check_push(settings))
        split = load_split(settings, on_rank_zero(lambda: resolve(settings.dataset_name, repo_type="dataset")))
        model_pin = on_rank_zero(lambda: resolve(settings.model))
        synthetic = load_published(settings.synthetic, settings.synthetic_config_name) if settings.synthetic else None
        facts = classifier_facts(settings, split, model_pin, synthetic)
        if on_rank_zero(lambda: is_finished(folder / CLASSIFIER_FACTS, facts)):
            say(f"classifier: {folder} is complete, nothing to train")
        else:
            if synthetic is not None:
                synthetic.check_made_from(split, facts["subset"])
            train_and_save(settings, split, model_pin, synthetic, facts, folder)
        if processes.is_main_process:
            write_classifier_card(settings, folder)
            push_trained(settings, folder, f"Classifier of {len(split.class_names)} classes")
            (folder / "state" / "error.json").unlink(missing_ok=True)
        processes.wait_for_everyone()


def train_and_save(
    settings: ClassifierSettings, split: Split, model_pin: Pin, synthetic: PublishedRows | None, facts: dict, folder: Path
) -> None:
    """Trains, measures, and puts the classifier's files into the folder. A collective. Raises `UserError`."""
    set_seed(settings.seed)
    model, processor = build_model(model_pin, split.class_names, settings.from_scratch)
    size = settings.image_size or processor_size(processor)
    images = training_images(settings, split, synthetic, training_transform(processor, size, settings.augmentation))
    arguments = training_arguments(settings, folder / "state" / "checkpoints")
    log = TrainingLog(folder / "state" / "log.jsonl")
    loss = partial(classification_loss, label_smoothing=settings.label_smoothing_factor)
    trainer = Trainer(model=model, args=arguments, train_dataset=images, compute_loss_func=loss)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(TrainingBar(log, images))
    identity = facts | {"num_processes": arguments.world_size}
    checkpoint = on_rank_zero(lambda: checkpoint_to_resume(Path(arguments.output_dir), settings.resume_from_checkpoint, identity))
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    found = {"base_license": stated_license(model_pin), "versions": versions(), "num_processes": arguments.world_size}
    if settings.eval_split:
        evaluation = load_evaluation_split(settings, settings.eval_split, like=split)
        found["metrics"] = evaluate_on(trainer, evaluation, evaluation_transform(processor, size))

    def write(working: Path) -> None:
        trainer.model.save_pretrained(working)
        with_size(processor, size).save_pretrained(working)
        curve = log.curve()
        draw_curve(curve, working / LOSS_PICTURE)
        write_json(working / CLASSIFIER_FACTS, facts | found | {"loss_curve": curve})

    if trainer.is_world_process_zero():
        fill_folder(folder, write, last=CLASSIFIER_FACTS)
    wait_for_file(folder / CLASSIFIER_FACTS)  # a shared file system may show it late


def classifier_facts(settings: ClassifierSettings, split: Split, model: Pin, synthetic: PublishedRows | None) -> dict:
    """What classifier.json says: pins, subset, classes, settings without places and speed."""
    return {
        "subset": subset_record(settings, split),
        "model": str(model),
        "synthetic": str(synthetic.pin) if synthetic else None,
        "class_names": split.class_names,
        "settings": recorded(settings),
    }


if __name__ == "__main__":
    launch(main, ClassifierSettings)
