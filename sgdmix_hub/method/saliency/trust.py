"""The trust test of a domain: does the classifier that a CAM looks through read the foreground or
the background?

Its maps find what it reads. One that was trained where classes come with their own backgrounds
finds the backgrounds, and no threshold mends that; so it is shown images of which only one side of
a model-free mask is left.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from scipy.stats import binomtest

from sgdmix_hub.data.images import square
from sgdmix_hub.data.splits import Split
from sgdmix_hub.errors import UnusableRow
from sgdmix_hub.method.masks import grabcut_mask, threshold_mask, widen

from .model_free import minimum_barrier_map

if TYPE_CHECKING:
    from sgdmix_hub.models.classifier import Classifier

TRUST_ROWS = 256
BATCH = 16
MARGIN = 0.03  # share of the image size by which the foreground is widened before it is taken away: an edge gives it away


@dataclass(frozen=True)
class Trust:
    """How often the classifier is right, in [0, 1], when it sees only the foreground, and only the
    background, of `images` images.
    """

    foreground_accuracy: float
    background_accuracy: float
    images: int

    @property
    def reads_background(self) -> bool:
        """Whether the background tells this classifier more than the foreground does."""
        return self.background_accuracy > self.foreground_accuracy

    def __str__(self) -> str:
        return (
            f"right on {self.foreground_accuracy:.2f} of {self.images} images by their foreground alone, "
            f"on {self.background_accuracy:.2f} by their background alone{self._intervals()}"
        )

    def _intervals(self) -> str:
        """How far chance may have moved both: 95 % Wilson intervals; nothing without images."""
        if not self.images:
            return ""
        found = []
        for accuracy in (self.foreground_accuracy, self.background_accuracy):
            low, high = binomtest(round(accuracy * self.images), self.images).proportion_ci(
                method="wilson"
            )
            found.append(f"{low:.2f} to {high:.2f}")
        return f" (95 %: {', '.join(found)})"


def trust_test(classifier: Classifier, side: int, split: Split, resize: str) -> Trust:
    """Both accuracies on at most 256 of the subset's images, always the same, whole, as inputs of
    side x side, with the masks of minimum barrier and GrabCut.
    """
    drawn = np.sort(np.random.default_rng(0).permutation(split.subset)[:TRUST_ROWS])
    right, images = np.zeros(2), 0
    for start in range(0, len(drawn), BATCH):
        halves, labels = [], []
        for row in drawn[start : start + BATCH]:
            with suppress(UnusableRow):
                halves.append(_halves(classifier, side, split.image(row), resize))
                labels.append(int(split.labels[row]))
        images += len(labels)
        for half in range(2 if labels else 0):
            predicted = (
                classifier.logits(torch.stack([halved[half] for halved in halves]))
                .argmax(-1)
                .numpy()
            )
            right[half] += np.sum(predicted == labels)
    foreground, background = right / max(images, 1)
    return Trust(float(foreground), float(background), images)


def _halves(
    classifier: Classifier, side: int, image: Image.Image, resize: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The classifier's input with the foreground alone and with the background alone, (3, side,
    side) each; the rest is its mean colour, or black where it has none.
    """
    pixels = np.asarray(square(image, side, resize))
    saliency_map = minimum_barrier_map(image, resize)
    mask = torch.from_numpy(
        grabcut_mask(pixels, saliency_map, threshold_mask(saliency_map, pixels.shape[0]))
    )
    wide = torch.from_numpy(widen(mask.numpy(), MARGIN))
    values = classifier.preprocessing.whole(image, side, resize)  # normalised: zero is the mean
    return values * mask, values * ~wide
