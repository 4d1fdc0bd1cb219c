"""Plots: distributions of a dataset's columns, and the loss of a training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sgdmix_hub.publishing.statistics import RowStatistics

from . import counts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONGEST_NAME = 28  # characters of a class name
CURVE_POINTS = 100
BLUE, RED = "#35618f", "#c0504d"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches. It needs no display."""
    # loading matplotlib takes a third of a second, which a program that draws nothing saves
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout=counts.LAYOUT)


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG: the file of `savefig`, which draws everything twice for it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(path)


def draw_statistics(statistics: RowStatistics, path: Path) -> None:
    """Draws both distributions as histograms with their means, side by side, as PNG."""
    figure = new_figure(8, 2.6)
    titles = {
        "saliency distance of source and target (RMS)": statistics.distance,
        "share of pixels kept from the source": statistics.area,
    }
    for axes, (title, distribution) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        heights, edges = distribution.bars()
        axes.stairs(heights, edges, fill=True, color=BLUE)
        axes.axvline(distribution.mean, color=RED, linewidth=1.2)
        axes.set(xlabel=title, ylabel="images")
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def draw_curve(curve: list[list[float]], path: Path) -> None:
    """Draws the loss over the steps as PNG."""
    figure = new_figure(6, 3)
    axes = figure.add_subplot()
    axes.plot(*zip(*curve, strict=True), color=BLUE)
    axes.set(xlabel="step", ylabel="loss", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)
