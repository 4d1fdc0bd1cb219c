"""A trained classifier's accuracy on a split: overall, by shots, and by groups of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast
from evaluate import Metric
from PIL import Image
from transformers import EvalPrediction, Trainer

from sgdmix_hub.data.splits import Split, attributes_of
from sgdmix_hub.metrics.class_accuracy import ClassAccuracy
from sgdmix_hub.metrics.group_accuracy import GroupAccuracy
from sgdmix_hub.metrics.shot_accuracy import ShotAccuracy
from sgdmix_hub.settings.training import ClassifierSettings


class EvaluationImages(torch.utils.data.Dataset):
    """Rows of a split for evaluation, without randomness.

    Items: `pixel_values`, the transformed image; `labels`, the class.
    """

    def __init__(
        self, split: Split, rows: np.ndarray, transform: Callable[[Image.Image], torch.Tensor]
    ):
        self.split, self.rows, self.transform = split, rows, transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        row = int(self.rows[index])
        return {
            "pixel_values": self.transform(self.split.image(row)),
            "labels": int(self.split.labels[row]),
        }


def share_buffers(model: torch.nn.Module) -> None:
    """Gives every process rank 0's buffers, which are the ones that are saved. Collective.

    Batch normalisation's running statistics differ between processes, which would then evaluate
    their shares of the images with different models.
    """
    broadcast(list(model.buffers()))


def accuracy_of(output: EvalPrediction) -> dict:
    """The Trainer's `compute_metrics`: `ClassAccuracy` of logits and labels."""
    return _computed(ClassAccuracy(), **_predicted(output))


def _predicted(output: Any) -> dict[str, np.ndarray]:
    """Predicted and true labels, int64 (n,) each, of a Trainer's logits."""
    return {"predictions": output.predictions.argmax(axis=-1), "references": output.label_ids}


def _computed(metric: Metric, **values: Any) -> dict:
    figures = metric.compute(**values)
    assert figures is not None  # only in the other processes of a distributed metric
    return figures


def evaluate_on(
    trainer: Trainer,
    split: Split,
    transform: Callable[[Image.Image], torch.Tensor],
    train_counts: np.ndarray,
    settings: ClassifierSettings,
) -> dict:
    """Evaluates on the subset of a split, whose images all decode. Collective.

    `train_counts`: training images of each class, int64 (classes,). Returns `metrics`: figures in
    [0, 1] by name, by shots only if the thresholds separate classes; and, if the settings name a
    group column, `groups`: [class, attribute, images, accuracy] of each. Raises `UserError` if that
    column is missing.
    """
    assert trainer.model is not None
    share_buffers(trainer.model)
    rows = split.subset
    labels = _predicted(trainer.predict(EvaluationImages(split, rows, transform)))
    metrics = _computed(ClassAccuracy(), **labels)
    thresholds = {"many_shot": settings.many_shot, "few_shot": settings.few_shot}
    by_shots = _computed(ShotAccuracy(), **labels, train_counts=train_counts, **thresholds)
    if len(by_shots) > 1:
        metrics |= by_shots
    if settings.group_column is None:
        return {"metrics": metrics}
    attributes, names = attributes_of(split, settings.group_column)
    by_group = _computed(GroupAccuracy(), **labels, attributes=attributes[rows])
    groups = by_group.pop("groups")
    return {
        "metrics": metrics | by_group,
        "groups": [
            [split.class_names[label], names[attribute], images, share]
            for label, attribute, images, share in groups
        ],
    }
