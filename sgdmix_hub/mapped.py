"""SGD-Mix as a function for `Dataset.map`, to explore with: it holds its split, makes its maps and
chooses its targets at once.

    mapped = MappedSplit(SGDMixPipeline.from_pretrained("org/cub-adapter", preset="recommended"),
    dataset) augmented = dataset.map(mapped, **mapped.options)

A dataset to publish is made by `augment.py`, which resumes, shards, and pins what it reads; its
rows are the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import warnings

import numpy as np
from datasets import Dataset

from sgdmix_hub.data.images import ANYWHERE
from sgdmix_hub.data.splits import split_of
from sgdmix_hub.generation.encoding import encode_image
from sgdmix_hub.generation.inputs import Inputs, environment
from sgdmix_hub.generation.plan import make_plan
from sgdmix_hub.generation.row_maker import RowMaker
from sgdmix_hub.generation.row_store import RowValues
from sgdmix_hub.generation.saliency_maps import block_maps
from sgdmix_hub.generation.worker import in_plan_order, refined_rows
from sgdmix_hub.hub.pins import Pin
from sgdmix_hub.method.saliency.sources import load_source
from sgdmix_hub.publishing.layout import shard_features
from sgdmix_hub.settings.generation import AugmentSettings

from .errors import UserError
from .pipeline import SGDMixPipeline


class MappedSplit:
    """Every row of a dataset gives its `num_variants` augmented rows, with the published columns;
    rows that cannot be made are left out, with a warning.
    """

    def __init__(
        self,
        pipeline: SGDMixPipeline,
        dataset: Dataset,
        *,
        image_column: str = "image",
        label_column: str = "label",
        seed: int = 0,
    ):
        """Raises `UserError` when the columns are missing or hold something else, or when the
        pipeline's models have other classes, and `ValueError` for a pipeline with models that
        `from_pretrained` did not load.
        """
        if pipeline.pins is None and (pipeline.refiner, pipeline.source) != (None, None):
            raise ValueError(
                "which models this pipeline holds is not known: load it with SGDMixPipeline.from_pretrained"
            )
        pin = Pin("dataset", dataset._fingerprint)
        self.split = split_of(dataset, pin, image_column, label_column, files_in=ANYWHERE)
        method = dataclasses.asdict(pipeline.settings)
        columns = {"image_column": image_column, "label_column": label_column}
        self.settings = AugmentSettings(
            dataset_name=pin.name, output_dir="unused", seed=seed, **columns, **method
        )
        self._check_classes(pipeline)
        source = pipeline.source or load_source(self.settings)
        maps, unusable = block_maps(self.settings, self.split, self.split.subset, source)
        maps = RowValues(
            self.split.subset, maps, {int(row): reason for row, reason in unusable.items()}
        )
        adapter = pipeline.refiner.adapter if pipeline.refiner else None
        self.maker = RowMaker(
            self.settings, Inputs(self.split, None, adapter, None, None), maps, pipeline=pipeline
        )
        self.plan = list(make_plan(self.settings, self.split, maps))
        self._sources = np.array([row.source_index for row in self.plan])

    def _check_classes(self, pipeline: SGDMixPipeline) -> None:
        """Raises `UserError`: a class's number would mean another class to the pipeline."""
        known = pipeline.class_names
        if known not in (None, self.split.class_names):
            raise UserError(
                f"the pipeline's models know {len(known)} other classes than the "
                f"{len(self.split.class_names)} of the dataset's column {self.settings.label_column}"
            )

    @property
    def options(self) -> dict:
        """What `Dataset.map` has to be told besides the function. The fingerprint covers what the
        rows depend on, without hashing a diffusion model: the split, the settings, the content of
        every model, this machine and the libraries' versions.
        """
        pins = sorted((self.maker.pipeline.pins or {}).items())
        facts = [
            self.split.pin.revision,
            self.settings,
            self.split.class_names,
            pins,
            sorted(environment(self.settings).items()),
        ]
        return {
            "batched": True,
            "batch_size": self.settings.batch_size,
            "with_indices": True,
            "remove_columns": self.split.rows.column_names,
            "features": shard_features(self.split.class_names),
            "new_fingerprint": hashlib.sha256(repr(facts).encode()).hexdigest()[:16],
        }

    def __call__(self, batch: dict, indices: list[int]) -> dict:
        """The published columns of the rows with these numbers."""
        planned = [
            self.plan[position] for position in np.flatnonzero(np.isin(self._sources, indices))
        ]
        mixed = [
            (row, self.maker.mixture_or_reason(row))
            for row in sorted(planned, key=lambda row: row.strength)
        ]
        made, skipped = [], []
        for row, mixture, image in sorted(
            refined_rows(self.maker, mixed, skipped, lambda rows: None), key=in_plan_order
        ):
            encoded = {
                "bytes": encode_image(image, self.settings.image_format),
                "path": self.maker.image_name(row),
            }
            made.append({"image": encoded} | self.maker.columns(row, mixture.foreground_area))
        for record in skipped:
            warnings.warn(
                f"row {record['source_index']}, variant {record['variant']}: {record['reason']}",
                stacklevel=2,
            )
        return {
            name: [row[name] for row in made] for name in shard_features(self.split.class_names)
        }
