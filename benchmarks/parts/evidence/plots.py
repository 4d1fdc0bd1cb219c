"""The evidence's plots: accuracies by task, and the paper's ablations."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from parts.evidence.arms import (
    ABLATIONS,
    ARMS,
    CEILING,
    MIXING,
    PAPER,
    REAL,
    RECOMMENDED,
    TASKS,
    point_arm,
)
from parts.evidence.tables import test_accuracies
from parts.intervals import half_width, interval

COLOURS = {
    RECOMMENDED: "#c0392b",
    PAPER: "#e59866",
    MIXING: "#884ea0",
    "true masks": "#27ae60",
    CEILING: "#27ae60",
}
DRAWN_FROM = 3  # seeds: the intervals of two are wider than all accuracies, and stand in the tables
LINES = {"paper": "#e59866", "recommended": "#c0392b"}


def whole_seeds(figures: dict[str, dict], key: str) -> list[dict]:
    """The seeds that ran all points of an ablation, so that points share their seeds."""
    ablation = ABLATIONS[key]
    names = [
        point_arm(key, line, point) for line, points in ablation.points.items() for point in points
    ]
    return [
        seed
        for seed in figures.get(ablation.task, {}).values()
        if all(name in seed["arms"] for name in names)
    ]


def point_values(seeds: list[dict], key: str, line: str, point: str) -> list[float]:
    """Test accuracies of one point, a seed each."""
    return [seed["arms"][point_arm(key, line, point)]["accuracy"]["0.5"]["test"] for seed in seeds]


def ablation_lines(figures: dict[str, dict], key: str) -> list[str]:
    """The table of an ablation; empty when no seed ran all of it."""
    ablation, seeds = ABLATIONS[key], whole_seeds(figures, key)
    if not seeds:
        return []
    points = list(next(iter(ablation.points.values())))
    lines = [f"| {ablation.title} | " + " | ".join(points) + " |", "|---|" + "---|" * len(points)]
    for line in ablation.points:
        cells = [interval(point_values(seeds, key, line, point)) for point in points]
        lines.append(f"| `{line}` | " + " | ".join(cells) + " |")
    return [
        f"On the task {TASKS[ablation.task].title}, p = .5; {len(seeds)} of {len(ablation.seeds)} "
        "seeds.",
        "",
        *lines,
    ]


def draw_ablations(figures: dict[str, dict], path: Path) -> None:
    """One panel per ablation: means with intervals; the complete seeds are thin lines."""
    keys = [key for key in ABLATIONS if whole_seeds(figures, key)]
    if not keys:
        return
    panels, axes = plt.subplots(
        1, len(keys), figsize=(4.2 * len(keys), 4.2), squeeze=False, layout="constrained"
    )
    for axis, key in zip(axes[0], keys, strict=True):
        ablation, seeds = ABLATIONS[key], whole_seeds(figures, key)
        for line, points in ablation.points.items():
            measured = [point_values(seeds, key, line, point) for point in points]
            means = [np.mean(values) for values in measured]
            errors = (
                [half_width(values) for values in measured] if len(seeds) >= DRAWN_FROM else None
            )
            axis.errorbar(
                range(len(points)),
                means,
                yerr=errors,
                marker="o",
                capsize=3,
                color=LINES[line],
                label=line,
            )
            if len(seeds) > 1:
                axis.plot(np.array(measured), color=LINES[line], alpha=0.35, linewidth=0.8)
        real = [
            seed["arms"][REAL]["accuracy"]["0"]["test"] for seed in seeds if REAL in seed["arms"]
        ]
        if real:
            axis.axhline(np.mean(real), color="0.5", linestyle=":", label="real images only")
        short = max(map(len, points)) < 4
        axis.set_xticks(
            range(len(points)),
            list(points),
            rotation=0 if short else 40,
            ha="center" if short else "right",
        )
        title = f"{ablation.title}, {len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
        axis.set(title=title, ylabel=f"test accuracy, {TASKS[ablation.task].title}")
        axis.grid(axis="y", alpha=0.3)
        axis.legend(fontsize=8)
    panels.savefig(path, dpi=110)
    plt.close(panels)


def draw_tasks(figures: dict[str, dict], path: Path) -> None:
    """One panel a task: every arm's mean test accuracy with its interval, and the seeds as dots."""
    tasks = [task for task in TASKS if task in figures]
    if not tasks:
        return
    panels, axes = plt.subplots(
        1,
        len(tasks),
        figsize=(2.6 + 2.9 * len(tasks), 5.2),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    names = list(ARMS)
    for axis, task in zip(axes[0], tasks, strict=True):
        for place, arm in enumerate(names):
            values = list(test_accuracies(figures[task], arm).values())
            if not values:
                continue
            colour = COLOURS.get(arm, "0.45")
            axis.barh(place, np.mean(values), color=colour, alpha=0.35)
            axis.plot(values, [place] * len(values), "o", markersize=3, color=colour, alpha=0.7)
            if len(values) >= DRAWN_FROM:
                axis.errorbar(
                    np.mean(values), place, xerr=half_width(values), color=colour, capsize=3
                )
        axis.set_yticks(range(len(names)), names)
        axis.set(title=f"{TASKS[task].title}\n{len(figures[task])} seeds", xlabel="test accuracy")
        axis.grid(axis="x", alpha=0.3)
    axes[0][0].invert_yaxis()
    panels.savefig(path, dpi=110)
    plt.close(panels)
