"""What a trained classifier is worth on a split: accuracy, also by how many training images a class
had, and by groups of images.
"""

from __future__ import annotations

import numpy as np
import torch
from accelerate.utils import broadcast
from transformers import EvalPrediction, Trainer

from sgdmix_hub.data.splits import Split, attributes_of
from sgdmix_hub.metrics.class_accuracy import ClassAccuracy
from sgdmix_hub.metrics.group_accuracy import GroupAccuracy
from sgdmix_hub.metrics.shot_accuracy import ShotAccuracy
from sgdmix_hub.settings.training import ClassifierSettings


class EvaluationImages(torch.utils.data.Dataset):
    """Rows of a split as they are measured: nothing is drawn. Items: `pixel_values`, what
    `transform` makes of the image; `labels`, the class.
    """

    def __init__(self, split: Split, rows: np.ndarray, transform):
        self.split, self.rows, self.transform = split, rows, transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> dict:
        row = int(self.rows[position])
        return {
            "pixel_values": self.transform(self.split.image(row)),
            "labels": int(self.split.labels[row]),
        }


def share_buffers(model: torch.nn.Module) -> None:
    """Gives every process the buffers of rank 0, which are saved: after a step, running statistics
    (batch normalisation's) are each process's own, and images spread over processes would be
    measured with different ones. A collective.
    """
    broadcast(list(model.buffers()))


def accuracy_of(output: EvalPrediction) -> dict:
    """What the Trainer asks of its `compute_metrics`: `ClassAccuracy` of logits and labels."""
    return ClassAccuracy().compute(
        predictions=output.predictions.argmax(axis=-1), references=output.label_ids
    )


def evaluate_on(
    trainer: Trainer,
    split: Split,
    transform,
    train_counts: np.ndarray,
    settings: ClassifierSettings,
) -> dict:
    """Facts of a measurement on the subset of a split, all of whose images can be decoded.
    `train_counts`: the training images of each class, int64 (classes,). A collective.

    `metrics`: figures in [0, 1] by name; those by shots are there when the thresholds separate
    classes. `groups`, where the settings name their column: [label, attribute, images, accuracy] of
    each, in words. Raises `UserError` when there is no such column.
    """
    share_buffers(trainer.model)
    rows = split.subset
    output = trainer.predict(EvaluationImages(split, rows, transform))
    labels = {"predictions": output.predictions.argmax(axis=-1), "references": output.label_ids}
    metrics = ClassAccuracy().compute(**labels)
    thresholds = {"many_shot": settings.many_shot, "few_shot": settings.few_shot}
    by_shots = ShotAccuracy().compute(**labels, train_counts=train_counts, **thresholds)
    if len(by_shots) > 1:
        metrics |= by_shots
    if settings.group_column is None:
        return {"metrics": metrics}
    attributes, names = attributes_of(split, settings.group_column)
    by_group = GroupAccuracy().compute(**labels, attributes=attributes[rows])
    groups = by_group.pop("groups")
    return {
        "metrics": metrics | by_group,
        "groups": [
            [split.class_names[label], names[attribute], images, share]
            for label, attribute, images, share in groups
        ],
    }
