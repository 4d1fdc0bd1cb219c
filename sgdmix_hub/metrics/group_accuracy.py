"""Accuracy of a classifier by groups of images, as an `evaluate` metric."""

import datasets
import evaluate
import numpy as np

DESCRIPTION = "Accuracy of every group of images, one for each label and attribute (such as the background), their mean and the worst."


class GroupAccuracy(evaluate.Metric):
    """`compute(predictions=, references=, attributes=)` with integers -> what Waterbirds and its
    kin are measured by.

    A group is a pair (label, attribute) that occurs (Sagawa et al., ICLR 2020).
    - `worst_group_accuracy`, `mean_group_accuracy`, in [0, 1]: of the groups' accuracies, each
      group counting alike;
    - `groups`: a list of [label, attribute, images, accuracy], in order.
    """

    def _info(self):
        features = datasets.Features(
            {name: datasets.Value("int64") for name in ("predictions", "references", "attributes")}
        )
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation="", inputs_description="", features=features
        )

    def _compute(self, predictions, references, attributes):
        correct = np.asarray(predictions) == np.asarray(references)
        pairs, group = np.unique(
            np.stack([references, attributes], axis=1), axis=0, return_inverse=True
        )
        images = np.bincount(group)
        accuracies = np.bincount(group, weights=correct) / images
        groups = [
            [*map(int, pair), int(n), float(share)]
            for pair, n, share in zip(pairs, images, accuracies, strict=True)
        ]
        return {
            "worst_group_accuracy": float(accuracies.min()),
            "mean_group_accuracy": float(accuracies.mean()),
            "groups": groups,
        }
