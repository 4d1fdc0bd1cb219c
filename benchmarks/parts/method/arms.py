"""The arms of benchmarks/method.py, and the birds of a seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, Image

from sgdmix_hub.demo.domain import make_dataset, png, save_dataset
from sgdmix_hub.files import write_atomically
from sgdmix_hub.settings.parsing import as_arguments, parse_settings, read_yaml

SPECIES, TRAIN, JUDGE, TEST = 6, 10, 100, 350
BASE = {"pretrained_model_name_or_path": "sgdmix_hub/demo/tiny_base", "resolution": 64}
RECIPE = Path("sgdmix_hub/recipes/demo-birds")
CLASSIFIER = {
    name: value
    for name, value in read_yaml(RECIPE / "classifier.yaml").items()
    if name not in ("eval_split", "synthetic_probability")
}
DOWNSTREAM = {
    "image_size": 64,
    "num_train_epochs": 80,
    "eval_split": "test",
    "synthetic_probability": 0.5,
}
SALIENCY = {"image_size": 128, "num_train_epochs": 40}  # 16 x 16 cells for the CAM
ADAPTER = read_yaml(RECIPE / "adapter.yaml") | {"metaclass": "bird"}
GENERATION = {
    "preset": "paper",
    "num_variants": 4,
    "num_candidates": 50,
    "num_inference_steps": 10,
    "guidance_scale": 1.0,
    "max_skipped": 1.0,
    "strength": 0.0,
    "image_format": "png",
}
REFINED = {"strength": 0.5}
GOOD = {"preset": "recommended"}
BARRIER = {**GOOD, "saliency_method": "minimum-barrier"}
TRUE = {**GOOD, "saliency_method": "mask-column", "mask_column": "mask", "mask_refinement": "none"}
CENTRE = {"saliency_method": "mask-column", "mask_column": "centre", "selection_method": "random"}
CAM = {**GOOD, "saliency_method": "grad-cam", "trust_test": "warn"}

# What a generation is given beyond GENERATION; "classifier" names one of the two that are trained
# for saliency.
ARMS = {
    "paper, S = 0": {},
    "paper, S = 0.5": REFINED,
    "spectral residual, union": {"saliency_method": "spectral-residual"},
    "fixed centre mask, union, random targets": CENTRE,
    "minimum barrier + GrabCut, union": {**BARRIER, "mixing_method": "union"},
    "minimum barrier + GrabCut, source": {**BARRIER, "mixing_method": "source"},
    "recommended, S = 0": GOOD,
    "its targets from the whole split": {**GOOD, "target_classes": "any"},
    "its targets random": {**GOOD, "selection_method": "random"},
    "its targets dissimilar": {**GOOD, "selection_method": "dissimilar"},
    "its targets of novel background, each at most 8 times": {
        **GOOD,
        "selection_method": "novel-background",
        "max_target_reuse": 8,
    },
    "Grad-CAM + GrabCut, inpaint": CAM,
    "the same, bootstrapped": {**CAM, "classifier": "bootstrapped"},
    "true masks, union": {**TRUE, "mixing_method": "union"},
    "true masks, inpaint": TRUE,
    "recommended, S = 0.5": {
        **GOOD,
        **REFINED,
        "foreground_strength": 0.5,
        "paste_foreground": False,
    },
    "recommended, S = 0.5, foreground 0": {**GOOD, **REFINED, "paste_foreground": False},
    "recommended, S = 0.5, foreground 0 and pasted": {**GOOD, **REFINED},
    "recommended, S = 0.1, foreground 0 and pasted": {
        **GOOD,
        "strength": 0.1,
    },  # hardly more than the VAE's round trip
}
REAL, UNTIED, RARE = "real images only", "real images only, untied", "recommended, S = 0, p = .1"
CHOSEN = "recommended, S = 0"


def settings_from(settings_class, **values):
    """Settings through the programs' own parser."""
    return parse_settings(settings_class, as_arguments(values))


def make_domain(folder: Path, seed: int, tie: float, train: int = TRAIN) -> None:
    """The birds of one seed, with a column `centre`; the large validation split is for a judge."""
    if folder.exists():
        return
    splits = make_dataset(SPECIES, train, JUDGE, TEST, seed=seed, tie=tie)
    centred = DatasetDict({name: with_centre(rows, 64) for name, rows in splits.items()})
    write_atomically(folder, lambda temporary: save_dataset(centred, temporary))


def with_centre(rows: Dataset, size: int) -> Dataset:
    """Adds a column `centre`: the same disc in the middle of every row, as a size x size mask."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    disc = png(np.where(np.hypot(x, y) < size / 3.2, 255, 0).astype(np.uint8))
    return rows.add_column("centre", [disc] * len(rows), feature=Image())
