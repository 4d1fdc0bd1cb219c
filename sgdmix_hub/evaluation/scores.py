"""Computes each row's scores, which become columns of the dataset, from views."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from datasets import Features, Value

from sgdmix_hub.metrics.cosine import cosine_distance
from sgdmix_hub.metrics.label_fidelity import label_probabilities
from sgdmix_hub.metrics.region_drift import novelty_in_class

from .embeddings import Views

ROWS_AT_ONCE = 1024
NO_PROMPT = -1
Scores = dict[str, np.ndarray]


@dataclass(frozen=True)
class Origins:
    """What n rows were made from: (n,) positions among m real images, labels and strengths.

    `real_labels`: int64 (m,), the labels of the real images. `prompts`: the number of each row's
    prompt, `NO_PROMPT` for a row that was not refined; None if all have the same.
    """

    sources: np.ndarray
    targets: np.ndarray
    labels: np.ndarray
    strengths: np.ndarray
    real_labels: np.ndarray
    prompts: np.ndarray | None = None


def scored_features(columns: Features) -> Features:
    """The columns of an evaluated dataset: the generation's, then the scores."""
    scores = (
        "judge_label_probability",
        "foreground_drift",
        "background_novelty",
        "background_novelty_in_class",
    )
    return Features(
        columns | {"judge_label": columns["label"]} | {name: Value("float64") for name in scores}
    )


def row_scores(synthetic: Views, real: Views, origins: Origins) -> Scores:
    """The scores of n synthetic images by column name, (n,) each.

    `judge_label` is int64; the others are float64, NaN if they cannot be computed.
    """
    labels = origins.labels
    rows = np.flatnonzero(real.usable)
    return {
        "judge_label": synthetic.probabilities.argmax(axis=1),
        "judge_label_probability": label_probabilities(synthetic.probabilities, labels).astype(
            np.float64
        ),
        "foreground_drift": _distances(synthetic.foreground, real.foreground, origins.sources),
        "background_novelty": _distances(synthetic.background, real.background, origins.sources),
        "background_novelty_in_class": novelty_in_class(
            synthetic.background, labels, real.background, _only(origins.real_labels, rows)
        ),
    }


def rows_to_keep(
    probabilities: np.ndarray,
    share: float,
    labels: np.ndarray | None = None,
    difficulty: str = "easy",
) -> np.ndarray:
    """bool (n,): the given share of rows, at least one, by their probabilities, float (n,).

    `difficulty`: "easy" keeps the most probable rows; "medium" leaves out as many of them as of the
    least probable ones (where the number is odd, one more of these). With `labels`, int (n,), that
    share of the rows of every class, so that no class loses more rows because the judge knows it
    less well. Of equal rows the first ones count as more probable.
    """
    if labels is not None:
        kept = np.zeros(len(probabilities), bool)
        for label in np.unique(labels):
            rows = np.flatnonzero(labels == label)
            kept[rows] = rows_to_keep(probabilities[rows], share, difficulty=difficulty)
        return kept
    wanted = max(1, round(share * len(probabilities)))
    first = {"easy": 0, "medium": (len(probabilities) - wanted) // 2}[difficulty]
    kept = np.zeros(len(probabilities), bool)
    kept[np.argsort(-probabilities, kind="stable")[first : first + wanted]] = True
    return kept


def _distances(features: np.ndarray, real: np.ndarray, sources: np.ndarray) -> np.ndarray:
    blocks = [slice(start, start + ROWS_AT_ONCE) for start in range(0, len(features), ROWS_AT_ONCE)]
    return np.concatenate([cosine_distance(features[rows], real[sources[rows]]) for rows in blocks])


def _only(labels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The labels of these rows, -1 elsewhere: unusable images have no background to compare."""
    kept = np.full_like(labels, -1)
    kept[rows] = labels[rows]
    return kept
