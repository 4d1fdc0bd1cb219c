"""Which rows of which dataset a run works on. Shared by every program."""

from __future__ import annotations

import os
from dataclasses import dataclass

from sgdmix_hub.errors import UserError, shown
from sgdmix_hub.files import lies_in

from .fields import LARGEST_SEED, LONGEST_NAME, Checked, required, setting


@dataclass(kw_only=True)
class DataSettings(Checked):
    """Which rows of which dataset, at which revision. Shared by every run, so that all of them see
    the same subset.
    """

    dataset_name: str = required("Hub dataset as org/name or org/name@revision, or a local folder")
    dataset_config_name: str | None = setting(
        None, "configuration of the dataset", at_most=LONGEST_NAME
    )
    dataset_split: str = setting("train", "split to work on", at_most=LONGEST_NAME)
    image_column: str = setting("image", "column with the images", at_most=LONGEST_NAME)
    label_column: str = setting("label", "column with the labels", at_most=LONGEST_NAME)
    max_image_pixels: int | None = setting(
        None,
        "images with more pixels are not read; 178,956,970 when not given",
        at_least=1,
        at_most=10**9,
    )
    examples_per_class: int | None = setting(
        None, "few-shot: rows drawn from each class; all when not given", at_least=1, at_most=10**7
    )
    imbalance_factor: float | None = setting(
        None,
        "long tail: size of the rarest class over the most frequent, in (0, 1]",
        above=0,
        at_most=1,
    )
    subset_seed: int = setting(
        0,
        "seed of the few-shot or long-tail subset; the same in every stage",
        at_least=0,
        at_most=LARGEST_SEED,
    )
    seed: int = setting(
        0, "seed of everything that is drawn in this run", at_least=0, at_most=LARGEST_SEED
    )
    output_dir: str = required("folder that the run writes")
    num_threads: int = setting(
        1, "CPU threads per process (only used where there is no GPU)", at_least=1, at_most=1024
    )

    def validate(self) -> None:
        """Raises `UserError` on values that no run could use together."""
        outside_of_dataset(self, "output_dir")


def outside_of_dataset(settings, *names: str) -> None:
    """Raises `UserError` when a folder that is written to lies inside the folder of a local
    dataset: a run would change its own input.
    """
    dataset = settings.dataset_name
    for name in names:
        folder = getattr(settings, name)
        if folder and dataset and os.path.isdir(dataset) and lies_in(folder, dataset):
            raise UserError(
                f"{name} {shown(folder)} lies inside the dataset's folder {shown(dataset)}: choose one outside of it"
            )
