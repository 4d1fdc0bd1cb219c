"""A sheet to look at: cells, their masks, and their mixtures in every arm. Never committed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from parts.photograph_shift.task import RESOLUTION
from parts.solar_cells.arms import ARMS
from parts.solar_cells.runs import Run

from sgdmix_hub.data.images import resize_mask
from sgdmix_hub.figures.panels import Group, Panel, draw_panels, outlined_panel
from sgdmix_hub.method.mixer import MaskedImage

ROWS, FONT = 8, 11


def draw_sheet(run: Run, path: Path) -> None:
    """Writes the sheet of a run; a cell without a mixture in an arm has an empty place there."""
    made = {arm: run.mixtures(arm) for arm, settings in ARMS.items() if settings is not None}
    masks, confidences = run.masks()
    empty = np.full((RESOLUTION, RESOLUTION, 3), 255, np.uint8)
    drawn = []
    for row in np.linspace(0, len(run.train.labels) - 1, ROWS).round().astype(int).tolist():
        pixels = np.asarray(run.split().image(row).resize((RESOLUTION, RESOLUTION)))
        cut = empty
        if row in masks:
            mask = resize_mask(masks[row], RESOLUTION)
            cut = outlined_panel(MaskedImage(pixels, mask, pixels.shape[:2]), RESOLUTION)
        caption = f"{confidences[row]:.2f}" if row in masks else ""
        panels = [Panel(pixels, str(row)), Panel(cut, caption)]
        for mixed in made.values():
            places = np.flatnonzero(mixed.sources == row)
            panels.append(Panel(mixed.pixels[places[0]] if len(places) else empty))
        drawn.append(panels)
    columns = ["cell", "mask", *(arm.strip("`").replace(", ", "\n") for arm in made)]
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_panels([Group("", columns)], drawn, RESOLUTION, FONT).save(path)
