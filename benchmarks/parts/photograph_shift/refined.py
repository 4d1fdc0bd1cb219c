"""The arms that refine with a base: what S changes, and what the autoencoder alone does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from sgdmix_hub.figures.panels import Group, Panel, draw_panels
from sgdmix_hub.files import write_atomically

from ..evidence.runs import slug
from ..masks.photographs import small
from ..photograph_base.measures import FONT, load_vae, round_trip
from .arms import VARIANTS
from .task import RESOLUTION, Images

BACKGROUND = "true masks, background refined at S = 0.5"
WHOLE = "true masks, all refined at S = 0.5"
STRONG = "true masks, background refined at S = 0.9"
ROUND_TRIP = "VAE round trip of the sources"
STEPS = {"num_inference_steps": 10, "guidance_scale": 1.0}
KEPT = STEPS | {"background_prompt_template": "a photo"}  # the preset keeps the foreground
REFINEMENTS = {
    BACKGROUND: KEPT | {"strength": [0.5]},
    WHOLE: STEPS | {"strength": [0.5], "foreground_strength": 0.5, "paste_foreground": False},
    STRONG: KEPT | {"strength": [0.9]},
}
REFINED = (*REFINEMENTS, ROUND_TRIP)

Mixtures = tuple[np.ndarray, np.ndarray, dict]


def refinement(arm: str, base: Path) -> dict:
    """Settings of a pipeline that refines with this base."""
    return REFINEMENTS[arm] | {"pretrained_model_name_or_path": str(base)}


def through_vae(train: Images, base: Path) -> Mixtures:
    """Every source as the autoencoder gives it back, as often as others have variants."""
    pixels = np.stack([small(one, RESOLUTION) for one in train.pixels])
    rows = np.tile(np.arange(len(pixels)), VARIANTS)
    return round_trip(load_vae(base), pixels)[rows], rows, {}


def kept(lines: Path, arm: str, seed: int, make: Callable[[], Mixtures]) -> Mixtures:
    """What `make` gave; of an arm that refines, from its file beside `lines` once it is there, so
    that both classifiers see the same.
    """
    if arm not in REFINEMENTS:
        return make()
    path = lines.with_suffix("") / f"{seed}_{slug(arm)}.npz"
    if not path.exists():
        mixed, sources, figures = make()

        def write(partial: Path) -> None:
            with partial.open("wb") as file:
                np.savez(file, images=mixed, sources=sources, **figures)

        write_atomically(path, write)
    with np.load(path) as stored:
        figures = {name: float(value) for name, value in stored.items() if value.ndim == 0}
        return stored["images"], stored["sources"], figures


def draw_sheet(train: Images, made: dict[str, Mixtures]) -> Image.Image:
    """The first image of every class, and its first variant in every arm."""
    rows = []
    for row in np.unique(train.labels, return_index=True)[1]:
        variants = [mixed[np.flatnonzero(sources == row)[0]] for mixed, sources, _ in made.values()]
        rows.append([Panel(one) for one in (small(train.pixels[row], RESOLUTION), *variants)])
    titles = ["source", *(arm.removeprefix("true masks, ") for arm in made)]
    columns = [title.replace(" refined", "\nrefined") for title in titles]
    return draw_panels([Group("", columns)], rows, RESOLUTION, FONT)
