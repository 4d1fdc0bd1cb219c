"""The rows of the augmented dataset: a planned row -> its mixture -> its refined image and its columns."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from PIL import Image

from .config import AugmentSettings
from .data import UnusableImage
from .inputs import Inputs
from .pipeline import MaskedImage, Mixture, SGDMixPipeline, UnusableRow
from .refine import Refiner
from .saliency_store import SaliencyMaps
from .shards import PlanRow

ENCODER_OPTIONS = {"png": {}, "jpeg": {"quality": 95}, "webp": {"quality": 95}}
MASKED_IMAGES_KEPT = 256


class RowMaker:
    """Makes rows of a plan. The diffusion model is loaded on first use, and never at strength 0."""

    def __init__(self, settings: AugmentSettings, inputs: Inputs, maps: SaliencyMaps, device: torch.device):
        self.settings = settings
        self.inputs = inputs
        self.maps = maps
        self.device = device
        self.masked_image = lru_cache(maxsize=MASKED_IMAGES_KEPT)(self._masked_image)
        self.pipeline = SGDMixPipeline(settings, refiner=None)

    def load_refiner(self) -> None:
        """Loads the diffusion model and its adapter. Raises `UserError` when they do not fit each other."""
        if self.settings.strength > 0:
            refiner = Refiner(self.inputs.base, self.inputs.adapter, self.settings, self.device)
            self.pipeline = SGDMixPipeline(self.settings, refiner)

    def mixture(self, row: PlanRow) -> Mixture:
        """The mixture of one planned row. Raises `UnusableRow` or `UnusableImage`."""
        if row.skip is not None:
            raise UnusableRow(row.skip)
        source = self.masked_image(row.source_index)
        return self.pipeline.mix(source, self.masked_image(row.target_index, self.pipeline.target_aspect(source)))

    def filled_mixture(self, row: PlanRow) -> Mixture:
        """The mixture of one planned row as it is refined, also where a diffusion model fills its hole. Raises as `mixture` does."""
        mixture = self.mixture(row)
        if self.settings.inpainting_method == "diffusion" and self.pipeline.refiner is None:
            self.load_refiner()
        (filled,) = self.pipeline.inpaint([mixture], [row.seed])
        if isinstance(filled, str):
            raise UnusableRow(filled)
        return filled

    def _masked_image(self, index: int, aspect: float | None = None) -> MaskedImage:
        return self.pipeline.mask(self.inputs.split.image(index), self.maps[index], aspect)

    def make(self, plan_rows: list[PlanRow], advance: Callable[[int], None]) -> tuple[list[dict], list[dict]]:
        """Published rows, in the plan's order, and skipped rows with their reasons. `advance(n)` is told of n more rows done."""
        mixed: list[tuple[PlanRow, Mixture]] = []
        skipped: list[dict] = []
        for row in plan_rows:
            advance(0)
            try:
                mixed.append((row, self.mixture(row)))
            except (UnusableRow, UnusableImage) as reason:
                skipped.append(_skip_record(row, str(reason)))
        advance(len(skipped))
        made = []
        for start in range(0, len(mixed), self.settings.batch_size):
            batch = mixed[start : start + self.settings.batch_size]
            filled = self.pipeline.inpaint([mixture for _, mixture in batch], [row.seed for row, _ in batch])
            skipped += [_skip_record(row, reason) for (row, _), reason in zip(batch, filled, strict=True) if isinstance(reason, str)]
            rows = [row for (row, _), mixture in zip(batch, filled, strict=True) if not isinstance(mixture, str)]
            mixtures = [mixture for mixture in filled if not isinstance(mixture, str)]
            labels = [int(self.inputs.split.labels[row.source_index]) for row in rows]
            images = self.pipeline.refine(mixtures, labels, [row.seed for row in rows])
            for row, mixture, label, image in zip(rows, mixtures, labels, images, strict=True):
                if isinstance(image, str):
                    skipped.append(_skip_record(row, image))
                else:
                    made.append(self._columns(row, mixture, label, image))
            advance(len(batch))
        return made, sorted(skipped, key=lambda record: (record["source_index"], record["variant"]))

    def _columns(self, row: PlanRow, mixture: Mixture, label: int, image: np.ndarray) -> dict:
        settings = self.settings
        name = f"{row.source_index:08d}-{row.variant}.{settings.image_format}"
        return {
            "image": {"bytes": encode_image(image, settings.image_format), "path": name},
            "label": label,
            "source_index": row.source_index,
            "target_index": row.target_index,
            "target_label": int(self.inputs.split.labels[row.target_index]),
            "variant": row.variant,
            "strength": row.strength,
            "effective_strength": settings.effective_strength,
            "foreground_strength": row.strength if settings.foreground_strength is None else settings.foreground_strength,
            "seed": row.seed,
            "saliency_distance": row.saliency_distance,
            "foreground_area": mixture.foreground_area,
            "prompt": self.inputs.prompt(label),
        }


def _skip_record(row: PlanRow, reason: str) -> dict:
    return {"source_index": row.source_index, "variant": row.variant, "reason": reason}


def encode_image(pixels: np.ndarray, image_format: str) -> bytes:
    """uint8 (h, w, 3) as the bytes of an image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=image_format.upper(), **ENCODER_OPTIONS[image_format])
    return buffer.getvalue()
