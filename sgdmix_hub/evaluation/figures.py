"""Draws an evaluation's label fidelity by class, drift and novelty, best and worst rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.stats import binomtest

from sgdmix_hub.figures import counts
from sgdmix_hub.figures.lettering import drawable
from sgdmix_hub.figures.panels import Group, Panel, draw_panels, in_few_colours, mask_panel
from sgdmix_hub.figures.plots import BLUE, LONGEST_NAME, RED, new_figure, save_figure
from sgdmix_hub.files import write_atomically
from sgdmix_hub.generation.row_maker import RowMaker
from sgdmix_hub.publishing.read import PublishedRows

from .facts import ClassFacts, EvaluationFacts, RealDistances
from .scores import Scores

MOST_CLASSES = 40  # those with the lowest label fidelity
MOST_POINTS = 3000  # more points overlap too much
PANEL = 144
FONT_SIZE = 12
REAL = "#222222"  # colour of real images


def draw_fidelity(by_class: list[ClassFacts], path: Path) -> None:
    """Label fidelity as one bar per class with its 95 % Wilson interval; the lowest classes on top.

    A mark shows the judge's accuracy on real images of the class.
    """
    shown = sorted(by_class, key=lambda facts: facts.label_fidelity)[:MOST_CLASSES]
    figure = new_figure(7, 1.3 + 0.24 * len(shown))
    axes = figure.subplots()
    places = np.arange(len(shown))
    shares = np.array([facts.label_fidelity for facts in shown])
    bounds = [
        binomtest(round(facts.label_fidelity * facts.images), facts.images).proportion_ci(
            method="wilson"
        )
        for facts in shown
    ]
    spans = np.abs(np.array([[bound.low, bound.high] for bound in bounds]).T - shares)
    axes.barh(places, shares, color=BLUE, height=0.7)
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
        (facts.judge_accuracy, place)
        for place, facts in enumerate(shown)
        if facts.judge_accuracy is not None
    ]
    if judged:
        axes.plot(
            *zip(*judged, strict=True),
            "D",
            color=RED,
            markersize=5,
            label="the judge's accuracy on real images",
        )
    names = [f"{drawn(facts.name)} ({facts.images})" for facts in shown]
    axes.set_yticks(places, names, fontsize=8)
    title = "share of synthetic images that the judge assigns to their label"
    if len(by_class) > len(shown):
        title += f", the lowest {len(shown)} of {len(by_class)} classes"
    axes.set(xlim=(0, 1.02), xlabel=title)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(fontsize=8, frameon=False, loc="outside upper center", ncols=2)
    save_figure(figure, path)


def draw_drift(scores: Scores, labels: np.ndarray, real: RealDistances, path: Path) -> None:
    """Foreground drift over background novelty, one point per row (at most 3000).

    Lines mark the mean distances between real images.
    """
    rows = np.sort(np.random.default_rng(0).permutation(len(labels))[:MOST_POINTS])
    novelty, drift = scores["background_novelty"][rows], scores["foreground_drift"][rows]
    kept = (scores["judge_label"] == labels)[rows]
    figure = new_figure(6.4, 5)
    axes = figure.subplots()
    for chosen, colour, name in ((kept, BLUE, "label kept"), (~kept, RED, "label lost")):
        axes.scatter(
            novelty[chosen],
            drift[chosen],
            s=9,
            alpha=0.5,
            linewidths=0,
            color=colour,
            label=f"{name}, according to the judge ({chosen.sum()})",
        )
    for words, style, foreground, background in (
        ("one class", "--", real.foreground_same_class, real.background_same_class),
        ("different classes", ":", real.foreground_other_class, real.background_other_class),
    ):
        if not np.isnan(foreground):
            name = f"between real images of {words}"
            axes.axhline(foreground, color=REAL, linewidth=1, linestyle=style, label=name)
        if not np.isnan(background):
            axes.axvline(background, color=REAL, linewidth=1, linestyle=style)
    axes.set(
        xlabel="background novelty: distance from the source's background",
        ylabel="foreground drift: distance from the source's foreground",
    )
    axes.margins(0.03)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(fontsize=8, frameon=False, loc="outside upper center", ncols=2)
    save_figure(figure, path)


def ends(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows with the highest and the lowest probability of their label, at most `END_ROWS`."""
    order = np.argsort(-probabilities, kind="stable")
    return order[: counts.END_ROWS], order[::-1][: counts.END_ROWS]


def draw_ends(best: list[list[Panel]], worst: list[list[Panel]]) -> Image.Image:
    """The best and the worst rows side by side: source, its foreground, synthetic image.

    The caption of a synthetic image is the probability of its label, and the class the judge
    predicts if that is another one.
    """
    columns = ["source", "its foreground", "synthetic"]
    groups = [
        Group("label most probable to the judge", columns),
        Group("label least probable", columns),
    ]
    rows = [left + right for left, right in zip(best, worst, strict=True)]
    return draw_panels(groups, rows, PANEL, FONT_SIZE)


def drawn(name: str) -> str:
    """A class name for matplotlib: one line, with `$` escaped."""
    return drawable(" ".join(name.split())[:LONGEST_NAME]).replace("$", r"\$")


def draw_figures(
    facts: EvaluationFacts,
    scores: Scores,
    rows: PublishedRows,
    maker: RowMaker,
    labels: np.ndarray,
    folder: Path,
) -> dict[str, Path]:
    """Draws the figures as PNG into a folder; returns their paths by file name."""
    names = ("label_fidelity.png", "drift_novelty.png", "best_worst.png")
    paths = {name: folder / name for name in names}
    draw_fidelity(facts.by_class, paths["label_fidelity.png"])
    draw_drift(scores, labels, facts.measured.real, paths["drift_novelty.png"])
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
    label = " ".join(names[row["label"]].split())
    predicted = " ".join(names[scores["judge_label"][position]].split())
    probability = f"{scores['judge_label_probability'][position]:.2f}"
    caption = probability if predicted == label else f"{probability}: {predicted}"
    return [
        Panel(source.pixels, label),
        Panel(mask_panel(source)),
        Panel(np.asarray(rows.image(position)), caption),
    ]
