"""An `evaluate` metric: accuracy of a classifier, over all images and averaged over classes."""

import datasets
import evaluate
import numpy as np

DESCRIPTION = "Accuracy over all images, and the mean of the accuracies of the classes that occur."


class ClassAccuracy(evaluate.Metric):
    """`compute(predictions=, references=)` with integer labels.

    Returns `accuracy` and `mean_class_accuracy`, both in [0, 1].
    """

    def _info(self):
        features = datasets.Features(
            {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
        )
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation="", inputs_description="", features=features
        )

    def _compute(self, **columns):
        return class_accuracy(**{name: np.asarray(column) for name, column in columns.items()})


def class_accuracy(predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """The metric's figures, of integer labels (n,)."""
    correct = predictions == references
    by_class = [correct[references == label].mean() for label in np.unique(references)]
    return {"accuracy": float(correct.mean()), "mean_class_accuracy": float(np.mean(by_class))}
