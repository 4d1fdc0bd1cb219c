"""What the generation's benchmark works on: the demo's birds, patterns in any number, and adapters trained for a few steps."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from training import SHAPES, build_base

from sgdmix_hub import train_adapter
from sgdmix_hub.demo.domain import make_dataset, save_dataset
from sgdmix_hub.demo.train_tiny_base import TINY_BASE
from sgdmix_hub.processes import write_atomically
from sgdmix_hub.training_settings import AdapterSettings

PATTERN_CLASSES = 20
PATTERN_SIZE = 32


@dataclass(frozen=True)
class Prepared:
    """Folders of what a shape of the benchmark needs."""

    birds: Path
    base: Path
    adapter: Path
    patterns_adapter: Path


def prepare(work_dir: Path, shape: str = "tiny") -> Prepared:
    """The birds, a base and adapters for it, made where they are missing."""
    birds, base = work_dir / "birds", TINY_BASE
    if not birds.exists():
        write_atomically(birds, lambda folder: save_dataset(make_dataset(6, 20, 1, 1, seed=0), folder))
    if shape != "tiny":
        base = work_dir / shape
        if not base.exists():
            write_atomically(base, build_base(SHAPES[shape]).save_pretrained)
    resolution = SHAPES[shape]["resolution"] if shape != "tiny" else 64
    adapters = [
        trained_adapter(work_dir / f"adapter-{shape}-{name}", dataset, base, resolution)
        for name, dataset in {"birds": birds, "patterns": make_patterns(work_dir, 200)}.items()
    ]
    return Prepared(birds, base, *adapters)


def trained_adapter(folder: Path, dataset: Path, base: Path, resolution: int) -> Path:
    """An adapter after two steps: its weights do not change speed."""
    values = {"dataset_name": str(dataset), "output_dir": str(folder), "pretrained_model_name_or_path": str(base), "metaclass": "bird"}
    if not (folder / "adapter.json").exists():
        drawing = {"num_inference_steps": 1, "judged_strength": 1.0}
        train_adapter.main(AdapterSettings(**values, **drawing, resolution=resolution, max_train_steps=2, train_batch_size=1))
    return folder


def make_patterns(work_dir: Path, rows: int) -> Path:
    """A dataset of that many small images, a bright square before a coarse pattern each."""
    folder = work_dir / f"patterns-{rows}"
    if not folder.exists():
        features = Features(image=Image(), label=ClassLabel(names=[f"class {label}" for label in range(PATTERN_CLASSES)]))
        values = {"image": [pattern(row) for row in range(rows)], "label": [row % PATTERN_CLASSES for row in range(rows)]}

        def write(temporary: Path) -> None:
            (temporary / "data").mkdir(parents=True)
            Dataset.from_dict(values, features=features).to_parquet(temporary / "data" / "train-00000-of-00001.parquet")

        write_atomically(folder, write)
    return folder


def pattern(row: int) -> dict:
    rng = np.random.default_rng(row)
    pixels = np.kron(rng.integers(60, 120, (8, 8, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    y, x = rng.integers(4, 16, 2)
    pixels[y : y + 12, x : x + 12] = rng.integers(150, 255, 3)
    buffer = io.BytesIO()
    PILImage.fromarray(pixels).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}
