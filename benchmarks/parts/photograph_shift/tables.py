"""Accuracies, masks and paired differences, as Markdown."""

from __future__ import annotations

import numpy as np

from ..intervals import holm, interval, paired, paired_p
from ..masks.scores import DRAWS
from .arms import ARMS, NOW, RANDOM, REAL, SEGMENTER, TRUE, WAS
from .classifiers import LITE0, SCRATCH
from .refined import BACKGROUND, REFINED, ROUND_TRIP, STRONG, WHOLE
from .task import FEW_SHOT, SHIFT

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
# Comparisons with Lite0 that share Holm's adjustment; each run of SHIFT had a single primary one.
PRIMARY = {SHIFT: (), FEW_SHOT: ((NOW, REAL), (BACKGROUND, TRUE))}


EVERY = (*ARMS, *REFINED)
Pair = tuple[str, str]
Runs = dict[Pair, dict[int, dict]]  # classifier and arm -> seed -> line


def shared(runs: Runs, name: str, pair: Pair) -> list[list[dict]]:
    """The lines of two arms of a classifier, both on the seeds that finished in both."""
    one, two = (runs.get((name, arm), {}) for arm in pair)
    return [[lines[seed] for seed in sorted(one.keys() & two.keys())] for lines in (one, two)]


def accuracies(lines: list[dict]) -> list[float]:
    return [float(np.mean(line["accuracy"])) for line in lines]


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


def primary_table(runs: Runs, primary: tuple[Pair, ...]) -> list[str]:
    """The primary comparisons with Lite0, with their p-values after Holm."""
    values = [[accuracies(lines) for lines in shared(runs, LITE0, pair)] for pair in primary]
    adjusted = holm([paired_p(*two) for two in values])
    text = ["", "| Primary comparison, Lite0 | mean, unadjusted p | Holm's p |", "|---|---|---|"]
    for pair, two, p in zip(primary, values, adjusted, strict=True):
        shown = "< .001" if p < 0.001 else f"{p:.3f}"
        text.append(f"| {' - '.join(pair)} | {paired(*two)} | {shown} |")
    return text


def tables(figures: list[dict], primary: tuple[Pair, ...] = ()) -> str:
    """Accuracies, masks and paired differences, each with the number of its seeds."""
    runs: Runs = {}
    for line in figures:
        runs.setdefault((line["classifier"], line["arm"]), {})[line["seed"]] = line
    text = [
        "| Classifier | masks | accuracy | seeds | mask IoU | sources mixed |",
        "|---|---|---|---|---|---|",
    ]
    names = [name for name in (LITE0, SCRATCH) if any(key[0] == name for key in runs)]
    for name, arm in ((name, arm) for name in names for arm in EVERY if (name, arm) in runs):
        lines = list(runs[name, arm].values())
        accuracy = interval(accuracies(lines))
        cells = [name, arm, accuracy, str(len(lines)), mean(lines, "iou"), mean(lines, "mixed")]
        text.append(f"| {' | '.join(cells)} |")
    text += [
        "",
        "| Classifier | difference | mean | seeds | over objects |",
        "|---|---|---|---|---|",
    ]
    for name, pair in ((name, pair) for name in names for pair in COMPARISONS):
        ours, theirs = shared(runs, name, pair)
        if ours:
            cells = [name, " - ".join(pair), paired(accuracies(ours), accuracies(theirs))]
            cells += [str(len(ours)), object_bounds(ours, theirs)]
            text.append(f"| {' | '.join(cells)} |")
    if primary and all(shared(runs, LITE0, pair)[0] for pair in primary):  # Holm's needs them all
        text += primary_table(runs, primary)
    return "\n".join(text)
