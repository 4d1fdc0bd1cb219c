"""Accuracies, masks and paired differences, as Markdown."""

from __future__ import annotations

import numpy as np

from ..intervals import interval, paired
from ..masks.scores import DRAWS
from .arms import ARMS, NOW, RANDOM, REAL, SEGMENTER, TRUE, WAS
from .classifiers import LITE0, SCRATCH
from .refined import BACKGROUND, REFINED, ROUND_TRIP, STRONG, WHOLE

COMPARISONS = (
    (NOW, WAS),
    (SEGMENTER, WAS),
    (SEGMENTER, NOW),
    (TRUE, NOW),
    (WAS, REAL),
    (NOW, REAL),
    (NOW, RANDOM),
    (SEGMENTER, REAL),
    (SEGMENTER, RANDOM),
    (BACKGROUND, TRUE),
    (WHOLE, TRUE),
    (WHOLE, BACKGROUND),
    (STRONG, TRUE),
    (TRUE, REAL),
    (BACKGROUND, REAL),
    (ROUND_TRIP, REAL),
)


EVERY = (*ARMS, *REFINED)


def object_bounds(ours: list[dict], theirs: list[dict]) -> str:
    """2.5 % and 97.5 % quantiles of the mean difference, over bootstrap draws of objects."""
    by_object: dict[str, list[float]] = {}
    for one, two in zip(ours, theirs, strict=True):
        for name, here, there in zip(one["objects"], one["accuracy"], two["accuracy"], strict=True):
            by_object.setdefault(name, []).append(here - there)
    sums = np.array([(sum(values), len(values)) for values in by_object.values()])
    draws = np.random.default_rng(0).integers(0, len(sums), (DRAWS, len(sums)))
    totals = sums[draws].sum(axis=1)
    lower, upper = np.quantile(totals[:, 0] / totals[:, 1], [0.025, 0.975])
    return f"{lower:+.3f} to {upper:+.3f}"


def mean(lines: list[dict], key: str) -> str:
    values = [line[key] for line in lines if key in line]
    return f"{np.mean(values):.2f}" if values else ""


def tables(figures: list[dict]) -> str:
    """Accuracies, masks and paired differences, each with the number of its seeds."""
    runs: dict[tuple[str, str], dict[int, dict]] = {}
    for line in figures:
        runs.setdefault((line["classifier"], line["arm"]), {})[line["seed"]] = line
    text = [
        "| Classifier | masks | accuracy | seeds | mask IoU | sources mixed |",
        "|---|---|---|---|---|---|",
    ]
    names = [name for name in (LITE0, SCRATCH) if any(key[0] == name for key in runs)]
    for name, arm in ((name, arm) for name in names for arm in EVERY if (name, arm) in runs):
        lines = list(runs[name, arm].values())
        accuracy = interval([np.mean(line["accuracy"]) for line in lines])
        cells = [name, arm, accuracy, str(len(lines)), mean(lines, "iou"), mean(lines, "mixed")]
        text.append(f"| {' | '.join(cells)} |")
    text += [
        "",
        "| Classifier | difference | mean | seeds | over objects |",
        "|---|---|---|---|---|",
    ]
    for name, (arm, other) in ((name, pair) for name in names for pair in COMPARISONS):
        one, two = runs.get((name, arm), {}), runs.get((name, other), {})
        if seeds := sorted(one.keys() & two.keys()):
            ours, theirs = [one[seed] for seed in seeds], [two[seed] for seed in seeds]
            values = [[np.mean(line["accuracy"]) for line in lines] for lines in (ours, theirs)]
            cells = [name, f"{arm} - {other}", paired(*values), str(len(seeds))]
            text.append(f"| {' | '.join([*cells, object_bounds(ours, theirs)])} |")
    return "\n".join(text)
