"""Accuracy of a classifier, overall and averaged over classes, as an `evaluate` metric."""

import datasets
import evaluate
import numpy as np

DESCRIPTION = "Share of correct predictions, and its mean over the classes that occur (each class counts alike)."


class ClassAccuracy(evaluate.Metric):
    """`compute(predictions=, references=)` with integer labels -> `accuracy`,
    `mean_class_accuracy`, both in [0, 1].
    """

    def _info(self):
        features = datasets.Features(
            {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
        )
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation="", inputs_description="", features=features
        )

    def _compute(self, predictions, references):
        correct = np.asarray(predictions) == np.asarray(references)
        classes = np.asarray(references)
        by_class = [correct[classes == label].mean() for label in np.unique(classes)]
        return {"accuracy": float(correct.mean()), "mean_class_accuracy": float(np.mean(by_class))}
