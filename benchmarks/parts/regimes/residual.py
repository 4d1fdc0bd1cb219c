"""The residual trick: what the autoencoder loses of a mixture is given back where nothing was to
change.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from datasets import Dataset
from diffusers import AutoencoderKL
from parts.photograph_base.measures import load_vae, round_trip
from PIL import Image

from sgdmix_hub.demo.train_tiny_base import TINY_BASE
from sgdmix_hub.files import write_atomically
from sgdmix_hub.hub.manifests import read_manifest, write_manifest
from sgdmix_hub.publishing.layout import RepoLayout, facts_of
from sgdmix_hub.publishing.read import shards_in

LAYOUT = RepoLayout("default")
DONE = "residual"  # a file in the output folder: what is given back twice is wrong
RESTORED = {"publish_mask": True, "publish_mixed": True}  # what the trick needs of a version


def give_back(output: Path) -> None:
    """Adds the residual to the foregrounds of a generation's published images, in place, once."""
    if (output / DONE).exists():
        return
    repo, vae = output / "repo", load_vae(TINY_BASE)
    manifest = read_manifest(repo / LAYOUT.manifest)
    for name in shards_in(repo, "default"):
        rows = Dataset.from_parquet(str(repo / name), cache_dir=str(output / "cache"))
        columns = {key: rows[key] for key in rows.features} | {"image": list(restored(rows, vae))}
        changed = Dataset.from_dict(columns, rows.features)
        write_atomically(repo / name, lambda temporary, made=changed: made.to_parquet(temporary))
        manifest["files"][name] = facts_of(repo / name)
    write_manifest(repo / LAYOUT.manifest, manifest)
    (output / DONE).touch()


def restored(rows: Dataset, vae: AutoencoderKL) -> Iterator[Image.Image]:
    """The rows' images, each with what the autoencoder loses of its mixture in the foreground."""
    mixed = np.stack([np.array(row["mixed"].convert("RGB")) for row in rows])
    residuals = mixed.astype(np.int16) - round_trip(vae, mixed)
    for row, residual in zip(rows, residuals, strict=True):
        kept = np.array(row["mask"].convert("L")) > 0
        image = np.array(row["image"].convert("RGB")) + residual * kept[..., None]
        yield Image.fromarray(image.clip(0, 255).astype(np.uint8))


def foreground_error(repo: Path) -> float:
    """The mean difference between images and their mixtures in the foreground, of 255."""
    found: list[np.ndarray] = []
    for name in shards_in(repo, "default"):
        for row in Dataset.from_parquet(str(repo / name), cache_dir=str(repo.parent / "cache")):
            kept = np.array(row["mask"].convert("L")) > 0
            image, mixed = (
                np.array(row[column].convert("RGB"), np.int16) for column in ("image", "mixed")
            )
            found.append(np.abs(image - mixed)[kept].ravel())
    return float(np.concatenate(found).mean())
