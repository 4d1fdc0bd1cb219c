"""Data of the generation benchmark: the demo's birds, patterns, bases, and short adapters."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from parts import large_bases, sd15
from PIL import Image as PILImage

from sgdmix_hub import train_adapter
from sgdmix_hub.demo.domain import make_dataset, save_dataset
from sgdmix_hub.demo.train_tiny_base import TINY_BASE
from sgdmix_hub.files import write_atomically
from sgdmix_hub.settings.adapter_training import AdapterSettings

TINY = "tiny"  # the demo's base; the other shapes have random weights
SHAPES = sd15.SHAPES | large_bases.SHAPES
TINY_RESOLUTION = 64
BIRD_CLASSES, BIRDS_OF_A_CLASS = 6, 64
PATTERN_CLASSES, PATTERN_SIZE, ADAPTERS_PATTERNS = 20, 32, 200


def resolution_of(shape: str) -> int:
    return TINY_RESOLUTION if shape == TINY else SHAPES[shape]["resolution"]


def is_flow(shape: str) -> bool:
    """Whether a shape is of a base trained by flow matching."""
    return SHAPES.get(shape, {}).get("layout") == "z-image"


def half_of(shape: str) -> str:
    """The half precision of other papers' scripts on a GPU; Z-Image leaves float16's range."""
    return "bfloat16" if is_flow(shape) else "float16"


def scheduler_of(shape: str) -> str:
    """The stock pipelines of flow matching take Euler alone."""
    return "euler" if is_flow(shape) else "dpmsolver++"


def birds(work_dir: Path) -> Path:
    """Enough images that every row of a measurement has a source of its own."""
    folder = work_dir / f"birds-{BIRD_CLASSES * BIRDS_OF_A_CLASS}"
    if not folder.exists():
        write_atomically(
            folder,
            lambda path: save_dataset(
                make_dataset(BIRD_CLASSES, BIRDS_OF_A_CLASS, 1, 1, seed=0), path
            ),
        )
    return folder


def base(work_dir: Path, shape: str) -> Path:
    if shape == TINY:
        return TINY_BASE
    folder = work_dir / f"base-{shape}"
    if not folder.exists():
        build = large_bases.build_large if shape in large_bases.SHAPES else sd15.build_base
        write_atomically(folder, build(SHAPES[shape]).save_pretrained)
    return folder


def birds_adapter(work_dir: Path, shape: str) -> Path:
    return _adapter(work_dir, birds(work_dir), base(work_dir, shape), resolution_of(shape))


def patterns_adapter(work_dir: Path) -> Path:
    return _adapter(work_dir, patterns(work_dir, ADAPTERS_PATTERNS), TINY_BASE, PATTERN_SIZE)


def _adapter(work_dir: Path, dataset: Path, base: Path, resolution: int) -> Path:
    """An adapter after two steps: its weights do not change speed."""
    folder = work_dir / f"adapter-{base.name}-{dataset.name}"
    places = {
        "dataset_name": str(dataset),
        "output_dir": str(folder),
        "pretrained_model_name_or_path": str(base),
    }
    drawing = {
        "num_inference_steps": 1,
        "judged_strength": 1.0,
        "guidance_scale": 1.0,
        "resolution": resolution,
    }
    if not (folder / "adapter.json").exists():
        train_adapter.main(
            AdapterSettings(
                **places, **drawing, metaclass="bird", num_train_samples=2, total_batch_size=1
            )
        )
    return folder


def patterns(work_dir: Path, rows: int) -> Path:
    """A dataset of that many small images, a bright square before a coarse pattern each."""
    folder = work_dir / f"patterns-{rows}"
    if not folder.exists():
        features = Features(
            image=Image(),
            label=ClassLabel(names=[f"class {label}" for label in range(PATTERN_CLASSES)]),
        )
        values = {
            "image": [_pattern(row) for row in range(rows)],
            "label": [row % PATTERN_CLASSES for row in range(rows)],
        }

        def write(temporary: Path) -> None:
            (temporary / "data").mkdir(parents=True)
            Dataset.from_dict(values, features=features).to_parquet(
                temporary / "data" / "train-00000-of-00001.parquet"
            )

        write_atomically(folder, write)
    return folder


def _pattern(row: int) -> dict:
    rng = np.random.default_rng(row)
    cells = PATTERN_SIZE // 4
    pixels = np.kron(rng.integers(60, 120, (cells, cells, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    y, x = rng.integers(4, 16, 2)
    pixels[y : y + 12, x : x + 12] = rng.integers(150, 255, 3)
    buffer = io.BytesIO()
    PILImage.fromarray(pixels).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}
