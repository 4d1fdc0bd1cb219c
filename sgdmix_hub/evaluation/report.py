"""Views and scores of an augmented dataset -> what evaluation.json says of it, and the same as
text.
"""

from __future__ import annotations

import math

import numpy as np

from sgdmix_hub.metrics.kernel_distance import MOST_ROWS, kernel_distance
from sgdmix_hub.metrics.label_fidelity import fidelity_by_class
from sgdmix_hub.metrics.near_duplicates import near_duplicates
from sgdmix_hub.metrics.region_drift import mean_distance_within_and_between, mean_of_defined

from .embeddings import Views
from .scores import Origins, Scores

LISTED_PAIRS = 100
COMPARED = 2000  # real images whose distances from each other the drift is compared with
MEANS = ("foreground_drift", "background_novelty", "background_novelty_in_class")
COLUMNS = (
    "images",
    "label_fidelity",
    "mean_label_probability",
    *MEANS,
    "near_duplicates",
    "kernel_distance",
    "standard_error",
)


def evaluate(
    scores: Scores, synthetic: Views, real: Views, origins: Origins, kept: np.ndarray
) -> dict:
    """The figures of all rows, of each strength where there are several, and of the kept rows, bool
    (n,), where some are dropped; what they are to be compared with; near duplicates, as [row,
    position in `real`, distance]. NaN is given as None.
    """
    labels = origins.labels
    usable = np.flatnonzero(real.usable)
    found = {
        "features": duplicates(synthetic.whole, real.whole, origins, real.usable),
        "pixels": duplicates(synthetic.thumbnails, real.thumbnails, origins, real.usable),
    }
    near = np.zeros(len(labels), bool)
    near[[row for of_space in found.values() for row, _, _ in of_space["pairs"]]] = True

    def figures(rows: np.ndarray) -> dict:
        agrees = scores["judge_label"][rows] == labels[rows]
        by_class = fidelity_by_class(agrees, scores["judge_label_probability"][rows], labels[rows])
        asked = np.sort(np.random.default_rng(0).permutation(rows)[:MOST_ROWS])
        return {
            "images": len(rows),
            "label_fidelity": float(agrees.mean()),
            "mean_class_label_fidelity": float(np.mean([share for _, _, share, _ in by_class])),
            "mean_label_probability": float(scores["judge_label_probability"][rows].mean()),
            **{name: mean_of_defined(scores[name][rows]) for name in MEANS},
            "near_duplicates": float(near[rows].mean()),
            **kernel_distance(synthetic.whole[asked], _drawn(real.whole, usable, MOST_ROWS)),
        }

    strengths = origins.strengths
    different = np.unique(strengths)
    by_strength = (
        [{"strength": float(s), **figures(np.flatnonzero(strengths == s))} for s in different]
        if len(different) > 1
        else []
    )
    return without_nan(
        {
            "all": figures(np.arange(len(labels))),
            "by_strength": by_strength,
            "kept": None if kept.all() else figures(np.flatnonzero(kept)),
            "real": real_distances(real, origins.real_labels, usable),
            "duplicates": {
                name: of | {"pairs": of["pairs"][:LISTED_PAIRS]} for name, of in found.items()
            },
        }
    )


def duplicates(
    features: np.ndarray, real_features: np.ndarray, origins: Origins, usable: np.ndarray
) -> dict:
    """`near_duplicates` among the usable real images, bool (m,)."""
    if usable.all():  # as usual: what is memory-mapped need not be copied
        return near_duplicates(features, origins.sources, origins.targets, real_features)
    rows = np.flatnonzero(usable)
    places = np.searchsorted(rows, np.stack([origins.sources, origins.targets]))
    found = near_duplicates(features, *places, real_features[rows])
    return found | {
        "pairs": [[row, int(rows[place]), distance] for row, place, distance in found["pairs"]]
    }


def real_distances(real: Views, labels: np.ndarray, usable: np.ndarray) -> dict:
    """Mean distances of real images from each other, of one class and of different ones: what drift
    and novelty are to be compared with.
    """
    rows = np.sort(np.random.default_rng(0).permutation(usable)[:COMPARED])
    found = {}
    for side in ("foreground", "background"):
        same, other = mean_distance_within_and_between(getattr(real, side)[rows], labels[rows])
        found |= {f"{side}_same_class": same, f"{side}_other_class": other}
    return found


def class_facts(
    scores: Scores,
    labels: np.ndarray,
    kept: np.ndarray,
    class_names: list[str],
    judged: dict[int, tuple[int, int]],
) -> list:
    """What was found of every class that occurs. `judged`: label -> the real images that the judge
    is right on, and all of them.
    """
    agrees = scores["judge_label"] == labels
    facts = []
    for label, images, share, probability in fidelity_by_class(
        agrees, scores["judge_label_probability"], labels
    ):
        right, seen = judged.get(label, (0, 0))
        facts.append(
            {
                "class": class_names[label],
                "label": label,
                "images": images,
                "label_fidelity": share,
                "mean_label_probability": probability,
                "judge_accuracy": right / seen if seen else None,
                "real_images": seen,
                "dropped": int((~kept & (labels == label)).sum()),
            }
        )
    return facts


def without_nan(value):
    """The same with None for NaN, which is no JSON."""
    if isinstance(value, dict):
        return {name: without_nan(part) for name, part in value.items()}
    if isinstance(value, list):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _drawn(features: np.ndarray, rows: np.ndarray, most: int) -> np.ndarray:
    return features[np.sort(np.random.default_rng(1).permutation(rows)[:most])]


def evaluation_text(facts: dict) -> str:
    """What evaluation.json says, in a few lines."""
    lines = [f"masks: {facts['masks']}"]
    accuracy = facts["judge_accuracy"]
    if accuracy is not None:
        lines.append(
            f"the judge on {accuracy['images']} real images of {accuracy['split']}: right on {accuracy['accuracy']:.3f}"
        )
    table = [("strength", *(column.replace("_", " ") for column in COLUMNS))]
    groups = [(f"{of['strength']:g}", of) for of in facts["by_strength"]] + [("all", facts["all"])]
    for name, of_rows in groups + ([] if facts["kept"] is None else [("kept", facts["kept"])]):
        table.append((name, *(_shown(of_rows[column]) for column in COLUMNS)))
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    lines += [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in table
    ]
    worst = sorted(facts["by_class"], key=lambda of: of["label_fidelity"])[:5]
    lines.append(
        "classes whose label is kept least: "
        + ", ".join(f"{' '.join(of['class'].split())} {of['label_fidelity']:.2f}" for of in worst)
    )
    return "\n".join(lines)


def _shown(value: float | int | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"
