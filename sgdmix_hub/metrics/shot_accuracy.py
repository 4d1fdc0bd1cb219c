"""Accuracy of a classifier on classes with many, a medium number of and few training images, as an
`evaluate` metric.
"""

import datasets
import evaluate
import numpy as np

DESCRIPTION = (
    "Mean class accuracy over the classes with many, a medium number of and few training images."
)


class ShotAccuracy(evaluate.Metric):
    """`compute(predictions=, references=, train_counts=, many_shot=, few_shot=)` with integer
    labels -> `many_shot_accuracy`, `medium_shot_accuracy`, `few_shot_accuracy`, in [0, 1], each
    where it has a class with test images.

    `train_counts`: training images of each class. Many are more than `many_shot`, few are less than
    `few_shot`: 100 and 20 on ImageNet-LT (Liu et al., CVPR 2019). Classes count alike.
    """

    def _info(self):
        features = datasets.Features(
            {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
        )
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation="", inputs_description="", features=features
        )

    def _compute(self, predictions, references, train_counts, many_shot, few_shot):
        correct = np.asarray(predictions) == np.asarray(references)
        classes, of_class, images = np.unique(references, return_inverse=True, return_counts=True)
        accuracies = np.bincount(of_class, weights=correct) / images
        counts = np.asarray(train_counts)[classes]
        many, few = counts > many_shot, counts < few_shot
        parts = {"many": many, "medium": ~many & ~few, "few": few}
        return {
            f"{name}_shot_accuracy": float(accuracies[part].mean())
            for name, part in parts.items()
            if part.any()
        }
