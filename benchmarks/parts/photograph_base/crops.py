"""Crops of photographs, some with a cut-out pasted on them, and what they show."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from cutouts import blend, crop, placed, stamps

from sgdmix_hub.files import read_json, write_json

from ..masks.photographs import chosen_on
from .photographs import held_out, photographs, words

SIZE, CROPS, HELD_OUT_CROPS = 128, 4000, 64
PASTED = 0.35  # share of the training crops that show a cut-out
TRAIN, HELD_OUT = 0, 1

Photographs = dict[str, tuple[np.ndarray, str]]
Objects = dict[str, np.ndarray]


def known_objects(root: Path) -> Objects:
    """What it is -> RGBA of the cut-outs that the test of photograph_shift.py never shows."""
    return {words(name): rgba for name, _, rgba in stamps(root) if chosen_on(name)}


def one_crop(
    photographs: Photographs, objects: Objects, seed: int, split: int, index: int, size: int
) -> tuple[np.ndarray, str]:
    """A crop, uint8 (size, size, 3), and what it shows; a function of (seed, split, index)."""
    rng = np.random.default_rng([seed, split, index])
    names = sorted(name for name in photographs if held_out(name) == (split == HELD_OUT))
    pixels, shows = photographs[names[index % len(names)]]
    ground = np.ascontiguousarray(crop(pixels, rng, size))
    if split == HELD_OUT or rng.random() >= PASTED:
        return ground, shows
    shows = sorted(objects)[rng.integers(len(objects))]
    rgba = objects[shows][:, ::-1] if rng.random() < 0.5 else objects[shows]
    layer = placed(rgba, rng, size, rng.uniform(0.1, 0.5), rng.uniform(-20, 20), None)
    return blend(layer, ground, 0.2)[0], shows


def make_crops(
    photographs: Photographs, objects: Objects, seed: int, split: int, count: int, size: int = SIZE
) -> tuple[np.ndarray, list[str]]:
    """`count` crops, uint8 (count, size, size, 3), of all photographs of a split in turn."""
    made = [one_crop(photographs, objects, seed, split, row, size) for row in range(count)]
    pixels, shown = zip(*made, strict=True)
    return np.stack(pixels), list(shown)


def cached_crops(
    root: Path, work_dir: Path, seed: int, count: int
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """The training crops with what they show, and the held-out crops; made on first use."""
    paths = [work_dir / f"{name}_{count}_{seed}.npy" for name in ("crops", "held_out")]
    shown_path = work_dir / f"shown_{count}_{seed}.json"
    if not shown_path.exists():
        work_dir.mkdir(parents=True, exist_ok=True)
        grounds, objects = photographs(root), known_objects(root)
        pixels, shown = make_crops(grounds, objects, seed, TRAIN, count)
        others, _ = make_crops(grounds, objects, seed, HELD_OUT, HELD_OUT_CROPS)
        for path, images in zip(paths, (pixels, others), strict=True):
            partial = path.with_suffix(".partial.npy")
            np.save(partial, images)
            os.replace(partial, path)
        write_json(shown_path, shown)  # last: it says that the others are whole
    return np.load(paths[0], mmap_mode="r"), read_json(shown_path), np.load(paths[1])
