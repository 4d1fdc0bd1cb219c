"""Settings that say which rows of which dataset a program works on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import ClassVar, Protocol

from sgdmix_hub.errors import UserError, shown
from sgdmix_hub.files import lies_in
from sgdmix_hub.storage.places import check_url, is_url, refuse_url

from .fields import LARGEST_SEED, LONGEST_NAME, Checked, required, setting


@dataclass(kw_only=True)
class DataSettings(Checked):
    """Which rows of which dataset, at which revision: all stages of a run see the same subset."""

    in_stores: ClassVar[bool] = False  # whether `output_dir` may be the URL of an object store

    dataset_name: str = required(
        "Hub dataset as org/name[@revision], or a local folder", pinned=True
    )
    dataset_config_name: str | None = setting(
        None, "configuration of the dataset", at_most=LONGEST_NAME
    )
    dataset_split: str = setting("train", "split of the dataset", at_most=LONGEST_NAME)
    image_column: str = setting("image", "column of the images", at_most=LONGEST_NAME)
    label_column: str = setting("label", "column of the labels", at_most=LONGEST_NAME)
    streaming: bool = setting(
        False,
        "read images where the dataset is, by need, instead of copying it first: Parquet files or "
        "a WebDataset (of tar archives)",
        changes="nothing",
    )
    max_image_pixels: int | None = setting(
        None,
        "skip images with more pixels; 178,956,970 if not given",
        at_least=1,
        at_most=10**9,
    )
    examples_per_class: int | None = setting(
        None,
        "few-shot: number of rows to draw from each class; all if not given",
        at_least=1,
        at_most=10**7,
    )
    imbalance_factor: float | None = setting(
        None,
        "long tail: size of the rarest class divided by the most frequent one's, in (0, 1]",
        above=0,
        at_most=1,
    )
    subset_seed: int = setting(
        0,
        "seed of the few-shot or long-tail subset; use the same in every stage",
        at_least=0,
        at_most=LARGEST_SEED,
    )
    seed: int = setting(0, "seed of every other random draw", at_least=0, at_most=LARGEST_SEED)
    output_dir: str = required(
        "output folder; sgdmix augment also takes s3://bucket/folder, hf://buckets/org/name/folder",
        changes="nothing",
    )
    num_threads: int = setting(
        1,
        "CPU threads per process (without a GPU)",
        changes="last_bits",
        at_least=1,
        at_most=1024,
    )

    def validate(self) -> None:
        super().validate()
        if not self.in_stores:
            refuse_url("output_dir", self.output_dir)
        elif is_url(self.output_dir):
            check_url("output_dir", self.output_dir)
        outside_of_dataset(self, "output_dir")


class NamesDataset(Protocol):
    """Settings with a dataset."""

    @property
    def dataset_name(self) -> str | None: ...


def outside_of_dataset(settings: NamesDataset, *names: str) -> None:
    """Raises `UserError` if a folder to write to lies inside the folder of a local dataset: the run
    would change its own input. `names`: the settings that name such folders.
    """
    dataset = settings.dataset_name
    for name in names:
        folder = getattr(settings, name)
        if folder and dataset and os.path.isdir(dataset) and lies_in(folder, dataset):
            raise UserError(
                f"{name} {shown(folder)} lies inside the dataset's folder {shown(dataset)}: choose "
                "a folder outside of it"
            )
