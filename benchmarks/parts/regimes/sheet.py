"""A sheet of an experiment: the same rows in every arm that was made, beside their sources."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from parts.evidence.runs import slug
from parts.regimes.runs import SIZE, Run

from sgdmix_hub.figures.panels import Group, Panel, draw_panels, in_few_colours
from sgdmix_hub.publishing.read import load_published

ROWS, PANEL, FONT = 6, 2 * SIZE, 11


def draw_sheet(work_dir: Path, key: str, seed: int, path: Path) -> bool:
    """Writes the sheet of one seed; returns whether any arm has been made."""
    run = Run(work_dir, key, seed)
    repos = {name: run.folder / slug(name) / "repo" for name in run.experiment.arms}
    made = {name: load_published(str(repo)) for name, repo in repos.items() if repo.exists()}
    if not made:
        return False
    split = run.split("train")
    common = sorted(set.intersection(*(set(rows.sources.tolist()) for rows in made.values())))
    drawn = []
    for source in common[:: max(1, len(common) // ROWS)][:ROWS]:
        pictures = [split.image(source)]
        pictures += [rows.image(rows.made_from(source)[0]) for rows in made.values()]
        drawn.append([Panel(enlarged(np.asarray(picture))) for picture in pictures])
    columns = ["source", *(name.replace(", ", "\n") for name in made)]
    sheet = in_few_colours(draw_panels([Group("", columns)], drawn, PANEL, FONT))
    sheet.save(path, "PNG", optimize=True)
    return True


def enlarged(pixels: np.ndarray) -> np.ndarray:
    """Every pixel as a square of four."""
    return pixels.repeat(2, axis=0).repeat(2, axis=1)
