"""SGD-Mix as a function for `Dataset.map`, for exploration.

    pipeline = SGDMixPipeline.from_pretrained("org/cub-adapter", preset="recommended")
    mapped = MappedSplit(pipeline, dataset)
    augmented = dataset.map(mapped, **mapped.options)

Saliency maps and targets are made when the object is made. `sgdmix augment` gives the same rows,
and resumes, shards, pins its inputs and publishes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from typing import Literal

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features
from datasets.fingerprint import Hasher

from sgdmix_hub.data.images import ANYWHERE
from sgdmix_hub.data.splits import Split, split_of, unlabelled_split
from sgdmix_hub.generation.background_features import backgrounds_at_hand
from sgdmix_hub.generation.bank import Bank, NoForeground, with_bank
from sgdmix_hub.generation.batches import refined_rows
from sgdmix_hub.generation.encoding import encode_image
from sgdmix_hub.generation.inputs import Inputs, environment
from sgdmix_hub.generation.plan import PlanRow, plan_parts, rows_of
from sgdmix_hub.generation.row_maker import RowMaker
from sgdmix_hub.generation.row_store import RowValues
from sgdmix_hub.generation.saliency_maps import SaliencyMaps, block_maps
from sgdmix_hub.generation.worker import in_plan_order
from sgdmix_hub.hub.pins import Pin
from sgdmix_hub.method.saliency.segmentation import MaskFunctionSource
from sgdmix_hub.method.saliency.sources import load_source
from sgdmix_hub.publishing.layout import shard_features
from sgdmix_hub.settings.generation import AugmentSettings, bank_settings
from sgdmix_hub.settings.presets import saliency_method

from ._compat import dataset_fingerprint
from .errors import UserError
from .pipeline import SGDMixPipeline

logger = logging.getLogger(__name__)
BATCHES_A_BLOCK = 8  # of images, after which the bar moves


class MappedSplit:
    """Maps every row of a dataset to its `num_variants` augmented rows with the published columns.

    A row that cannot be made is left out with a warning. The maps are made when the object is made,
    under one bar; `Dataset.map` has another, over the rows. `pipeline.set_progress_bar_config`
    changes the first, `datasets.disable_progress_bars` hides the second.
    """

    def __init__(
        self,
        pipeline: SGDMixPipeline,
        dataset: Dataset,
        *,
        image_column: str = "image",
        label_column: str = "label",
        seed: int = 0,
        image_format: Literal["jpeg", "webp", "png"] = "jpeg",
        publish_mask: bool = True,
        publish_mixed: bool = False,
        backgrounds: Dataset | None = None,
        background_image_column: str = "image",
        background_has_foreground: bool = False,
    ):
        """`image_column`: of images; `label_column`: of a `ClassLabel`; `seed`: of all draws, in
        [0, 2**32). `publish_mask`, `publish_mixed`: as the settings of a generation. `backgrounds`:
        a dataset whose images are the targets; it needs no labels, and all of them is background
        unless `background_has_foreground`.

        Raises `UserError` if a column is missing or has the wrong type, or if the pipeline's
        models have other classes.

        Raises `ValueError` if the pipeline's models were not loaded by `from_pretrained`.
        """
        if pipeline.pins is None and (pipeline.refiner, pipeline.source) != (None, None):
            raise ValueError(
                "the models of this pipeline are unknown: load it with "
                "SGDMixPipeline.from_pretrained"
            )
        pin = Pin("dataset", dataset_fingerprint(dataset))
        self.split = split_of(dataset, pin, image_column, label_column, files_in=ANYWHERE)
        method = dataclasses.asdict(pipeline.settings)
        self.settings = AugmentSettings(
            dataset_name=pin.name,
            output_dir="unused",
            seed=seed,
            image_column=image_column,
            label_column=label_column,
            image_format=image_format,
            publish_mask=publish_mask,
            publish_mixed=publish_mixed,
            **method,
        )
        self._check_classes(pipeline)
        maps = self._maps(pipeline, self.settings, self.split)
        bank = None
        if backgrounds is not None:
            self.settings = with_bank(
                self.settings, background_image_column, background_has_foreground
            )
            bank = self._bank(pipeline, backgrounds)
        adapter = pipeline.refiner.adapter if pipeline.refiner else None
        self.maker = RowMaker(
            self.settings,
            Inputs(self.split, None, adapter, None, None),
            maps,
            pipeline=pipeline,
            bank=bank,
        )
        features = backgrounds_at_hand(self.settings, self.split, maps, bank)
        parts = plan_parts(self.settings, self.split, maps, features, bank)
        self.plan = pa.concat_tables(parts).combine_chunks()
        self._sources = self.plan["source_index"].to_numpy()

    def _bank(self, pipeline: SGDMixPipeline, backgrounds: Dataset) -> Bank:
        """The bank of backgrounds with its maps."""
        settings = bank_settings(self.settings)
        pin = Pin("backgrounds", dataset_fingerprint(backgrounds))
        images = unlabelled_split(backgrounds, pin, settings.image_column, ANYWHERE)
        maps: SaliencyMaps = NoForeground("")
        if self.settings.background_has_foreground:
            maps = self._maps(pipeline, settings, images)
        return Bank(settings, images, maps, len(self.split.labels))

    def _maps(
        self, pipeline: SGDMixPipeline, settings: AugmentSettings, split: Split
    ) -> SaliencyMaps:
        """The maps of all rows of a split, made under the pipeline's progress bar."""
        source = pipeline.source or load_source(settings)
        rows, size = split.subset, source.batch_size * BATCHES_A_BLOCK
        blocks, reasons = [], {}
        with pipeline.progress_bar(len(rows), desc="saliency maps", unit="image") as bar:
            for start in range(0, len(rows), size):
                block = rows[start : start + size]
                values, unusable = block_maps(settings, split, block, source)
                blocks.append(values)
                reasons |= {int(row): reason for row, reason in unusable.items()}
                bar.update(len(block))
        found = RowValues(rows, np.concatenate(blocks), reasons)
        return SaliencyMaps(found, "", saliency_method(settings))

    def _check_classes(self, pipeline: SGDMixPipeline) -> None:
        """Raises `UserError` if class numbers mean other classes to the pipeline's models."""
        known = pipeline.class_names
        if known is not None and known != self.split.class_names:
            count, column = len(self.split.class_names), self.settings.label_column
            raise UserError(
                f"the pipeline's models know {len(known)} other classes than the {count} of the "
                f"dataset's column {column}"
            )

    @property
    def options(self) -> dict:
        """Keyword arguments for `Dataset.map`.

        The fingerprint covers everything that the rows depend on: the split, the settings, the pins
        of the models, this machine and the versions of the libraries. No model is hashed.
        """
        pins = sorted((self.maker.pipeline.pins or {}).items())
        facts = [
            self.split.pin.revision,
            self.settings,
            self.split.class_names,
            pins,
            sorted(environment(self.settings).items()),
        ]
        if self.maker.bank is not None:
            facts.append(self.maker.bank.split.pin.revision)
        source = self.maker.pipeline.source
        if isinstance(source, MaskFunctionSource):
            facts.append(Hasher.hash(source.make_mask))
        return {
            "batched": True,
            "batch_size": self.settings.batch_size,
            "with_indices": True,
            "desc": "sgd-mix",
            "remove_columns": self.split.rows.column_names,
            "features": self._features(),
            "new_fingerprint": hashlib.sha256(repr(facts).encode()).hexdigest()[:16],
        }

    def __call__(self, batch: dict, indices: list[int]) -> dict:
        """The published columns of the rows with these numbers."""
        rows = np.unique(indices)
        starts, ends = (np.searchsorted(self._sources, rows, side) for side in ("left", "right"))
        runs = [np.arange(start, end) for start, end in zip(starts, ends, strict=True)]
        positions = np.concatenate([np.arange(0), *runs])
        planned = sorted(rows_of(self.plan.take(positions)), key=lambda row: row.strength)
        mixed = [(row, self.maker.mixture_or_reason(row)) for row in planned]
        made: list[dict] = []
        skipped: list[dict] = []
        refined = refined_rows(self.maker, mixed, skipped, lambda rows: None)
        for row, finished in sorted(refined, key=in_plan_order):
            cells = {
                name: self.maker.image_cell(row, self._encoded(row, name, pixels), name)
                for name, pixels in self.maker.images(finished).items()
            }
            made.append(cells | self.maker.columns(row, finished.mixture))
        for record in skipped:
            logger.warning(
                f"row {record['source_index']}, variant {record['variant']}: {record['reason']}"
            )
        return {name: [row[name] for row in made] for name in self._features()}

    def _encoded(self, row: PlanRow, column: str, pixels: np.ndarray) -> bytes:
        settings, mark = self.settings, self.maker.mark(row, column)
        return encode_image(pixels, settings.image_format, settings.image_quality, mark)

    def _features(self) -> Features:
        return shard_features(self.split.class_names, self.settings.more_columns)
