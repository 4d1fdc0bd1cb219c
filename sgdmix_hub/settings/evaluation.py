"""Settings of the evaluation of an augmented dataset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sgdmix_hub.errors import UserError
from sgdmix_hub.output_folder import ERROR
from sgdmix_hub.storage.places import check_url, is_url

from .data import outside_of_dataset
from .fields import LONGEST_NAME, Checked, required, setting
from .stages import check_worker


@dataclass(kw_only=True)
class EvaluationSettings(Checked):
    """Scores every row of an augmented dataset with a classifier trained on real images, and writes
    the dataset again with these scores.
    """

    synthetic: str = required(
        "augmented dataset, as org/name[@revision], or the output folder of a generation, or its "
        "repo folder, also in an object store (s3://bucket/folder)"
    )
    synthetic_config_name: str = setting(
        "default", "configuration of the augmented dataset", at_most=LONGEST_NAME
    )
    judge: str = required(
        "classifier trained on real images, preferably not on the source images, as "
        "org/name[@revision] or folder"
    )
    output_dir: str = required(
        "output folder, or URL of one in an object store: evaluation.json, and the scored dataset "
        "in repo/"
    )
    dataset_name: str | None = setting(None, "source dataset, needed if it was a local folder")
    classifier: str | None = setting(
        None, "classifier of the saliency maps, needed if it was a local folder"
    )
    eval_split: str | None = setting(
        None,
        "split of the source dataset that measures the judge's own accuracy",
        at_most=LONGEST_NAME,
    )
    keep: float | None = setting(
        None,
        "share of the rows to keep, chosen by the label's probability; all if not given",
        above=0,
        at_most=1,
    )
    keep_by: Literal["class", "all"] = setting(
        "class", "keep that share of every class, or of all rows, which leaves few of hard classes"
    )
    keep_difficulty: Literal["easy", "medium"] = setting(
        "easy",
        "rows to keep: those with the highest label probability, or those in the middle, between "
        "the doubtful and the easiest",
    )
    drop: str | None = setting(
        None, "file of rows to leave out, as `sgdmix studio` writes it: source_index,variant"
    )
    num_threads: int = setting(1, "CPU threads (without a GPU)", at_least=1, at_most=1024)
    stage: Literal["all", "views", "finish"] = setting(
        "all",
        "part of the evaluation to do: any number of workers show the images to the judge (views), "
        "then one finishes",
    )
    rank: int = setting(
        0, "number of this worker, from 0, with --stage views", at_least=0, at_most=10**6
    )
    world_size: int = setting(
        1,
        "number of workers; each does its own share first, then helps with what is left",
        at_least=1,
        at_most=10**6,
    )

    @property
    def error_name(self) -> str:
        """The name of the file in `state/` that says why this program failed."""
        return f"error-views-{self.rank}.json" if self.stage == "views" else ERROR

    def validate(self) -> None:
        super().validate()
        for name in ("output_dir", "synthetic"):
            if is_url(getattr(self, name)):
                check_url(name, getattr(self, name))
        if not is_url(self.output_dir):
            outside_of_dataset(self, "output_dir")
        check_worker(self.rank, self.world_size, self.stage == "views", "--stage views")
        if self.keep is None and self.keep_difficulty != "easy":
            raise UserError(f"keep_difficulty {self.keep_difficulty} needs --keep, a share of rows")
