"""Trains an image classifier on real images, or on real images of which some are replaced by synthetic ones.

The same program makes the classifier that saliency looks through and the downstream classifiers that show whether a dataset helps.
Writes into `output_dir`: the model (safetensors), its image processor, and `classifier.json` (pins, subset, settings, accuracy).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from torchvision.transforms import v2
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    ProgressCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from .cam import processor_size
from .config import ClassifierSettings, UserError, first_line
from .data import Split, load_evaluation_split, load_split, subset_record
from .inputs import CLASSIFIER_FACTS
from .metrics.class_accuracy import ClassAccuracy
from .pins import MODEL_FILES, Pin, local_folder, resolve
from .processes import is_finished, launch, on_rank_zero, replace_folder, say, start_processes, stop_if_requested, wait_for_file, write_json
from .published import PublishedRows, load_published


class TrainingImages(torch.utils.data.Dataset):
    """Real images of a subset; with a probability, an image is replaced by one of the synthetic images made from it.

    Every epoch is as long as the real subset, so runs with and without synthetic images make the same number of updates.
    """

    def __init__(self, split: Split, rows: np.ndarray, transform, synthetic: PublishedRows | None, probability: float):
        self.split = split
        self.rows = rows
        self.transform = transform
        self.synthetic = synthetic
        self.probability = probability

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> dict:
        row = int(self.rows[position])
        image = self._synthetic(row) if torch.rand(()) < self.probability else None
        if image is None:
            image = self.split.image(row)
        return {"pixel_values": self.transform(image), "labels": int(self.split.labels[row])}

    def _synthetic(self, row: int):
        made = self.synthetic.made_from(row)
        return self.synthetic.image(made[int(torch.randint(len(made), ()))]) if made else None


class TrainingBar(ProgressCallback):
    """The Trainer's bar over the updates, without its printed dictionaries and its second bar for the evaluation; heeds SIGTERM."""

    def on_step_end(self, args, state, control, **kwargs):
        super().on_step_end(args, state, control, **kwargs)
        stop_if_requested()

    def on_log(self, args, state, control, logs=None, **kwargs):
        pass

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        pass


def training_transform(processor, size: int) -> v2.Compose:
    """Random crops and flips, then the image processor's normalisation."""
    return v2.Compose([v2.RandomResizedCrop(size, scale=(0.6, 1.0), antialias=True), v2.RandomHorizontalFlip(), *_to_input(processor)])


def evaluation_transform(processor, size: int) -> v2.Compose:
    """The whole image at the input size."""
    return v2.Compose([v2.Resize((size, size), antialias=True), *_to_input(processor)])


def _to_input(processor) -> list:
    return [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(processor.image_mean, processor.image_std)]


def build_model(model: Pin, class_names: list[str], from_scratch: bool):
    """The classifier with a head for these classes, and its image processor. Raises `UserError` when it cannot be loaded."""
    names = {"id2label": dict(enumerate(class_names)), "label2id": {name: i for i, name in enumerate(class_names)}}
    try:
        folder = local_folder(model, MODEL_FILES)
        processor = AutoImageProcessor.from_pretrained(folder)
        if from_scratch:
            config = AutoConfig.from_pretrained(folder, num_labels=len(class_names), **names)
            return AutoModelForImageClassification.from_config(config), processor
        network = AutoModelForImageClassification.from_pretrained(
            folder, num_labels=len(class_names), ignore_mismatched_sizes=True, use_safetensors=True, **names
        )
        return network, processor
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load the classifier {model.name}: {first_line(error)}") from error


def evaluate_on(trainer: Trainer, split: Split, transform) -> dict:
    """Accuracy on a whole split."""
    images = TrainingImages(split, split.decodable(), transform, None, 0.0)
    output = trainer.predict(images)
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
        label_smoothing_factor=settings.label_smoothing_factor,
        dataloader_num_workers=settings.dataloader_num_workers,
        seed=settings.seed,
        use_cpu=not torch.cuda.is_available(),
        accelerator_config={"use_configured_state": True},
        ddp_find_unused_parameters=False,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=False,
        remove_unused_columns=False,
    )


def main(settings: ClassifierSettings) -> None:
    """One training. Raises `UserError`."""
    folder = Path(settings.output_dir)
    state = start_processes(settings.num_threads)
    split = load_split(settings, on_rank_zero(lambda: resolve(settings.dataset_name, repo_type="dataset")))
    model_pin = on_rank_zero(lambda: resolve(settings.model))
    synthetic = load_published(settings.synthetic, settings.synthetic_config_name) if settings.synthetic else None
    facts = classifier_facts(settings, split, model_pin, synthetic)
    if on_rank_zero(lambda: is_finished(folder / CLASSIFIER_FACTS, facts)):
        say(f"classifier: {folder} is complete, nothing to do")
        return
    if synthetic is not None:
        synthetic.check_made_from(split, facts["subset"])
    set_seed(settings.seed)
    model, processor = build_model(model_pin, split.class_names, settings.from_scratch)
    size = settings.image_size or processor_size(processor)
    probability = settings.synthetic_probability if synthetic else 0.0
    images = TrainingImages(split, split.decodable(), training_transform(processor, size), synthetic, probability)
    trainer = Trainer(model=model, args=training_arguments(settings, folder), train_dataset=images)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(TrainingBar)
    trainer.train()
    if settings.eval_split:
        evaluation = load_evaluation_split(settings, settings.eval_split, like=split)
        facts["metrics"] = evaluate_on(trainer, evaluation, evaluation_transform(processor, size))

    def save(working: Path) -> None:
        trainer.model.save_pretrained(working)
        with_size(processor, size).save_pretrained(working)
        write_json(working / CLASSIFIER_FACTS, facts)

    if state.is_main_process:
        replace_folder(folder, save)
    state.wait_for_everyone()
    wait_for_file(folder / CLASSIFIER_FACTS)  # a shared file system may show it late


def with_size(processor, size: int):
    """The image processor at the size that was trained with."""
    processor.size = {"shortest_edge": size} if "shortest_edge" in processor.size else {"height": size, "width": size}
    if getattr(processor, "crop_size", None):
        processor.crop_size = {"height": size, "width": size}
    return processor


def classifier_facts(settings: ClassifierSettings, split: Split, model: Pin, synthetic: PublishedRows | None) -> dict:
    """What classifier.json says: pins, subset, classes, settings without places and speed."""
    left_out = {"output_dir", "dataset_name", "model", "synthetic", "num_threads", "dataloader_num_workers"}
    return {
        "subset": subset_record(settings, split),
        "model": str(model),
        "synthetic": str(synthetic.pin) if synthetic else None,
        "class_names": split.class_names,
        "settings": {name: value for name, value in dataclasses.asdict(settings).items() if name not in left_out},
    }


if __name__ == "__main__":
    launch(main, ClassifierSettings)
