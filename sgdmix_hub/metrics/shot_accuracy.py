"""An `evaluate` metric: accuracy on classes with many, medium and few training images."""

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np

DESCRIPTION = "Mean class accuracy of the classes with many, medium and few training images."


class ShotAccuracy(evaluate.Metric):
    """`compute(predictions=, references=, train_counts=, many_shot=, few_shot=)`.

    Columns: `predictions`, `references`, integer labels. `train_counts`: training images of each
    class. Many-shot classes have more than `many_shot`, few-shot ones less than `few_shot` training
    images: 100 and 20 on ImageNet-LT (Liu et al., CVPR 2019).

    Returns `many_shot_accuracy`, `medium_shot_accuracy`, `few_shot_accuracy`, in [0, 1]: unweighted
    means over classes. A group without test images is left out.
    """

    def _info(self):
        features = datasets.Features(
            {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
        )
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation="", inputs_description="", features=features
        )

    def _compute(self, *, predictions=None, references=None, **groups):
        return shot_accuracy(np.asarray(predictions), np.asarray(references), **groups)


def shot_accuracy(
    predictions: np.ndarray,
    references: np.ndarray,
    train_counts: Sequence[int],
    many_shot: int,
    few_shot: int,
) -> dict[str, float]:
    """The metric's figures, of integer labels (n,) and counts (classes,)."""
    classes, index, images = np.unique(references, return_inverse=True, return_counts=True)
    accuracies = np.bincount(index, weights=predictions == references) / images
    counts = np.asarray(train_counts)[classes]
    many, few = counts > many_shot, counts < few_shot
    parts = {"many": many, "medium": ~many & ~few, "few": few}
    return {
        f"{name}_shot_accuracy": float(accuracies[part].mean())
        for name, part in parts.items()
        if part.any()
    }
