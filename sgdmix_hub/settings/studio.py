"""Settings of the studio: what it shows, where it listens, and the file that it writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sgdmix_hub.errors import UserError

from .fields import LONGEST_NAME, setting, unset
from .generation import AugmentSettings
from .programs import RowOverrides

MOST_VERSIONS = 2  # side by side
MOST_DRAWN = 1000  # images, which stay in memory


@dataclass(kw_only=True)
class StudioSettings(RowOverrides):
    """Opens a page in the browser: to choose how your images are masked and mixed
    (--dataset_name), or to look through a published version or a run's output (--published).
    """

    dataset_name: str | None = setting(
        None,
        "dataset to choose for, as org/name[@revision] or folder; with --published, if a "
        "version's source was a local folder: where it is",
    )
    published: list[str] | None = setting(
        None,
        "version to look through, or two of them side by side: org/name@v1.0.0, or the output "
        "folder of a generation, finished or not",
    )
    published_config_name: str = setting(
        "default", "configuration of the published versions", at_most=LONGEST_NAME
    )
    start: str | None = setting(
        None, "YAML file of a generation, whose settings the page begins with"
    )
    save_to: str | None = setting(
        None, "file that the page writes: generate.yaml, or drop.csv of rows marked as bad"
    )
    adapter: str | None = unset(AugmentSettings, "adapter")
    adapter_weight_name: str | None = unset(AugmentSettings, "adapter_weight_name")
    metaclass: str | None = unset(AugmentSettings, "metaclass")
    pretrained_model_name_or_path: str | None = unset(
        AugmentSettings, "pretrained_model_name_or_path"
    )
    few_step_lora: str | None = unset(AugmentSettings, "few_step_lora")
    classifier: str | None = unset(AugmentSettings, "classifier")
    segmenter: str | None = unset(AugmentSettings, "segmenter")
    detector: str | None = unset(AugmentSettings, "detector")
    mask_column: str | None = unset(AugmentSettings, "mask_column")
    bbox_column: str | None = unset(AugmentSettings, "bbox_column")
    bbox_format: Literal["xywh", "xyxy"] | None = unset(AugmentSettings, "bbox_format")
    num_images: int = setting(
        100,
        "images to choose with, drawn from the split: sources, and candidates for targets",
        at_least=1,
        at_most=MOST_DRAWN,
    )
    picture_size: int = setting(
        256, "width and height of the pictures, in pixels", at_least=64, at_most=1024, multiple_of=8
    )
    host: str = setting(
        "127.0.0.1",
        "address to listen on; another one lets everybody who reaches it look and mark",
        at_most=LONGEST_NAME,
    )
    port: int | None = setting(
        None,
        "port to listen on; the first free one from 7860 if not given",
        at_least=1,
        at_most=65535,
    )
    open_browser: bool = setting(False, "open the page in this machine's browser")
    push_space: str | None = setting(
        None,
        "deploy the page of a published version as a Space, org/name, instead of opening it",
        at_most=LONGEST_NAME,
    )
    hub_private_repo: bool = setting(False, "create the Space as private")

    def validate(self) -> None:
        super().validate()
        if self.dataset_name is None and self.published is None:
            raise UserError(
                "give --dataset_name, to choose how its images are mixed, or --published, to look "
                "through a version"
            )
        if len(self.published or []) > MOST_VERSIONS:
            raise UserError(f"published names more than {MOST_VERSIONS} versions: give one or two")
        if self.published is not None and self.start is not None:
            raise UserError("start is for choosing: leave it out with --published")
        if self.push_space is not None and self.published is None:
            raise UserError("push_space deploys published versions: give --published")

    @property
    def file(self) -> str:
        """The file that the page writes."""
        return self.save_to or ("generate.yaml" if self.published is None else "drop.csv")
