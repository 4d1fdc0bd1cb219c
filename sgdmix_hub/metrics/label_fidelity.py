"""An `evaluate` metric: whether a classifier still recognises the labels of synthetic images.

The metric depends on the classifier: one that reads backgrounds takes every good change of
background for a lost label.
"""

from typing import Any

import datasets
import evaluate
import numpy as np

DESCRIPTION = (
    "Share of images that an independent classifier assigns to their label, overall and by class, "
    "and the mean probability of the label."
)


class LabelFidelity(evaluate.Metric):
    """`compute(predictions=, references=, label_probabilities=)`, one entry per image.

    Columns:
    - `predictions`, `references`: integers, the predicted class and the label;
    - `label_probabilities`: the classifier's probability of the label, in [0, 1].

    Returns:
    - `label_fidelity`, in [0, 1]: share of the images whose predicted class is their label;
    - `mean_class_label_fidelity`: unweighted mean of that share over the classes;
    - `mean_label_probability`: mean probability of the label;
    - `by_class`: a sorted list of [label, images, label fidelity, mean probability] of the classes
      that occur.
    """

    def _info(self):
        integer = datasets.Value("int64")
        features = {
            "predictions": integer,
            "references": integer,
            "label_probabilities": datasets.Value("float64"),
        }
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description="",
            features=datasets.Features(features),
        )

    def _compute(self, **columns):
        return label_fidelity(**{name: np.asarray(column) for name, column in columns.items()})


def label_fidelity(
    predictions: np.ndarray, references: np.ndarray, label_probabilities: np.ndarray
) -> dict[str, Any]:
    """The metric's figures, of integers (n,) and probabilities (n,)."""
    agrees, probabilities = predictions == references, label_probabilities.astype(np.float64)
    by_class = fidelity_by_class(agrees, probabilities, references)
    return {
        "label_fidelity": float(agrees.mean()),
        "mean_class_label_fidelity": float(np.mean([share for _, _, share, _ in by_class])),
        "mean_label_probability": float(probabilities.mean()),
        "by_class": by_class,
    }


def label_probabilities(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The probability of each row's label, (n,), from (n, classes) and integer labels (n,)."""
    return np.take_along_axis(probabilities, np.asarray(labels)[:, None], axis=1)[:, 0]


def fidelity_by_class(
    agrees: np.ndarray, probabilities: np.ndarray, labels: np.ndarray
) -> list[list]:
    """[label, images, share that agrees, mean probability] of every label that occurs, sorted.

    `agrees`: bool (n,); `probabilities`: of the label, (n,) in [0, 1]; `labels`: integers (n,).
    """
    return [
        [int(label), int(here.sum()), float(agrees[here].mean()), float(probabilities[here].mean())]
        for label in np.unique(labels)
        for here in [labels == label]
    ]
