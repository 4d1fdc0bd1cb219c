"""Data for the studio's benchmark: large photographs, and a version of many rows."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image
from skimage import data

from sgdmix_hub.files import write_sealed
from sgdmix_hub.publishing.layout import RepoLayout, file_facts, shard_features
from sgdmix_hub.publishing.parquet import write_parquet

CLASSES = 200
PIN = f"org/birds@{'0' * 40}"  # of the sources, which are on no Hub
THUMBNAIL = 64  # pixels of the images of many rows


def large_images(folder: Path, count: int) -> None:
    """A folder of JPEGs of 6000 x 4000 pixels in two classes: photographs of scikit-image."""
    photographs = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    for number in range(count):
        picture = Image.fromarray(photographs[number % len(photographs)])
        inside = folder / "train" / ("one", "other")[number % 2]
        inside.mkdir(parents=True, exist_ok=True)
        picture.resize((6000, 4000)).save(inside / f"{number}.jpg", quality=90)


def many_rows(repo: Path, rows: int, in_a_shard: int) -> None:
    """A version of many rows in 200 classes, as a generation publishes it; its images are noise."""
    layout = RepoLayout("default")
    layout.make_folders(repo)
    features = shard_features([f"class {number}" for number in range(CLASSES)], ["mask"])
    schema, rng = features.arrow_schema, np.random.default_rng(0)
    shards = rows // in_a_shard
    for number in range(shards):
        first = number * in_a_shard
        table = pa.table(_columns(rng, first, in_a_shard), schema=schema)
        write_parquet(repo / layout.shard(number, shards), [table], schema)
    (repo / layout.config).write_text(f"dataset_name: {PIN}\nstrength: 0.7\n")
    write_sealed(repo / layout.manifest, _manifest(rows) | {"files": file_facts(repo)})


def _manifest(rows: int) -> dict:
    subset = {
        "dataset": PIN,
        "dataset_config_name": None,
        "dataset_split": "train",
        "examples_per_class": None,
        "imbalance_factor": None,
        "subset_seed": 0,
        "rows": rows,
        "rows_sha256": "0" * 64,
    }
    return {
        "fingerprint": "0" * 64,
        "pins": {"dataset_name": PIN},
        "subset": subset,
        "rows": rows,
        "planned_rows": rows,
        "skipped": [],
        "license": None,
    }


def _columns(rng: np.random.Generator, first: int, rows: int) -> dict:
    """One shard's columns."""
    images = [{"bytes": _jpeg(rng), "path": "0.jpeg"} for _ in range(rows)]
    mask = {"bytes": _mask(), "path": "0.png"}
    numbers = {
        name: rng.random(rows)
        for name in ("saliency_distance", "foreground_area", "sigma_start", "effective_strength")
    }
    return numbers | {
        "image": images,
        "label": rng.integers(0, CLASSES, rows),
        "source_index": np.arange(first, first + rows),
        "source_width": np.full(rows, 500, np.int32),
        "source_height": np.full(rows, 400, np.int32),
        "target_index": rng.integers(0, 10**5, rows),
        "target_label": rng.integers(0, CLASSES, rows),
        "variant": np.zeros(rows, np.int32),
        "strength": np.full(rows, 0.7),
        "foreground_strength": np.zeros(rows),
        "seed": rng.integers(0, 2**62, rows),
        "mask_confidence": rng.random(rows, dtype=np.float32),
        "prompt": ["a photo of a bird"] * rows,
        "mask": [mask] * rows,
    }


def _jpeg(rng: np.random.Generator) -> bytes:
    pixels = rng.integers(0, 255, (THUMBNAIL // 8, THUMBNAIL // 8, 3), np.uint8)
    written = io.BytesIO()
    picture = Image.fromarray(pixels).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
    picture.save(written, "JPEG", quality=90)
    return written.getvalue()


def _mask() -> bytes:
    written = io.BytesIO()
    pixels = np.zeros((THUMBNAIL, THUMBNAIL), bool)
    pixels[16:48, 16:48] = True
    Image.fromarray(pixels).save(written, "PNG")
    return written.getvalue()
