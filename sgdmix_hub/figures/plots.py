"""Plots: distributions of a dataset's columns, the loss of a training."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sgdmix_hub.publishing.statistics import RowStatistics

LONGEST_NAME = 28
CURVE_POINTS = 100


def draw_statistics(statistics: RowStatistics, path: Path) -> None:
    """Both distributions as histograms, side by side with their means, as a PNG."""
    # a third of a second of the start of a program, which draws in the end or not at all
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    titles = {
        "saliency distance of source and target (RMS)": statistics.distance,
        "share of pixels kept from the source": statistics.area,
    }
    for axes, (title, distribution) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        counts, edges = distribution.bars()
        axes.stairs(counts, edges, fill=True, color="#35618f")
        axes.axvline(distribution.mean, color="#c0504d", linewidth=1.2)
        axes.set(xlabel=title, ylabel="images")
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def draw_curve(curve: list[list[float]], path: Path) -> None:
    """The loss over the steps as a PNG."""
    figure = Figure(figsize=(6, 3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(*zip(*curve, strict=True), color="#35618f")
    axes.set(xlabel="step", ylabel="loss", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
