"""The figures as Markdown."""

from __future__ import annotations

import numpy as np
from parts.intervals import holm, interval, paired, paired_p
from parts.photograph_shift.classifiers import LITE0, SCRATCH
from parts.regimes.tables import NOT_RUN, Accuracies, difference, shared, verdict
from parts.solar_cells.arms import (
    ARMS,
    EVERY,
    FIXED,
    FIXED_SAME,
    PAPER,
    PRIMARY,
    REAL,
    SAME,
    SECONDARY,
)
from parts.solar_cells.cells import CLASSES, MONO, POLY
from parts.solar_cells.judge import warns

TASKS = ((MONO, LITE0), (POLY, LITE0), (MONO, SCRATCH))
SHOWN = ("test cells", REAL)
NAMES = {"test cells": "test cells, as they are", REAL: "training cells, as they are"}
MASK_ROWS = {
    "trusted": "trusted (confidence at its floor or above)",
    "made": "with a mask at all",
    "area": "area of the mask",
    "nearly all": "mask too large for a target (above .75)",
    "best fixed": "IoU of the best fixed mask with them",
    "mirrored": "IoU with the mask of the mirrored cell (seed 1)",
    "mask in bars": "of the mask, in busbars",
    "image in bars": "of the image, in busbars",
    "with bars": "cells in which busbars were found",
}


def measured(lines: list[dict], classifier: str) -> Accuracies:
    """Arm -> seed -> mean accuracy over both classes."""
    found: Accuracies = {arm: {} for arm in ARMS}
    for line in lines:
        if line["classifier"] == classifier:
            found[line["arm"]][str(line["seed"])] = float(np.mean(line["accuracy"]))
    return found


def shown_p(p: float) -> str:
    return "" if np.isnan(p) else "< .001" if p < 0.001 else f"{p:.3f}"


def primary_table(of_task: Accuracies) -> str:
    """The three comparisons that were named beforehand, with Holm's p."""
    pairs = [shared(of_task, pair) for pair in PRIMARY]
    known = [paired_p(*pair) for pair in pairs]
    adjusted = holm([1.0 if np.isnan(p) else p for p in known])  # all alike, or not run: it counts
    lines = ["| Primary comparison | difference | Holm's p | says |", "|---|---|---|---|"]
    for names, pair, p in zip(PRIMARY, pairs, adjusted, strict=True):
        said = verdict(np.subtract(*pair), p) if pair[0] else ""
        shown = shown_p(p) if pair[0] else ""
        lines.append(f"| {' - '.join(names)} | {difference(pair)} | {shown} | {said} |")
    return "\n".join(lines)


