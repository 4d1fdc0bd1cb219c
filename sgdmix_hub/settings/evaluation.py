"""Settings of the evaluation of an augmented dataset."""

from __future__ import annotations

from dataclasses import dataclass

from .data import outside_of_dataset
from .fields import LONGEST_NAME, Checked, required, setting


@dataclass(kw_only=True)
class EvaluationSettings(Checked):
    """An augmented dataset measured with a classifier trained on real images, and written anew with
    its rows' scores.
    """

    synthetic: str = required(
        "augmented dataset as org/name[@revision], or the output folder of a generation, or the repo folder in it"
    )
    synthetic_config_name: str = setting(
        "default", "configuration of the augmented dataset", at_most=LONGEST_NAME
    )
    judge: str = required(
        "classifier trained on real images, best on others than the sources, as org/name[@revision] or folder"
    )
    output_dir: str = required(
        "folder that the run writes: evaluation.json, and the dataset with its scores in repo/"
    )
    dataset_name: str | None = setting(
        None, "the source dataset, where the augmented one was made from a local folder"
    )
    classifier: str | None = setting(
        None, "the classifier behind the saliency maps, where it was a local folder"
    )
    eval_split: str | None = setting(
        None,
        "split of the source dataset on whose real images the judge's own accuracy is measured",
        at_most=LONGEST_NAME,
    )
    keep: float | None = setting(
        None,
        "share of the rows to keep, those whose label the judge finds most probable; all when not given",
        above=0,
        at_most=1,
    )
    num_threads: int = setting(
        1, "CPU threads (only used where there is no GPU)", at_least=1, at_most=1024
    )

    def validate(self) -> None:
        """Raises `UserError` on a place that no run could write to."""
        outside_of_dataset(self, "output_dir")
