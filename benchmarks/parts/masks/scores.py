"""What masks and their confidences are worth, against true masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np

from sgdmix_hub.errors import UnusableRow
from sgdmix_hub.method.masks import GrabCut, grabcut_mask
from sgdmix_hub.method.mixing import inpainting_hole, kept_mask
from sgdmix_hub.metrics.mask_quality import (
    best_fixed_iou,
    boundary_f,
    mask_iou,
    mask_precision,
    mask_recall,
)
from sgdmix_hub.metrics.mixture_quality import background_from_target, foreground_kept, leak
from sgdmix_hub.settings.saliency import SALIENCY_SOURCES

from .arms import CONSENSUS, RADII, all_masks, barrier
from .photographs import Photograph

FAILURE = 0.5
GOOD_IOU, GOOD_RECALL = 0.7, 0.9  # of the masks that a confidence is the chance of
FLOOR = SALIENCY_SOURCES["consensus"].trusted_from
DRAWS = 1000


def interval(values: np.ndarray, objects: np.ndarray) -> tuple[float, float, float]:
    """(mean, lower, upper) of values per image, bootstrapped over objects."""
    names, position = np.unique(objects, return_inverse=True)
    sums = np.bincount(position, values, len(names))
    counts = np.bincount(position, minlength=len(names))
    drawn = np.random.default_rng(0).integers(0, len(names), (DRAWS, len(names)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return tuple(round(float(value), 4) for value in (values.mean(), low, high))


def usable_mixtures(rows: list[Photograph], masks: np.ndarray) -> np.ndarray:
    """Whether each image, mixed with the next one of another object, gives a usable mixture.

    The next in a shuffled order that is the same for every arm; a refused target is not usable.
    """
    order = np.random.default_rng(0).permutation(len(rows))
    usable = np.zeros(len(rows))
    for place, source in enumerate(order):
        others = np.roll(order, -place - 1)
        target = next((one for one in others if rows[one].obj != rows[source].obj), None)
        if target is None:
            continue
        kept = kept_mask(masks[source], masks[target], "inpaint")
        try:
            hole = inpainting_hole(masks[target])
        except UnusableRow:
            continue
        true_source, true_target = rows[source].true[None], rows[target].true[None]
        usable[source] = (
            foreground_kept(kept[None], true_source)[0] >= 0.9
            and background_from_target(kept[None], true_source)[0] >= 0.9
            and leak((~kept & ~hole)[None], true_target)[0] <= 0.1
        )
    return usable


def good_masks(masks: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Whether each mask is what a confidence is the chance of, bool (n,)."""
    return (mask_iou(masks, true) >= GOOD_IOU) & (mask_recall(masks, true) >= GOOD_RECALL)


def curve(trust: np.ndarray, failed: np.ndarray, good: np.ndarray) -> list[dict[str, float]]:
    """Failures and good masks among the most trusted, for every number of masks kept.

    `floor`: the least confidence that is kept.
    """
    order = np.argsort(-trust, kind="stable")
    numbers = np.arange(1, len(order) + 1)
    failures, right = (np.cumsum(one[order]) / numbers for one in (failed, good))
    return [
        {
            "coverage": round(float(number / len(order)), 4),
            "floor": round(float(trust[order[number - 1]]), 4),
            "failures": round(float(failures[number - 1]), 4),
            "good": round(float(right[number - 1]), 4),
        }
        for number in numbers
    ]


@dataclass(frozen=True)
class Judged:
    """Masks: `trust`, their confidences, and `iou`, float (n,); `good`, bool (n,); `objects`."""

    trust: np.ndarray
    iou: np.ndarray
    good: np.ndarray
    objects: np.ndarray

    def and_of(self, other: Judged) -> Judged:
        """The masks of both."""
        joined = (np.concatenate(pair) for pair in zip(astuple(self), astuple(other), strict=True))
        return Judged(*joined)


def reliability(judged: Judged) -> list[dict]:
    """What masks were worth, in five bins of confidence: means, with bounds over objects."""
    bins, found = np.minimum((judged.trust * 5).astype(int), 4), []
    for number in np.unique(bins):
        inside = bins == number
        figures = {"good": judged.good, "iou": judged.iou, "failures": judged.iou < FAILURE}
        found.append(
            {
                "from": number / 5,
                "masks": int(inside.sum()),
                "confidence": round(float(judged.trust[inside].mean()), 3),
                **{
                    name: interval(values[inside].astype(float), judged.objects[inside])
                    for name, values in figures.items()
                },
            }
        )
    return found


def above_floor(
    rows: list[Photograph], masks: np.ndarray, trust: np.ndarray, floor: float
) -> dict[str, float]:
    """What is left of a set if masks below a confidence are neither mixed nor targets."""
    kept = np.flatnonzero(trust >= floor)
    kept_rows, kept_masks = [rows[place] for place in kept], masks[kept]
    true = np.stack([row.true for row in kept_rows])
    objects = np.array([row.obj for row in kept_rows])
    usable = usable_mixtures(kept_rows, kept_masks).astype(float)
    failed = (mask_iou(kept_masks, true) < FAILURE).astype(float)
    return {
        "floor": floor,
        "coverage": round(len(kept) / len(rows), 4),
        "failures": interval(failed, objects),
        "usable": interval(usable, objects),
    }


def radii_scores(rows: list[Photograph]) -> dict:
    """What GrabCut makes of minimum barrier's masks by its radii: IoU and failures, with bounds."""
    true, objects = np.stack([row.true for row in rows]), np.array([row.obj for row in rows])
    found = [barrier(row) for row in rows]
    figures = {}
    for probable, background in RADII:
        grabcut = GrabCut(probable_radius=probable, background_radius=background)
        masks = [
            grabcut_mask(row.image, saliency_map, coarse, grabcut)
            for row, (saliency_map, coarse) in zip(rows, found, strict=True)
        ]
        iou = mask_iou(np.stack(masks), true)
        figures[f"{probable:g} / {background:g}"] = {
            "iou": interval(iou, objects),
            "failures": interval((iou < FAILURE).astype(float), objects),
        }
    return figures


def scores(rows: list[Photograph], steps: int, sources: Sequence[str]) -> tuple[dict, Judged]:
    """Arm -> figure -> (mean, lower, upper) of one set, and what the confidences are worth; and the
    masks of `consensus`.
    """
    true, objects = np.stack([row.true for row in rows]), np.array([row.obj for row in rows])
    arms: dict = {"best fixed mask": {"iou": (round(best_fixed_iou(true), 4),)}}
    found, trust = all_masks(rows, steps, sources)
    trusted: dict = {}
    for arm, masks in found.items():
        iou = mask_iou(masks, true)
        if arm in trust:
            trusted[arm] = {
                "curve": curve(trust[arm], iou < FAILURE, good_masks(masks, true)),
                "trusted": above_floor(rows, masks, trust[arm], FLOOR),
            }
        values = {
            "iou": iou,
            "failures": iou < FAILURE,
            "precision": mask_precision(masks, true),
            "recall": mask_recall(masks, true),
            "boundary_f": boundary_f(masks, true),
            "usable": usable_mixtures(rows, masks),
        }
        arms[arm] = {name: interval(one.astype(float), objects) for name, one in values.items()}
    chosen = found[CONSENSUS]
    judged = Judged(trust[CONSENSUS], mask_iou(chosen, true), good_masks(chosen, true), objects)
    figures = {
        "images": len(rows),
        "objects": len(set(objects)),
        "arms": arms,
        "confidence": trusted,
    }
    return figures, judged
