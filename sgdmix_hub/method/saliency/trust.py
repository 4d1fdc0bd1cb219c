"""The trust test: does a CAM's classifier read the foreground or the background?

A CAM shows what its classifier reads. If the classes of a domain have typical backgrounds, that may
be the background, and no threshold repairs the mask. The test shows the classifier images of which
only the inside or only the outside of a model-free mask is left.
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
from sgdmix_hub.errors import UnusableRow
from sgdmix_hub.method.masks import grabcut_mask, threshold_mask, widen

from .model_free import minimum_barrier_map

if TYPE_CHECKING:
    from sgdmix_hub.data.splits import Split
    from sgdmix_hub.models.classifier import Classifier

TRUST_ROWS = 256
BATCH = 16
# Share of the image size by which the foreground is widened before it is removed: the remaining
# outline would show its shape.
MARGIN = 0.03


@dataclass(frozen=True)
class Trust:
    """A classifier's accuracies in [0, 1] on the foregrounds and backgrounds of `images` images."""

    foreground_accuracy: float
    background_accuracy: float
    images: int

    @property
    def reads_background(self) -> bool:
        """Whether the classifier is more accurate on backgrounds than on foregrounds."""
        return self.background_accuracy > self.foreground_accuracy

    def __str__(self) -> str:
        return (
            f"right on {self.foreground_accuracy:.2f} of {self.images} images by their foreground "
            f"alone, on {self.background_accuracy:.2f} by their background alone{self._intervals()}"
        )

    def _intervals(self) -> str:
        """95 % Wilson intervals of both accuracies; empty without images."""
        if not self.images:
            return ""
        intervals = []
        for accuracy in (self.foreground_accuracy, self.background_accuracy):
            low, high = binomtest(round(accuracy * self.images), self.images).proportion_ci(
                method="wilson"
            )
            intervals.append(f"{low:.2f} to {high:.2f}")
        return f" (95 %: {', '.join(intervals)})"


def trust_test(classifier: Classifier, side: int, split: Split, resize: str) -> Trust:
    """Both accuracies on at most 256 of the subset's images, masked by minimum barrier and GrabCut.

    The drawn images are always the same. The classifier sees them whole, at side x side.
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
            logits = classifier.logits(torch.stack([halved[half] for halved in halves]))
            right[half] += np.sum(logits.argmax(-1).numpy() == labels)
    foreground, background = right / max(images, 1)
    return Trust(float(foreground), float(background), images)


def _halves(
    classifier: Classifier, side: int, image: Image.Image, resize: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The classifier's inputs, (3, side, side), of the foreground alone and the background alone.

    The rest is the classifier's mean colour, or black if it does not normalise.
    """
    pixels = np.asarray(square(image, side, resize))
    saliency_map = minimum_barrier_map(image, resize)
    coarse = threshold_mask(saliency_map, pixels.shape[0])
    mask = torch.from_numpy(grabcut_mask(pixels, saliency_map, coarse))
    wide = torch.from_numpy(widen(mask.numpy(), MARGIN))
    values = classifier.preprocessing.whole(image, side, resize)  # normalised: zero is the mean
    return values * mask, values * ~wide
