"""How much a mask can be trusted: the chance that it is good enough to mix with.

Good is a mask that keeps at least .9 of the true foreground, at an IoU of at least .7. The chance
comes from a logistic model of what can be seen of a mask without knowing the truth. There are two:
for the masks of `consensus`, and for soft masks that a model predicted. Their weights were fitted
on photographs with true masks; benchmarks/masks.py and benchmarks/soft_confidence.py show the
reliability on others.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from sgdmix_hub.data.images import resize_mask

from .masks import threshold
from .outlines import SIZE

BINS = 8  # of each Lab channel in a colour histogram
LAB_LOWEST, LAB_RANGE = np.array([0.0, -60.0, -60.0]), np.array([100.0, 120.0, 120.0])


@dataclass(frozen=True)
class Chance:
    """A logistic model: what is seen of a mask -> its weight in the log-odds, and the bias."""

    weights: dict[str, float]
    bias: float

    def of(self, seen: dict[str, float]) -> float:
        """The chance, in [0, 1], of what `evidence` gives."""
        odds = self.bias + sum(weight * seen[name] for name, weight in self.weights.items())
        return float(1 / (1 + np.exp(-odds)))


# benchmarks/mask_confidence.py. Contrast and sharpness of the outline made the order no better.
CONSENSUS = Chance(
    {"frame": -1.15, "area": 0.75, "largest": 14.27, "separation": 7.1, "levels": 12.22}, -29.55
)
# benchmarks/soft_confidence.py, on the masks of IS-Net.
PREDICTED = Chance({"frame": -15.7, "levels": 29.58}, -26.22)


def confidence(
    lab: np.ndarray, mask: np.ndarray, saliency_map: np.ndarray, chance: Chance = CONSENSUS
) -> float:
    """The chance that a mask, bool (size, size), is good, in [0, 1]; 0 if it is empty or full.

    `lab`: the image as `outlines.small_lab` gives it; `saliency_map`: float (h, w), that the mask
    was cut from; `chance`: of masks of this kind.
    """
    if not mask.any() or mask.all():
        return 0.0
    return chance.of(evidence(lab, mask, saliency_map))


def evidence(lab: np.ndarray, mask: np.ndarray, saliency_map: np.ndarray) -> dict[str, float]:
    """What is seen of a mask that is neither empty nor full: the names that a `Chance` weighs.

    - `frame`: share of the image's frame that it covers;
    - `area`: the logarithm of its share of the image;
    - `largest`: share of its largest connected part;
    - `separation`: 1 minus the overlap of the colour histograms inside and outside;
    - `levels`: how far its map has two levels (`two_levels`).
    """
    small = resize_mask(mask, SIZE)
    frame = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]])
    return {
        "frame": float(frame.mean()),
        "area": float(np.log(small.mean() + 0.01)),
        "largest": largest_share(small),
        "separation": separation(lab, small),
        "levels": two_levels(saliency_map, saliency_map > threshold(saliency_map)),
    }


def largest_share(mask: np.ndarray) -> float:
    """The share of a bool mask that its largest 8-connected part has; 0 if it is empty."""
    _, _, facts, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = facts[1:, cv2.CC_STAT_AREA]
    return float(areas.max() / areas.sum()) if len(areas) else 0.0


def separation(lab: np.ndarray, mask: np.ndarray) -> float:
    """1 minus the overlap of the Lab histograms inside and outside a mask of the image's size."""
    if not mask.any() or mask.all():
        return 0.0
    cells = np.clip((lab - LAB_LOWEST) / LAB_RANGE * BINS, 0, BINS - 1).astype(int)
    numbers = (cells[..., 0] * BINS + cells[..., 1]) * BINS + cells[..., 2]
    inside, outside = (
        np.bincount(numbers[part], minlength=BINS**3) / part.sum() for part in (mask, ~mask)
    )
    return float(1 - np.minimum(inside, outside).sum())


def two_levels(saliency_map: np.ndarray, parted: np.ndarray) -> float:
    """The share of a map's variance that lies between a bool part of it and the rest (Otsu's
    criterion), in [0, 1]; 0 if either is empty or the map is constant.
    """
    variance = float(saliency_map.var())
    if not parted.any() or parted.all() or variance == 0:
        return 0.0
    share = parted.mean()
    between = saliency_map[parted].mean() - saliency_map[~parted].mean()
    return float(share * (1 - share) * between**2 / variance)
