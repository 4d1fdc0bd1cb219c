"""Confusion matrices of an adapter's judged images, as one picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sgdmix_hub.figures.lettering import drawable
from sgdmix_hub.figures.plots import LONGEST_NAME, new_figure, save_figure
from sgdmix_hub.models.adapters import JUDGED_ARMS

CONFUSION_PICTURE = "assets/confusion.png"
MOST_NAMED = 30  # classes whose names fit beside a matrix


def confusion_matrix(scores: dict, num_classes: int) -> np.ndarray:
    """Share of each class's images (rows) that is predicted as each class (columns).

    float64 (num_classes, num_classes); zeros for a class without images. `scores`: what
    `class_scores` returns.
    """
    matrix = np.zeros((num_classes, num_classes))
    for label, right, images in scores["by_class"]:
        matrix[label, label] = right / images
    totals = {label: images for label, _, images in scores["by_class"]}
    for label, predicted, times in scores["confused"]:
        if predicted < num_classes:
            matrix[label, predicted] = times / totals[label]
    return matrix


def draw_confusion(arms: dict[str, dict], class_names: list[str], path: Path) -> None:
    """Draws one matrix for each of `JUDGED_ARMS` (arm -> title), side by side, as PNG."""
    names = [
        drawable(" ".join(name.split())[:LONGEST_NAME]).replace("$", r"\$") for name in class_names
    ]
    side = min(4.5, 1.6 + 0.16 * len(names))
    figure = new_figure(side * len(JUDGED_ARMS) + 1.8, side + 0.6)
    all_axes = figure.subplots(1, len(JUDGED_ARMS), squeeze=False)[0]
    for axes, (arm, title) in zip(all_axes, JUDGED_ARMS.items(), strict=True):
        axes.imshow(
            confusion_matrix(arms[arm], len(names)),
            vmin=0,
            vmax=1,
            cmap="Blues",
            interpolation="nearest",
        )
        axes.set_title(f"{title}\n{arms[arm]['accuracy']:.2f} right", fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
    if len(names) <= MOST_NAMED:
        all_axes[0].set_yticks(range(len(names)), names, fontsize=7)
    all_axes[0].set_ylabel("class of the prompt", fontsize=8)
    figure.supxlabel("class predicted by the judge, in the same order", fontsize=8)
    save_figure(figure, path)
