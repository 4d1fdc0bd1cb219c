"""One (type, seed): its cells as a dataset, the mixtures of every arm, and what is said of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from parts.evidence.runs import slug
from parts.method.arms import CLASSIFIER, SALIENCY, settings_from
from parts.photograph_shift.task import RESOLUTION, Images
from parts.solar_cells.arms import ARMS, DISC, EVERY, GENERATION, PAPER, REAL
from parts.solar_cells.cells import CLASSES, Cells, make_task
from parts.solar_cells.judge import Judge, lost, trust_by_class
from parts.solar_cells.masks import mask_figures, mirrored_iou
from PIL import Image

from sgdmix_hub import augment, train_classifier
from sgdmix_hub.data.splits import Split, load_split
from sgdmix_hub.demo.domain import png
from sgdmix_hub.errors import UserError
from sgdmix_hub.files import write_atomically
from sgdmix_hub.generation.saliency_maps import compute_maps
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.method.saliency.sources import load_cam
from sgdmix_hub.models.loading import load_classifier
from sgdmix_hub.models.segmenters.frames import MASK_SIZE
from sgdmix_hub.publishing.read import PublishedRows, load_published
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.presets import apply_preset
from sgdmix_hub.settings.training import ClassifierSettings

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Mixtures:
    """Of one arm: uint8 (m, RESOLUTION, RESOLUTION, 3), their sources' rows and labels (m,), and
    the share of each that is the source's.
    """

    pixels: np.ndarray
    sources: np.ndarray
    labels: np.ndarray
    kept: np.ndarray


NOTHING = Mixtures(
    np.zeros((0, RESOLUTION, RESOLUTION, 3), np.uint8),
    np.zeros(0, np.int64),
    np.zeros(0, np.int64),
    np.zeros(0),
)


def other_masks(masks: dict[int, np.ndarray], count: int, seed: int) -> list[np.ndarray]:
    """For each of `count` rows the mask of another row, each used about once; `masks`: by row.

    Raises `ValueError` for fewer than two masks.
    """
    if len(masks) < 2:
        raise ValueError("there are no masks to exchange")
    order = np.random.default_rng([seed, 1]).permutation(sorted(masks))
    following = {int(row): int(order[(place + 1) % len(order)]) for place, row in enumerate(order)}
    return [masks[following.get(row, int(order[row % len(order)]))] for row in range(count)]


def disc() -> np.ndarray:
    """A disc in the middle, over two fifths of the image: bool (MASK_SIZE, MASK_SIZE)."""
    y, x = np.mgrid[:MASK_SIZE, :MASK_SIZE] - (MASK_SIZE - 1) / 2
    return np.hypot(x, y) < np.sqrt(0.4 / np.pi) * MASK_SIZE


def write_dataset(
    folder: Path, cells: Images, masks: dict[str, list[np.ndarray]] | None = None
) -> None:
    """Writes cells, and columns of masks if given, as a local dataset, unless it is there."""
    if folder.exists():
        return
    columns: dict = {"image": [png(one) for one in cells.pixels], "label": cells.labels.tolist()}
    features = Features(image=ImageFeature(), label=ClassLabel(names=CLASSES))
    for name, of_rows in (masks or {}).items():
        columns[name] = [png(np.where(mask, 255, 0).astype(np.uint8)) for mask in of_rows]
        features[name] = ImageFeature()

    def write(temporary: Path) -> None:
        (temporary / "data").mkdir(parents=True)
        rows = Dataset.from_dict(columns, features=features)
        rows.to_parquet(temporary / "data" / "train-00000-of-00001.parquet")

    write_atomically(folder, write)


class Run:
    """The programs' runs for one type and seed, each in its own folder."""

    def __init__(self, work_dir: Path, kind: str, seed: int, cells: Cells):
        self.folder, self.seed = work_dir / kind / f"seed-{seed}", seed
        self.train, self.judged_by, self.test = make_task(cells, seed)
        write_dataset(self.folder / "images", self.train)

    def data(self, folder: Path) -> dict:
        return {"dataset_name": str(folder), "seed": self.seed}

    def network(self) -> Path:
        """The folder of the CAM's classifier, trained on the training cells alone."""
        values = self.data(self.folder / "images") | CLASSIFIER | SALIENCY
        output = self.folder / "network"
        train_classifier.main(settings_from(ClassifierSettings, **values, output_dir=str(output)))
        return output

    def settings(self, arm: str) -> AugmentSettings:
        """The settings of an arm's generation, after what it needs has been made."""
        images, values = self.folder / "images", GENERATION | (ARMS[arm] or {})
        if (column := values.get("mask_column")) is not None:
            images = self.folder / column
            is_disc = column == DISC
            masks = [disc()] * len(self.train.labels) if is_disc else self.exchanged()
            write_dataset(images, self.train, {column: masks})
        if arm == PAPER:
            values["classifier"] = str(self.network())
        places = {
            "output_dir": str(self.folder / slug(arm)),
            "saliency_dir": str(self.folder / "maps"),
        }
        return settings_from(AugmentSettings, **self.data(images), **values, **places)

    def rows(self, arm: str) -> PublishedRows | None:
        """What an arm's generation publishes; None if not one row could be made."""
        try:
            augment.main(self.settings(arm))
        except UserError as error:
            if "could be made" not in str(error):
                raise
            return None
        return load_published(str(self.folder / slug(arm) / "repo"))

    def mixtures(self, arm: str) -> Mixtures:
        """An arm's mixtures, none for real images alone."""
        rows = None if arm == REAL else self.rows(arm)
        if rows is None:
            return NOTHING
        images = [np.asarray(rows.image(place)) for place in range(len(rows.labels))]
        kept = rows.dataset.data.column("foreground_area").to_numpy()
        return Mixtures(np.stack(images), rows.sources, rows.labels, kept)

    def masks(self) -> tuple[dict[int, np.ndarray], dict[int, float]]:
        """Row -> its `consensus` mask, bool (MASK_SIZE, MASK_SIZE), and its confidence; of the rows
        that have one.
        """
        settings, split = apply_preset(self.settings(EVERY)), self.split()
        maps = compute_maps(settings, split, None, 0, 1, CPU)
        rows = [row for row in split.subset.tolist() if row not in maps.unusable]
        masks, confidences = {}, {}
        for row in rows:
            mask, confidence = maps.mask(row), maps.confidence(row)
            assert mask is not None and confidence is not None, "`consensus` gives both"
            masks[row], confidences[row] = mask, confidence
        return masks, confidences

    def exchanged(self) -> list[np.ndarray]:
        """A mask of another cell for each training cell. Raises `UserError` without masks."""
        masks, _ = self.masks()
        if len(masks) < 2:
            raise UserError("no masks to exchange could be made")
        return other_masks(masks, len(self.train.labels), self.seed)

    def split(self) -> Split:
        """The training cells, as the programs see them."""
        folder = str(self.folder / "images")
        settings = settings_from(ClassifierSettings, dataset_name=folder, output_dir="unused")
        return load_split(settings, resolve(folder, repo_type="dataset"))

    def mask_facts(self, with_mirror: bool) -> dict:
        """What can be known of the `consensus` masks; a cell without one is not trusted."""
        masks, confidences = self.masks()
        rows, found = sorted(masks), {}
        if rows:
            found = mask_figures(
                np.stack([masks[row] for row in rows]),
                np.array([confidences[row] for row in rows]),
                np.stack([resized(self.train.pixels[row][..., 0]) for row in rows]),
            )
        found["made"] = len(rows) / len(self.train.labels)
        if with_mirror:
            resize = apply_preset(self.settings(EVERY)).resize
            found["mirrored"] = float(np.mean(mirrored_iou(self.train.pixels, resize)))
        return found

    def trust(self, judge: Judge) -> dict[str, dict]:
        """The trust test of `paper`'s network and of the judge, by class."""
        settings, split = apply_preset(self.settings(PAPER)), self.split()
        assert settings.classifier is not None, "`settings` names the network that it trained"
        network = load_classifier(resolve(settings.classifier), split.class_names, CPU)
        cam = load_cam(settings, network)
        return {
            PAPER: trust_by_class(network, cam.size, split, settings.resize),
            "judge": trust_by_class(judge, RESOLUTION, split, settings.resize),
        }

    def measured(self, features, with_mirror: bool) -> dict:
        """What is said of masks, labels and trust."""
        judge = Judge(features, self.judged_by)
        labels = {
            "test cells": lost(judge.predict(self.test.pixels), self.test.labels),
            REAL: lost(judge.predict(self.train.pixels), self.train.labels),
        }
        kept, made = {}, {}
        for arm in ARMS:
            mixed = self.mixtures(arm)
            if len(mixed.labels):
                labels[arm] = lost(judge.predict(mixed.pixels), mixed.labels)
                kept[arm] = float(mixed.kept.mean())
                made[arm] = len(np.unique(mixed.sources)) / len(self.train.labels)
        return {
            "masks": self.mask_facts(with_mirror),
            "labels": labels,
            "kept": kept,
            "mixed": made,
            "trust": self.trust(judge),
        }


def resized(grey: np.ndarray) -> np.ndarray:
    """A grey image uint8 (h, w) as large as the masks."""
    return np.asarray(Image.fromarray(grey).resize((MASK_SIZE, MASK_SIZE), Image.Resampling.BOX))
