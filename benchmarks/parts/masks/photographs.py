"""Photographs and drawn birds with true masks, and the half that constants were chosen on."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from sgdmix_hub.demo.domain import make_dataset

BIRD_SEEDS = {True: (20, 21), False: (30, 31)}  # chosen on, told on


def chosen_on(name: str) -> bool:
    """Whether constants were chosen on the object of this name."""
    return zlib.crc32(name.encode()) % 2 == 0


@dataclass(frozen=True)
class Photograph:
    """One image of the domain: uint8 (size, size, 3), and its true mask, bool (size, size)."""

    kind: str
    obj: str
    image: np.ndarray
    true: np.ndarray
    ground: np.ndarray | None
    alpha: np.ndarray | None

    @property
    def chosen_on(self) -> bool:
        """Whether constants were chosen on this object."""
        return chosen_on(self.obj)


def photographs(domain: Path, masks: Path | None, poses: int) -> list[Photograph]:
    """The images of the first `poses` poses; of those without a segmenter's mask, none."""
    rows = []
    for row in json.loads((domain / "meta.json").read_text()):
        if row["pose"] >= poses:
            continue
        stem = domain / row["set"] / f"{row['index']:03d}"

        def grey(path: Path) -> np.ndarray:
            return np.asarray(Image.open(path).convert("L"))

        alpha = None if masks is None else masks / f"{row['set']}_{row['index']:03d}.png"
        rows.append(
            Photograph(
                row["set"],
                row["object"],
                np.asarray(Image.open(f"{stem}.png").convert("RGB")),
                grey(Path(f"{stem}_mask.png")) > 127,
                np.asarray(Image.open(f"{stem}_ground.png").convert("RGB")),
                grey(alpha) / np.float32(255) if alpha is not None and alpha.exists() else None,
            )
        )
    return rows


def birds(seeds: tuple[int, ...], count: int) -> list[Photograph]:
    """`count` procedural birds of each of six species for every seed; a species is an object."""
    rows = []
    for seed in seeds:
        for row in make_dataset(6, count, 1, 1, seed=seed, tie=0.95)["train"]:
            image, true = (np.asarray(row[name]) for name in ("image", "mask"))
            name = f"{seed}-{row['label']}"
            rows.append(Photograph("birds", name, image, true > 127, None, None))
    return rows


def small(image: np.ndarray, size: int = 64) -> np.ndarray:
    if image.shape[0] == size:
        return image
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)


def resized(image: np.ndarray, size: int) -> np.ndarray:
    interpolation = cv2.INTER_AREA if len(image) > size else cv2.INTER_CUBIC
    return cv2.resize(image, (size, size), interpolation=interpolation)
