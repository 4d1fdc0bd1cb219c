"""The figures of an evaluation: label fidelity by class, drift against novelty, and the rows at
both ends, as PNG.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from scipy.stats import binomtest

from sgdmix_hub.figures.lettering import drawable
from sgdmix_hub.figures.panels import Group, Panel, draw_panels, in_few_colours, mask_panel
from sgdmix_hub.figures.plots import LONGEST_NAME
from sgdmix_hub.files import write_atomically
from sgdmix_hub.generation.row_maker import RowMaker
from sgdmix_hub.publishing.read import PublishedRows

from .scores import Scores

MOST_CLASSES = 40  # those whose label is kept least
MOST_POINTS = 3000  # above that a scatter is a blot
SHEET_ROWS = 6
PANEL = 144
FONT_SIZE = 12
KEPT, LOST, REAL = "#35618f", "#c0504d", "#222222"


def draw_fidelity(by_class: list[dict], path: Path) -> None:
    """A bar a class with its 95 % Wilson interval, and the judge's own accuracy on real images as a
    mark; the lowest classes on top.
    """
    shown = sorted(by_class, key=lambda of: of["label_fidelity"])[:MOST_CLASSES]
    figure = Figure(figsize=(7, 1.3 + 0.24 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    places = np.arange(len(shown))
    shares = np.array([of["label_fidelity"] for of in shown])
    bounds = [
        binomtest(round(of["label_fidelity"] * of["images"]), of["images"]).proportion_ci(
            method="wilson"
        )
        for of in shown
    ]
    spans = np.abs(np.array([[bound.low, bound.high] for bound in bounds]).T - shares)
    axes.barh(places, shares, color=KEPT, height=0.7)
    axes.errorbar(
        shares,
        places,
        xerr=spans,
        fmt="none",
        ecolor="#9db7d3",
        elinewidth=1.5,
        label="95 % interval",
    )
    judged = [
        (of["judge_accuracy"], place)
        for place, of in enumerate(shown)
        if of["judge_accuracy"] is not None
    ]
    if judged:
        axes.plot(
            *zip(*judged, strict=True),
            "D",
            color=LOST,
            markersize=5,
            label="the judge's accuracy on real images",
        )
    axes.set_yticks(places, [f"{drawn(of['class'])} ({of['images']})" for of in shown], fontsize=8)
    title = "share of synthetic images that the judge gives their label"
    if len(by_class) > len(shown):
        title += f", the lowest {len(shown)} of {len(by_class)} classes"
    axes.set(xlim=(0, 1.02), xlabel=title)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(fontsize=8, frameon=False, loc="outside upper center", ncols=2)
    save(figure, path)


def draw_drift(scores: dict[str, np.ndarray], labels: np.ndarray, real: dict, path: Path) -> None:
    """Foreground drift against background novelty, a point a row, with the distances of real images
    from each other; of many rows, some.
    """
    rows = np.sort(np.random.default_rng(0).permutation(len(labels))[:MOST_POINTS])
    novelty, drift = scores["background_novelty"][rows], scores["foreground_drift"][rows]
    kept = (scores["judge_label"] == labels)[rows]
    figure = Figure(figsize=(6.4, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for chosen, colour, name in ((kept, KEPT, "label kept"), (~kept, LOST, "label lost")):
        axes.scatter(
            novelty[chosen],
            drift[chosen],
            s=9,
            alpha=0.5,
            linewidths=0,
            color=colour,
            label=f"{name}, to the judge ({chosen.sum()})",
        )
    for name, style in (("same", "--"), ("other", ":")):
        words = "one class" if name == "same" else "different classes"
        for side, line in (("foreground", axes.axhline), ("background", axes.axvline)):
            value = real[f"{side}_{name}_class"]
            if value is not None:
                line(
                    value,
                    color=REAL,
                    linewidth=1,
                    linestyle=style,
                    label=f"real images of {words}" if side == "foreground" else None,
                )
    axes.set(
        xlabel="background novelty: distance from the source's background",
        ylabel="foreground drift: distance from the source's foreground",
    )
    axes.margins(0.03)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(fontsize=8, frameon=False, loc="outside upper center", ncols=2)
    save(figure, path)


def ends(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows with the highest and with the lowest probability of their label, (at most 6,) each."""
    order = np.argsort(-probabilities, kind="stable")
    return order[:SHEET_ROWS], order[::-1][:SHEET_ROWS]


def draw_ends(best: list[list[Panel]], worst: list[list[Panel]]) -> Image.Image:
    """Source, foreground and synthetic image of both ends, side by side; above the latter the
    probability and what is seen instead.
    """
    columns = ["source", "its foreground", "synthetic"]
    groups = [
        Group("label most probable to the judge", columns),
        Group("label least probable", columns),
    ]
    return draw_panels(
        groups, [left + right for left, right in zip(best, worst, strict=True)], PANEL, FONT_SIZE
    )


def drawn(name: str) -> str:
    """A class name as matplotlib shows it: one line, no mathematics."""
    return drawable(" ".join(name.split())[:LONGEST_NAME]).replace("$", r"\$")


def save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def draw_figures(
    facts: dict,
    scores: Scores,
    rows: PublishedRows,
    maker: RowMaker,
    labels: np.ndarray,
    output: Path,
) -> dict[str, Path]:
    """The figures as PNG in the output folder, by name."""
    paths = {
        name: output / name
        for name in ("label_fidelity.png", "drift_novelty.png", "best_worst.png")
    }
    draw_fidelity(facts["by_class"], paths["label_fidelity.png"])
    draw_drift(scores, labels, facts["real"], paths["drift_novelty.png"])
    best, worst = (
        [_panels(scores, rows, maker, int(row)) for row in side]
        for side in ends(scores["judge_label_probability"])
    )
    sheet = in_few_colours(draw_ends(best, worst))
    write_atomically(paths["best_worst.png"], lambda path: sheet.save(path, "PNG", optimize=True))
    return paths


def _panels(scores: Scores, rows: PublishedRows, maker: RowMaker, position: int) -> list[Panel]:
    names, row = maker.inputs.split.class_names, rows.rows.remove_columns("image")[position]
    source = maker.masked_image(row["source_index"])
    label, seen = (
        " ".join(names[number].split())
        for number in (row["label"], scores["judge_label"][position])
    )
    probability = f"{scores['judge_label_probability'][position]:.2f}"
    caption = probability if seen == label else f"{probability}: {seen}"
    return [
        Panel(source.pixels, label),
        Panel(mask_panel(source)),
        Panel(np.asarray(rows.image(position)), caption),
    ]
