"""The evidence's plots: accuracies by task, and the paper's ablations."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from evidence_arms import ABLATIONS, ARMS, CEILING, MIXING, PAPER, RECOMMENDED, TASKS, Ablation, point_arm
from evidence_tables import test_accuracies
from intervals import half_width, interval

COLOURS = {RECOMMENDED: "#c0392b", PAPER: "#e59866", MIXING: "#884ea0", "true masks": "#27ae60", CEILING: "#27ae60"}
LINES = {"paper": "#e59866", "recommended": "#c0392b"}


def point_values(figures: dict[str, dict], key: str, ablation: Ablation, line: str, point: str) -> list[float]:
    """Test accuracies of one point, a seed each."""
    name = point_arm(key, line, point)
    seeds = figures.get(ablation.task, {})
    return [seed["arms"][name]["accuracy"]["0.5"]["test"] for seed in seeds.values() if name in seed["arms"]]


def ablation_lines(figures: dict[str, dict], key: str) -> list[str]:
    """The table of an ablation; empty when none of it was run but what the table of arms has too."""
    ablation = ABLATIONS[key]
    points = list(next(iter(ablation.points.values())))
    lines = [f"| {ablation.title} | " + " | ".join(points) + " |", "|---|" + "---|" * len(points)]
    found = False
    for line in ablation.points:
        values = [point_values(figures, key, ablation, line, point) for point in points]
        found |= any(of_point and point_arm(key, line, point) not in ARMS for point, of_point in zip(points, values, strict=True))
        lines.append(f"| `{line}` | " + " | ".join(interval(of_point) if of_point else "not run" for of_point in values) + " |")
    return [f"On the task {TASKS[ablation.task].title}, p = .5.", "", *lines] if found else []


def draw_ablations(figures: dict[str, dict], path: Path) -> None:
    """One panel an ablation: means with intervals over seeds."""
    keys = [key for key in ABLATIONS if ablation_lines(figures, key)]
    if not keys:
        return
    panels, axes = plt.subplots(1, len(keys), figsize=(4.2 * len(keys), 4.2), squeeze=False, layout="constrained")
    for axis, key in zip(axes[0], keys, strict=True):
        ablation = ABLATIONS[key]
        for line, points in ablation.points.items():
            measured = {point: point_values(figures, key, ablation, line, point) for point in points}
            measured = {point: values for point, values in measured.items() if values}
            places = [list(points).index(point) for point in measured]
            means = [np.mean(values) for values in measured.values()]
            errors = np.nan_to_num([half_width(values) for values in measured.values()])
            axis.errorbar(places, means, yerr=errors, marker="o", capsize=3, color=LINES[line], label=line)
        real = list(test_accuracies(figures.get(ablation.task, {}), "flips + crops").values())
        if real:
            axis.axhline(np.mean(real), color="0.5", linestyle=":", label="real images only")
        names = list(points)
        axis.set_xticks(
            range(len(names)), names, rotation=0 if max(map(len, names)) < 4 else 40, ha="center" if max(map(len, names)) < 4 else "right"
        )
        axis.set(title=ablation.title, xlabel="", ylabel=f"test accuracy, {TASKS[ablation.task].title}")
        axis.grid(axis="y", alpha=0.3)
        axis.legend(fontsize=8)
    panels.savefig(path, dpi=110)
    plt.close(panels)


def draw_tasks(figures: dict[str, dict], path: Path) -> None:
    """One panel a task: every arm's mean test accuracy with its interval, and the seeds as dots."""
    tasks = [task for task in TASKS if task in figures]
    if not tasks:
        return
    panels, axes = plt.subplots(1, len(tasks), figsize=(2.6 + 2.9 * len(tasks), 5.2), squeeze=False, sharey=True, layout="constrained")
    names = list(ARMS)
    for axis, task in zip(axes[0], tasks, strict=True):
        for place, arm in enumerate(names):
            values = list(test_accuracies(figures[task], arm).values())
            if not values:
                continue
            colour = COLOURS.get(arm, "0.45")
            axis.barh(place, np.mean(values), color=colour, alpha=0.35)
            axis.plot(values, [place] * len(values), "o", markersize=3, color=colour, alpha=0.7)
            if len(values) > 1:
                axis.errorbar(np.mean(values), place, xerr=half_width(values), color=colour, capsize=3)
        axis.set_yticks(range(len(names)), names)
        axis.set(title=f"{TASKS[task].title}\n{len(figures[task])} seeds", xlabel="test accuracy")
        axis.grid(axis="x", alpha=0.3)
    axes[0][0].invert_yaxis()
    panels.savefig(path, dpi=110)
    plt.close(panels)
