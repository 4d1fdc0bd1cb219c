"""Which classes a judge takes for which: the matrices of an adapter's judged images as one picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sgdmix_hub.figures.lettering import drawable
from sgdmix_hub.figures.plots import LONGEST_NAME
from sgdmix_hub.models.adapters import JUDGED_ARMS

CONFUSION_PICTURE = "assets/confusion.png"
MOST_NAMED = 30  # classes whose names fit beside a matrix


def confusion_matrix(scores: dict, num_classes: int) -> np.ndarray:
    """Share of each class's images (rows) that is taken for each class (columns), float64
    (num_classes, num_classes); a row of zeros where a class was not judged. `scores`: what
    `class_scores` gives.
    """
    matrix = np.zeros((num_classes, num_classes))
    for label, right, images in scores["by_class"]:
        matrix[label, label] = right / images
    images_of = {label: images for label, _, images in scores["by_class"]}
    for label, predicted, times in scores["confused"]:
        if predicted < num_classes:
            matrix[label, predicted] = times / images_of[label]
    return matrix


def draw_confusion(arms: dict[str, dict], class_names: list[str], path: Path) -> None:
    """One matrix for each of `JUDGED_ARMS` (arm -> title), side by side, as a PNG."""
    names = [
        drawable(" ".join(name.split())[:LONGEST_NAME]).replace("$", r"\$") for name in class_names
    ]
    side = min(4.5, 1.6 + 0.16 * len(names))
    figure = Figure(figsize=(side * len(JUDGED_ARMS) + 1.8, side + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(1, len(JUDGED_ARMS), squeeze=False)[0]
    for number, (axes, (arm, title)) in enumerate(zip(all_axes, JUDGED_ARMS.items(), strict=True)):
        axes.imshow(
            confusion_matrix(arms[arm], len(names)),
            vmin=0,
            vmax=1,
            cmap="Blues",
            interpolation="nearest",
        )
        axes.set_title(f"{title}\n{arms[arm]['accuracy']:.2f} right", fontsize=9)
        axes.set_xticks([])
        axes.set_yticks(range(len(names)) if number == 0 and len(names) <= MOST_NAMED else [])
        if number == 0 and len(names) <= MOST_NAMED:
            axes.set_yticklabels(names, fontsize=7)
    all_axes[0].set_ylabel("class of the prompt", fontsize=8)
    figure.supxlabel("what the judge sees, in the same order", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
