"""Pictures of masks: a sheet of photographs, and failures against coverage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from sgdmix_hub.figures.plots import BLUE, RED, new_figure, save_figure

TILE = 128  # pixels
ACROSS = 2  # photographs in a line of the sheet


def cut_out(image: np.ndarray, mask: np.ndarray, text: str) -> np.ndarray:
    """The image, darkened outside the mask, with a line of text in its corner."""
    tile = tile_of(np.where(mask[..., None], image, image // 5 + 20))
    drawing = ImageDraw.Draw(tile)
    drawing.rectangle((0, 0, 7 * len(text) + 4, 13), fill=(0, 0, 0))
    drawing.text((3, 1), text, fill=(255, 255, 255))
    return np.asarray(tile)


def tile_of(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image).resize((TILE, TILE), Image.Resampling.LANCZOS)


def sheet(entries: list[tuple[np.ndarray, np.ndarray, float, np.ndarray | None]]) -> Image.Image:
    """Each entry's image, its mask with the confidence, and its mixture, `ACROSS` to a line.

    An entry is (image, mask, confidence, mixture); a row without a mixture was skipped.
    """
    triples = []
    for image, mask, confidence, mixture in entries:
        last = np.full((TILE, TILE, 3), 200, np.uint8)
        if mixture is not None:
            last = np.asarray(tile_of(mixture))
        tiles = [np.asarray(tile_of(image)), cut_out(image, mask, f"{confidence:.2f}"), last]
        triples.append(np.concatenate(tiles, axis=1))
    lines = [
        np.concatenate(triples[start : start + ACROSS], axis=1)
        for start in range(0, len(triples), ACROSS)
    ]
    return Image.fromarray(np.concatenate(lines)).quantize(256)


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
