"""An `evaluate` metric: accuracy of a classifier on groups of images."""

from typing import Any

import datasets
import evaluate
import numpy as np

DESCRIPTION = (
    "Accuracy of every group of images with the same label and attribute (such as the background), "
    "the mean of the groups and the worst."
)


class GroupAccuracy(evaluate.Metric):
    """`compute(predictions=, references=, attributes=)` with integers, for sets like Waterbirds.

    A group is a pair (label, attribute) that occurs (Sagawa et al., ICLR 2020). Returns:
    - `worst_group_accuracy`, in [0, 1]: the lowest accuracy of a group;
    - `mean_group_accuracy`, in [0, 1]: the unweighted mean over the groups;
    - `groups`: a sorted list of [label, attribute, images, accuracy].
    """

    def _info(self):
        features = datasets.Features(
            {name: datasets.Value("int64") for name in ("predictions", "references", "attributes")}
        )
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation="", inputs_description="", features=features
        )

    def _compute(self, **columns):
        return group_accuracy(**{name: np.asarray(column) for name, column in columns.items()})


def group_accuracy(
    predictions: np.ndarray, references: np.ndarray, attributes: np.ndarray
) -> dict[str, Any]:
    """The metric's figures, of integers (n,)."""
    pairs, group = np.unique(
        np.stack([references, attributes], axis=1), axis=0, return_inverse=True
    )
    images = np.bincount(group)
    accuracies = np.bincount(group, weights=predictions == references) / images
    groups = [
        [*map(int, pair), int(n), float(share)]
        for pair, n, share in zip(pairs, images, accuracies, strict=True)
    ]
    return {
        "worst_group_accuracy": float(accuracies.min()),
        "mean_group_accuracy": float(accuracies.mean()),
        "groups": groups,
    }
