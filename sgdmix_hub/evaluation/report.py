"""Computes the figures of an evaluation from views and scores."""

from __future__ import annotations

from typing import Any

import numpy as np

from sgdmix_hub.metrics.kernel_distance import MOST_ROWS, kernel_distance
from sgdmix_hub.metrics.label_fidelity import fidelity_by_class
from sgdmix_hub.metrics.near_duplicates import near_duplicates
from sgdmix_hub.metrics.region_drift import mean_distance_within_and_between, mean_of_defined

from .embeddings import Views
from .facts import ClassFacts, Figures, Measurements, RealDistances
from .scores import NO_PROMPT, Origins, Scores

LISTED_PAIRS = 100
COMPARED = 2000  # real images whose mutual distances are measured


def evaluate(
    scores: Scores,
    synthetic: Views,
    real: Views,
    origins: Origins,
    kept: np.ndarray,
    prompts: list[str] | None = None,
) -> Measurements:
    """The figures of n synthetic images.

    Near-duplicate pairs are [row, position in `real`, distance], the nearest 100. `kept`: bool
    (n,), the rows that are not dropped. `prompts`: the prompts that `origins.prompts` numbers.
    """
    labels, strengths = origins.labels, origins.strengths
    usable = np.flatnonzero(real.usable)
    near = {
        "features": duplicates(synthetic.whole, real.whole, origins, real.usable),
        "pixels": duplicates(synthetic.thumbnails, real.thumbnails, origins, real.usable),
    }
    is_near = np.zeros(len(labels), bool)
    is_near[[row for space in near.values() for row, _, _ in space["pairs"]]] = True

    def figures(rows: np.ndarray) -> Figures:
        agrees = scores["judge_label"][rows] == labels[rows]
        probabilities = scores["judge_label_probability"][rows]
        by_class = fidelity_by_class(agrees, probabilities, labels[rows])
        drawn = np.sort(np.random.default_rng(0).permutation(rows)[:MOST_ROWS])
        return Figures(
            images=len(rows),
            label_fidelity=float(agrees.mean()),
            mean_class_label_fidelity=float(np.mean([share for _, _, share, _ in by_class])),
            mean_label_probability=float(probabilities.mean()),
            foreground_drift=mean_of_defined(scores["foreground_drift"][rows]),
            background_novelty=mean_of_defined(scores["background_novelty"][rows]),
            background_novelty_in_class=mean_of_defined(
                scores["background_novelty_in_class"][rows]
            ),
            near_duplicates=float(is_near[rows].mean()),
            **kernel_distance(synthetic.whole[drawn], _drawn(real.whole, usable, MOST_ROWS)),
        )

    different = np.unique(strengths)
    return Measurements(
        all=figures(np.arange(len(labels))),
        by_strength=(
            {float(s): figures(np.flatnonzero(strengths == s)) for s in different}
            if len(different) > 1
            else {}
        ),
        by_prompt=(
            {
                prompts[number]: figures(np.flatnonzero(origins.prompts == number))
                for number in np.unique(origins.prompts).tolist()
                if number != NO_PROMPT
            }
            if origins.prompts is not None and prompts is not None
            else {}
        ),
        kept=None if kept.all() else figures(np.flatnonzero(kept)),
        real=real_distances(real, origins.real_labels, usable),
        duplicates={
            name: space | {"pairs": space["pairs"][:LISTED_PAIRS]} for name, space in near.items()
        },
    )


def duplicates(
    features: np.ndarray, real_features: np.ndarray, origins: Origins, usable: np.ndarray
) -> dict[str, Any]:
    """`near_duplicates` among the usable real images, bool (m,)."""
    if usable.all():  # the usual case: memory-mapped features need no copy
        return near_duplicates(features, origins.sources, origins.targets, real_features)
    rows = np.flatnonzero(usable)
    sources, targets = np.searchsorted(rows, np.stack([origins.sources, origins.targets]))
    return with_pairs_at(near_duplicates(features, sources, targets, real_features[rows]), rows)


def with_pairs_at(near: dict[str, Any], rows: np.ndarray) -> dict[str, Any]:
    """Near duplicates whose pairs name `rows[position]` instead of the position of a real image."""
    return near | {
        "pairs": [[row, int(rows[place]), distance] for row, place, distance in near["pairs"]]
    }


def real_distances(real: Views, labels: np.ndarray, usable: np.ndarray) -> RealDistances:
    """Mean distances between at most 2000 of the usable real images, integers (k,)."""
    rows = np.sort(np.random.default_rng(0).permutation(usable)[:COMPARED])
    foreground = mean_distance_within_and_between(real.foreground[rows], labels[rows])
    background = mean_distance_within_and_between(real.background[rows], labels[rows])
    return RealDistances(*foreground, *background)


def class_facts(
    scores: Scores,
    labels: np.ndarray,
    kept: np.ndarray,
    class_names: list[str],
    judged: dict[int, tuple[int, int]],
) -> list[ClassFacts]:
    """Measurements of every class that occurs.

    `judged`: label -> (real images that the judge classifies correctly, all real images).
    """
    agrees = scores["judge_label"] == labels
    by_class = fidelity_by_class(agrees, scores["judge_label_probability"], labels)
    facts = []
    for label, images, share, probability in by_class:
        right, seen = judged.get(label, (0, 0))
        facts.append(
            ClassFacts(
                name=class_names[label],
                label=label,
                images=images,
                label_fidelity=share,
                mean_label_probability=probability,
                judge_accuracy=right / seen if seen else None,
                real_images=seen,
                dropped=int((~kept & (labels == label)).sum()),
            )
        )
    return facts


def _drawn(features: np.ndarray, rows: np.ndarray, most: int) -> np.ndarray:
    return features[np.sort(np.random.default_rng(1).permutation(rows)[:most])]
