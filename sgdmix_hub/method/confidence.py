"""How much a mask can be trusted: the chance that it is good enough to mix with.

Good is a mask that keeps at least .9 of the true foreground, at an IoU of at least .7. The chance
comes from a logistic model of what can be seen of a mask without knowing the truth. Its weights
were fitted on photographs and on the demo's birds with true masks; benchmarks/masks.py shows the
reliability on others.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from sgdmix_hub.data.images import resize_mask

from .outlines import SIZE, contrast, sharpness

BINS = 8  # of each Lab channel in a colour histogram
LAB_LOWEST, LAB_RANGE = np.array([0.0, -60.0, -60.0]), np.array([100.0, 120.0, 120.0])

# What is seen of a mask -> its weight in the log-odds.
WEIGHTS = {
    "agreement": 4.15,
    "stability": 1.85,
    "contrast": 0.41,
    "sharpness": -0.75,
    "frame": -6.77,
    "area": 1.49,
    "separation": 6.44,
}
BIAS = -8.07


def confidence(
    lab: np.ndarray,
    mask: np.ndarray,
    others: Sequence[np.ndarray],
    variants: Sequence[np.ndarray] = (),
) -> float:
    """The chance that a mask, bool (size, size), is good, in [0, 1]; 0 if it is empty or full.

    `lab`: the image as `outlines.small_lab` gives it; `others`: masks of the same image and size
    from other maps; `variants`: masks from the same map, refined in another way.
    """
    if not mask.any() or mask.all():
        return 0.0
    seen = evidence(lab, mask, others, variants)
    odds = BIAS + sum(weight * seen[name] for name, weight in WEIGHTS.items())
    return float(1 / (1 + np.exp(-odds)))


def evidence(
    lab: np.ndarray,
    mask: np.ndarray,
    others: Sequence[np.ndarray],
    variants: Sequence[np.ndarray] = (),
) -> dict[str, float]:
    """What is seen of a mask that is neither empty nor full, in the order of `WEIGHTS`.

    - `agreement`: mean IoU with the masks from other maps, 0 without any;
    - `stability`: mean IoU with the variants of the same map, 0 without any;
    - `contrast`, `sharpness`: of its outline, as logarithms;
    - `frame`: share of the image's frame that it covers;
    - `area`: the logarithm of its share of the image;
    - `separation`: 1 minus the overlap of the colour histograms inside and outside.
    """
    small = resize_mask(mask, SIZE)
    frame = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]])
    return {
        "agreement": _mean_overlap(mask, others),
        "stability": _mean_overlap(mask, variants),
        "contrast": float(np.log(contrast(lab, mask) + 1)),
        "sharpness": float(np.log(sharpness(lab, mask) + 0.1)),
        "frame": float(frame.mean()),
        "area": float(np.log(small.mean() + 0.01)),
        "separation": separation(lab, small),
    }


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


def _mean_overlap(mask: np.ndarray, others: Sequence[np.ndarray]) -> float:
    return float(np.mean([overlap(mask, other) for other in others] or [0.0]))


def overlap(mask: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two bool masks; 1 if both are empty."""
    union = cv2.countNonZero((mask | other).astype(np.uint8))
    return cv2.countNonZero((mask & other).astype(np.uint8)) / union if union else 1.0
