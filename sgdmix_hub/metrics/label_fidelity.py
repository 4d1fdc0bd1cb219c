"""Whether synthetic images still show their labels, as a classifier sees them, as an `evaluate`
metric.

It is worth what the classifier is worth: one that reads backgrounds calls every good change of
background a lost label.
"""

import datasets
import evaluate
import numpy as np

DESCRIPTION = "Share of images that an independent classifier gives their label, overall and by class, and how sure of it it is."


class LabelFidelity(evaluate.Metric):
    """`compute(predictions=, references=, label_probabilities=)`, one entry an image -> what the
    classifier says of the labels.

    Columns:
    - `predictions`, `references`: integers, the class that the classifier sees and the label;
    - `label_probabilities`: its probability of the label, in [0, 1].

    Figures:
    - `label_fidelity`, in [0, 1]: share of the images that it gives their label;
    - `mean_class_label_fidelity`: the mean of the classes' shares (each class counts alike);
    - `mean_label_probability`: mean probability of the label;
    - `by_class`: a list of [label, images, label fidelity, mean probability], for the classes that
      occur, ascending.
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

    def _compute(self, predictions, references, label_probabilities):
        agrees = np.asarray(predictions) == np.asarray(references)
        probabilities = np.asarray(label_probabilities, np.float64)
        by_class = fidelity_by_class(agrees, probabilities, np.asarray(references))
        return {
            "label_fidelity": float(agrees.mean()),
            "mean_class_label_fidelity": float(np.mean([share for _, _, share, _ in by_class])),
            "mean_label_probability": float(probabilities.mean()),
            "by_class": by_class,
        }


def label_probabilities(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The probability of each row's label, (n,), of probabilities (n, classes) and integer labels
    (n,).
    """
    return np.take_along_axis(probabilities, np.asarray(labels)[:, None], axis=1)[:, 0]


def fidelity_by_class(
    agrees: np.ndarray, probabilities: np.ndarray, labels: np.ndarray
) -> list[list]:
    """[label, images, share that agrees, mean probability of the label] for every label that
    occurs, ascending.

    `agrees`: bool (n,); `probabilities`: of the label, (n,) in [0, 1]; `labels`: integers (n,).
    """
    return [
        [int(label), int(here.sum()), float(agrees[here].mean()), float(probabilities[here].mean())]
        for label in np.unique(labels)
        for here in [labels == label]
    ]
