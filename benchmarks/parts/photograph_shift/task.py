"""The tasks of a seed: training images on some places, test images on others."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cutouts import CALM, CLUTTER, backgrounds, blend, crop, placed, stamps
from PIL import Image

from ..masks.photographs import chosen_on

CLASSES, TEST, STRAYS = 8, 40, 3
SIZE, RESOLUTION = 256, 128
CATEGORIES = ("birds", "mammals")
Groups = dict[str, list[np.ndarray]]


@dataclass(frozen=True)
class Images:
    """Photographs uint8 (n, SIZE, SIZE, 3), true masks bool (n, SIZE, SIZE), classes int (n,)."""

    pixels: np.ndarray
    masks: np.ndarray
    labels: np.ndarray


def tied(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every class's own place; STRAYS images show that of another class."""
    shown = labels.copy()
    for row in rng.choice(len(labels), STRAYS, replace=False):
        shown[row] = (labels[row] + rng.integers(1, CLASSES)) % CLASSES
    return shown


def untied(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Any of the training places, whatever the class."""
    return rng.integers(0, CLASSES, len(labels))


@dataclass(frozen=True)
class Task:
    """How the training images are drawn; classes and test images are the same in every task."""

    results: str  # name of the results' file
    train: int  # images a class
    places: Callable[[np.ndarray, np.random.Generator], np.ndarray]


SHIFT, FEW_SHOT = "background-shift", "few-shot"
TASKS = {
    SHIFT: Task("photograph_shift", 8, tied),
    FEW_SHOT: Task("photograph_fewshot", 4, untied),
}


def told_objects(root: Path) -> dict[str, np.ndarray]:
    """Name -> RGBA of the birds and mammals on which no constant was chosen."""
    return {
        name: rgba
        for name, category, rgba in stamps(root)
        if category in CATEGORIES and not chosen_on(name)
    }


def ground_groups(root: Path) -> Groups:
    """Place -> its photographs; two panoramas of one place are one group."""
    groups: Groups = {}
    for name, pixels in backgrounds(root, sorted({*CALM, *CLUTTER})).items():
        groups.setdefault(name.partition("-gl")[0], []).append(pixels)
    return groups


def photograph(
    rgba: np.ndarray, grounds: list[np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The object in a random pose, scale, light and place on one of the photographs."""
    if rng.random() < 0.5:
        rgba = rgba[:, ::-1]
    cut = rng.choice(["left", "right", "bottom"]) if rng.random() < 0.2 else None
    layer = placed(rgba, rng, SIZE, rng.uniform(0.1, 0.5), rng.uniform(-20, 20), cut)
    light = rng.uniform(0.7, 1.2) * rng.uniform(0.93, 1.07, 3)
    layer[..., :3] = np.minimum(layer[..., :3] * light.astype(np.float32), layer[..., 3:])
    ground = crop(grounds[rng.integers(len(grounds))], rng, SIZE)
    return blend(layer, np.ascontiguousarray(ground), 0.2)


def drawn_names(objects: Iterable[str], rng: np.random.Generator) -> list[str]:
    """The objects of the classes."""
    return [str(name) for name in rng.choice(sorted(objects), CLASSES, replace=False)]


def class_names(objects: Iterable[str], seed: int) -> list[str]:
    """What a prompt calls the classes of a seed, in the order of their labels."""
    names = drawn_names(objects, np.random.default_rng([20261128, seed]))
    return [re.sub("[^a-z]+", " ", name.lower()).strip() for name in names]


def make_task(
    seed: int, task: Task, objects: dict[str, np.ndarray], groups: Groups, test: int = TEST
) -> tuple[list[str], Images, Images]:
    """The classes' names, the training images and `test` test images a class."""
    rng = np.random.default_rng([20261128, seed])
    names = drawn_names(objects, rng)
    places = [str(place) for place in rng.permutation(sorted(groups))]
    labels = np.repeat(np.arange(CLASSES), task.train)
    shown = task.places(labels, rng)
    test_labels = np.repeat(np.arange(CLASSES), test)
    test_rng = np.random.default_rng([20261128, seed, 1])
    test_shown = test_rng.integers(CLASSES, len(places), len(test_labels))

    def images(classes: np.ndarray, places_shown: np.ndarray, rng: np.random.Generator) -> Images:
        made = [
            photograph(objects[names[label]], groups[places[place]], rng)
            for label, place in zip(classes, places_shown, strict=True)
        ]
        pixels, masks = zip(*made, strict=True)
        return Images(np.stack(pixels), np.stack(masks), classes)

    return names, images(labels, shown, rng), images(test_labels, test_shown, test_rng)


def write_domain(folder: Path, seeds: list[int], task: Task, objects: dict, groups: Groups) -> None:
    """The training photographs as a domain that benchmarks/onnx_masks.py reads."""
    meta = []
    for seed in seeds:
        kind = f"seed-{seed}"
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for index, pixels in enumerate(make_task(seed, task, objects, groups, test=1)[1].pixels):
            Image.fromarray(pixels).save(folder / kind / f"{index:03d}.png")
            meta.append({"set": kind, "index": index})
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
