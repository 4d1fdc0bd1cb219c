"""The judge, a linear head on frozen features, and the trust test by class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from parts.photograph_shift.classifiers import tensor
from parts.photograph_shift.task import Images
from parts.solar_cells.cells import CLASSES
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from sgdmix_hub.data.images import square
from sgdmix_hub.data.splits import Split
from sgdmix_hub.method.saliency.trust import Trust, trust_test

Features = Callable[[torch.Tensor], np.ndarray]


class Judge:
    """Trained on cells and their mirror images. It has what the trust test needs."""

    def __init__(self, features: Features, cells: Images):
        self.features, self.preprocessing = features, self
        inputs = tensor(cells.pixels)
        known = features(torch.cat([inputs, inputs.flip(3)]))
        head = LogisticRegression(C=0.1, max_iter=300)
        self.head: Pipeline = make_pipeline(StandardScaler(), head)
        self.head.fit(known, np.tile(cells.labels, 2))

    def whole(self, image: Image.Image, side: int, resize: str) -> torch.Tensor:
        """float32 (3, side, side), normalised: zero is the mean colour."""
        return tensor(np.asarray(square(image, side, resize))[None])[0]

    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        """float32 (n, 2) of inputs (n, 3, side, side)."""
        defective = self.head.decision_function(self.features(inputs))
        return torch.from_numpy(np.stack([-defective, defective], axis=1) / 2)

    def predict(self, pixels: np.ndarray) -> np.ndarray:
        """Labels int64 (n,) of RGB images uint8 (n, h, w, 3)."""
        if not len(pixels):
            return np.zeros(0, np.int64)
        return self.logits(tensor(pixels)).argmax(1).numpy()


def trust_by_class(classifier, side: int, split: Split, resize: str) -> dict[str, list[float]]:
    """Class -> accuracy on foregrounds alone and on backgrounds alone, of the split's subset."""
    found = {}
    for label, name in enumerate(CLASSES):
        rows = split.subset[split.labels[split.subset] == label]
        trust = trust_test(classifier, side, replace(split, subset=rows), resize)
        found[name] = [trust.foreground_accuracy, trust.background_accuracy]
    return found


def warns(by_class: dict[str, list[float]]) -> bool:
    """Whether the test of both classes together, which are equally large, would warn."""
    foreground, background = np.mean(list(by_class.values()), axis=0)
    return Trust(float(foreground), float(background), 0).reads_background


def lost(predicted: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    """Class -> the share of its images that a judge takes for the other; None if it has none."""
    wrong = {name: predicted[labels == label] != label for label, name in enumerate(CLASSES)}
    return {name: float(seen.mean()) if len(seen) else None for name, seen in wrong.items()}
