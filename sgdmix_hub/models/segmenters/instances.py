"""The instances that a model finds in an image -> one mask with one confidence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from .frames import MASK_SIZE, Box, Framed, over_frame

MAP_SIZE = 64
MOST_INSTANCES = 8  # of an image, the best ones
GOOD_SHARE = 0.5  # of the best instance's score, which another one needs to be among the foreground


@dataclass(frozen=True)
class Instances:
    """What a model finds in one image: `logits` (k, h, w) of each instance's mask over the model's
    input, and `scores` (k,) in [0, 1], how sure the model is of each.
    """

    logits: torch.Tensor
    scores: torch.Tensor


@dataclass(frozen=True)
class Segmentation:
    """The foreground of one image over the run's frame: `share` float32 (256, 256) in [0, 1], which
    is foreground above one half, and the model's `confidence` in [0, 1].
    """

    share: np.ndarray
    confidence: float

    @property
    def mask(self) -> np.ndarray:
        """bool (256, 256)."""
        return self.share > 0.5

    @property
    def saliency_map(self) -> np.ndarray:
        """float16 (64, 64) in [0, 1]: means over cells."""
        cell = MASK_SIZE // MAP_SIZE
        cells = self.share.reshape(MAP_SIZE, cell, MAP_SIZE, cell)
        return cells.mean(axis=(1, 3)).astype(np.float16)


def foreground_of(
    found: Instances, image: Framed, rule: str, found_from: float = 0.5
) -> Segmentation:
    """The foreground by a rule: `union` of the instances that score at least half of the best one,
    the `largest` of them, or that `nearest-box`, which overlaps most with the image's box.

    The confidence is the scores' mean, weighted by area, on a scale on which `found_from` is one
    half. Without any instance both are zero.
    """
    best = best_instances(found)
    shares = over_frame(best.logits, image).sigmoid()
    masks = shares > 0.5
    areas = masks.sum((1, 2))
    there = areas > 0
    shares, masks, areas, scores = (values[there] for values in (shares, masks, areas, best.scores))
    if not len(areas):
        return Segmentation(np.zeros((MASK_SIZE, MASK_SIZE), np.float32), 0.0)
    if rule == "largest":
        chosen = areas.argmax()[None]
    elif rule == "nearest-box":
        chosen = _overlap(masks, image.box_in_frame()).argmax()[None]
    else:
        chosen = torch.arange(len(areas), device=areas.device)
    weights = areas[chosen] / areas[chosen].sum()
    score = float((weights * scores[chosen]).sum().clamp(0, 1))
    return Segmentation(shares[chosen].amax(0).cpu().numpy(), centred_score(score, found_from))


def centred_score(score: float, found_from: float) -> float:
    """A score in [0, 1] on a scale, linear on both sides, on which `found_from` is one half: what
    counts as found is then the same for all families.
    """
    if score < found_from:
        return 0.5 * score / found_from
    return 0.5 + 0.5 * (score - found_from) / (1 - found_from)


def best_instances(found: Instances) -> Instances:
    """The best few instances, in order of their score, that score at least half of the best."""
    if not len(found.scores):
        return found
    order = found.scores.argsort(descending=True, stable=True)[:MOST_INSTANCES]
    order = order[found.scores[order] >= GOOD_SHARE * found.scores[order[0]]]
    return Instances(found.logits[order], found.scores[order])


def _overlap(masks: torch.Tensor, box: Box | None) -> torch.Tensor:
    """Intersection over union of masks (k, 256, 256) with a box, float (k,)."""
    if box is None:
        return torch.zeros(len(masks), device=masks.device)
    centres = (torch.arange(MASK_SIZE, device=masks.device) + 0.5) / MASK_SIZE
    across = (centres >= box[0]) & (centres <= box[2])
    down = (centres >= box[1]) & (centres <= box[3])
    inside = down[:, None] & across[None]
    return (masks & inside).sum((1, 2)) / (masks | inside).sum((1, 2)).clamp(min=1)


def mean_inside(logits: torch.Tensor) -> torch.Tensor:
    """Mean probability inside each mask of (..., h, w) logits: how clearly a network draws it."""
    shares = logits.float().sigmoid()
    inside = shares > 0.5
    return (shares * inside).sum((-2, -1)) / inside.sum((-2, -1)).clamp(min=1)
