"""Floors under every task: images that show nothing new, or the foreground of another image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, Image, load_dataset
from parts.evidence.arms import GOOD, TRUE, Arm

from sgdmix_hub.demo.domain import png, save_dataset
from sgdmix_hub.files import write_atomically

OTHER_MASKS = {"mask_column": "other_mask"}
BASE_ALONE = {
    "prompt_template": "{class_name}",
    "background_prompt_template": "a photo of a bird",
}
# every pixel is kept to the end and not pasted: what the autoencoder alone changes
ROUND_TRIP = {
    **BASE_ALONE,
    "mask_column": "whole",
    "mixing_method": "source",
    "selection_method": "random",
    "paste_foreground": False,
    "strength": 0.5,
}
THROUGH_VAE, OTHERS_MASKS = "VAE round trip of the sources", "masks of other images, S = 0"
PLACEBOS = {
    THROUGH_VAE: Arm({**GOOD, **TRUE, **ROUND_TRIP}, without_adapter=True),
    OTHERS_MASKS: Arm({**GOOD, **TRUE, **OTHER_MASKS, "strength": 0.0}, without_adapter=True),
}


def with_masks(rows: Dataset) -> Dataset:
    """Adds `whole`, which takes everything, and, where rows have masks, `other_mask`: each row's
    mask of the next image of another class.
    """
    size = max(rows[0]["image"].size)
    whole = np.full((size, size), 255, np.uint8)
    whole[0, 0] = 0  # a mask of everything is refused as blank
    rows = rows.add_column("whole", [png(whole)] * len(rows), feature=Image())
    if "mask" not in rows.features:
        return rows
    labels, cells = list(rows["label"]), list(rows.cast_column("mask", Image(decode=False))["mask"])
    others = [
        next(
            cells[(row + step) % len(cells)]
            for step in range(1, len(cells))
            if labels[(row + step) % len(cells)] != label
        )
        for row, label in enumerate(labels)
    ]
    return rows.add_column("other_mask", others, feature=Image())


def make_masked(images: Path, folder: Path) -> None:
    """A copy of a folder dataset with the columns of `with_masks`, unless it is there."""
    if folder.exists():
        return
    splits = load_dataset(str(images))
    masked = DatasetDict({name: with_masks(rows) for name, rows in splits.items()})
    write_atomically(folder, lambda temporary: save_dataset(masked, temporary))
