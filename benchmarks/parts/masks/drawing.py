"""Pictures of masks: a sheet of photographs, and failures against coverage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from sgdmix_hub.errors import Unusable
from sgdmix_hub.figures.panels import (
    Group,
    Panel,
    draw_panels,
    framed_panel,
    in_few_colours,
    outlined_panel,
)
from sgdmix_hub.figures.plots import BLUE, RED, new_figure, save_figure
from sgdmix_hub.method.mixer import MaskedImage

TILE = 150  # pixels
FONT_SIZE = 14
ACROSS = 2  # photographs in a line of the sheet
COLUMNS = ["photograph", "mask", "mixture"]


@dataclass(frozen=True)
class Shown:
    """A photograph of the sheet: its image, uint8 (size, size, 3), and mask, bool (size, size),
    with the confidence; and its mixture with another image, or None if the mask is not trusted.
    """

    image: np.ndarray
    mask: np.ndarray
    confidence: float
    mixture: np.ndarray | None

    def panels(self) -> list[Panel]:
        """The panels of `COLUMNS`; the mask of a photograph that is not mixed has a red frame."""
        masked = MaskedImage(self.image, self.mask, self.image.shape[1::-1])
        mask, said = outlined_panel(masked, TILE), f"confidence {self.confidence:.2f}"
        if self.mixture is None:
            mixture = Unusable("mask not trusted")
            return [Panel(self.image), Panel(framed_panel(mask), said), Panel(mixture)]
        return [Panel(self.image), Panel(mask, said), Panel(self.mixture)]


def sheet(entries: list[Shown]) -> Image.Image:
    """Photographs, `ACROSS` to a line, each with its mask and mixture under their headings."""
    groups = [Group("", COLUMNS)] * ACROSS
    panels = [entry.panels() for entry in entries]
    panels += [[Panel(Unusable(""))] * len(COLUMNS)] * (-len(panels) % ACROSS)
    lines = [sum(panels[start : start + ACROSS], []) for start in range(0, len(panels), ACROSS)]
    return in_few_colours(draw_panels(groups, lines, TILE, FONT_SIZE))


def draw_coverage(
    curves: dict[str, list[dict[str, float]]], before: dict[str, float], path: Path
) -> None:
    """Draws each set's failures against coverage as PNG.

    `curves`: set -> points with `coverage` and `failures`; `before`: set -> failures without any
    abstention, as `recommended` masked before.
    """
    figure = new_figure(6, 3.2)
    axes = figure.add_subplot()
    for (kind, points), colour in zip(curves.items(), (BLUE, RED, "#4f8f3a"), strict=False):
        x, y = ([point[name] for point in points] for name in ("coverage", "failures"))
        axes.plot(x, y, color=colour, label=kind)
        axes.plot([1], [before[kind]], "o", color=colour)
    axes.set(
        xlabel="share of the images kept, the most trusted first",
        ylabel="failures (IoU < .5)",
        ylim=(-0.02, 1),
        xlim=(0, 1.02),
    )
    axes.plot([], [], "o", color="grey", label="before, all images")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def draw_reliability(bins: dict[str, list[dict]], path: Path) -> None:
    """Draws what masks were worth against their stated confidence, one panel a set, as PNG.

    `bins`: set -> bins of `scores.reliability`.
    """
    figure = new_figure(7, 3.2)
    for axes, (kind, of) in zip(
        figure.subplots(1, len(bins), sharey=True), bins.items(), strict=True
    ):
        axes.plot([0, 1], [0, 1], color="grey", linewidth=1, label="as stated")
        for name, label, colour in (
            ("good", "good masks", BLUE),
            ("failures", "failures (IoU < .5)", RED),
        ):
            said = [one["confidence"] for one in of]
            mean, low, high = np.array([one[name] for one in of]).T
            axes.errorbar(
                said, mean, [mean - low, high - mean], fmt="o-", color=colour, label=label
            )
        axes.set(xlabel="stated confidence", title=kind, xlim=(0, 1), ylim=(-0.02, 1.02))
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path)