def accuracy_table(of_tasks: dict[str, Accuracies]) -> str:
    """Every arm on every task."""
    lines = [f"| Trained on | {' | '.join(of_tasks)} |", "|---" * (len(of_tasks) + 1) + "|"]
    for arm in ARMS:
        values = [list(measured[arm].values()) for measured in of_tasks.values()]
        cells = [interval(one) if one else NOT_RUN for one in values]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def secondary_table(of_tasks: dict[str, Accuracies]) -> str:
    """Differences that nobody chose beforehand, and the primary ones on the other tasks."""
    lines = [f"| Difference | {' | '.join(of_tasks)} |", "|---" * (len(of_tasks) + 1) + "|"]
    for names in PRIMARY + SECONDARY:
        cells = []
        for of_task in of_tasks.values():
            pair = shared(of_task, names)
            p = paired_p(*pair) if len(pair[0]) > 1 else float("nan")
            cells.append(difference(pair) + (f", p {shown_p(p)}" if not np.isnan(p) else ""))
        lines.append(f"| {' - '.join(names)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def means(seeds: dict[str, dict], *keys: str) -> list[float]:
    """The values at a path of keys, of the seeds that have one."""
    found = []
    for value in seeds.values():
        for key in keys:
            value = value.get(key) if value is not None else None
        if value is not None:
            found.append(float(value))
    return found


def shown(values: list[float]) -> str:
    return interval(values) if values else NOT_RUN


def labels_table(figures: dict) -> str:
    """What the judge sees in the cells and in every arm's mixtures."""
    lines = [
        "| Type | images | cells mixed | kept of the cell | labelled functional, look defective "
        "| labelled defective, look functional |",
        "|---|---|---|---|---|---|",
    ]
    for kind, found in figures.items():
        seeds = found["measures"]
        for arm in (*SHOWN, *(arm for arm in ARMS if arm != REAL)):
            wrong = [means(seeds, "labels", arm, name) for name in CLASSES]
            if not any(wrong):
                continue
            kept = means(seeds, "kept", arm)
            cells = ["", ""]
            if kept:  # a seed without a mixture counts as none of its cells
                mixed = np.mean([one["mixed"].get(arm, 0.0) for one in seeds.values()])
                cells = [f"{mixed:.2f}", f"{np.mean(kept):.2f}"]
            cells += [shown(one) for one in wrong]
            lines.append(f"| {kind} | {NAMES.get(arm, arm)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def surroundings_table(figures: dict) -> str:
    """How much more often the label looks wrong in surroundings of the other class than in those of
    the same class, on the seeds that have both.
    """
    lines = [
        "| Type | other minus same class | labelled functional, look defective "
        "| labelled defective, look functional |",
        "|---|---|---|---|",
    ]
    for kind, found in figures.items():
        for other, same in ((EVERY, SAME), (FIXED, FIXED_SAME)):
            cells = []
            for name in CLASSES:
                wrong = [
                    [one["labels"].get(arm, {}).get(name) for arm in (other, same)]
                    for one in found["measures"].values()
                ]
                known = [pair for pair in wrong if None not in pair]
                cells.append(paired(*zip(*known, strict=True)) if known else NOT_RUN)
            lines.append(f"| {kind} | {other} | {' | '.join(cells)} |")
    return "\n".join(lines)


def masks_table(figures: dict) -> str:
    """What can be known of the masks of `consensus`."""
    lines = [f"| Share | {' | '.join(figures)} |", "|---" * (len(figures) + 1) + "|"]
    for key, name in MASK_ROWS.items():
        cells = [shown(means(found["measures"], "masks", key)) for found in figures.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def trust_table(figures: dict) -> str:
    """The trust test, by class, and in how many seeds it would warn."""
    lines = [
        "| Type | classifier | half | functional cells: right | defective cells: right | warns |",
        "|---|---|---|---|---|---|",
    ]
    for kind, found in figures.items():
        seeds = found["measures"]
        for asked, name in ((PAPER, "`paper`'s network"), ("judge", "the judge")):
            tests = [one["trust"][asked] for one in seeds.values() if asked in one["trust"]]
            said = f"{sum(map(warns, tests))} of {len(tests)} seeds" if tests else NOT_RUN
            for half, part in enumerate(("foreground alone", "background alone")):
                right = [shown([test[one][half] for test in tests]) for one in CLASSES]
                lines.append(f"| {kind} | {name} | {part} | {' | '.join(right)} | {said} |")
    return "\n".join(lines)


def report(figures: dict) -> str:
    """All tables; arms that did not run say so."""
    of_tasks = {
        f"{kind}, {classifier}": measured(figures[kind]["lines"], classifier)
        for kind, classifier in TASKS
        if kind in figures
    }
    seconds = sum(
        line["seconds"]
        for found in figures.values()
        for line in (*found["lines"], *found["measures"].values())
    )
    order = ", ".join(f"{found['neighbours']:.2f} ({kind})" for kind, found in figures.items())
    parts = [
        f"{seconds / 60:.0f} minutes of runs on one thread. ± are 95 % t-intervals over seeds. "
        "Neighbouring files differ less than files at random, by this ratio: " + order + "."
    ]
    if figures.get(MONO):
        parts += ["## Primary comparisons", primary_table(of_tasks[f"{MONO}, {LITE0}"])]
    parts += [
        "## Accuracy",
        accuracy_table(of_tasks),
        "Unadjusted:",
        secondary_table(of_tasks),
        "## Labels, as the judge sees them",
        labels_table(figures),
        "Seams alone look like defects to the judge. What the surroundings do is the difference:",
        surroundings_table(figures),
        "## Masks of `consensus`",
        masks_table(figures),
        "## Trust test",
        trust_table(figures),
    ]
    return "\n\n".join(parts) + "\n"
