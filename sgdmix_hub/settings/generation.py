"""Settings of a generation: what is published of them, and the fingerprint.

A resumed run, or a rerun of a published dataset, must have the settings that made it. The field of
every setting says what another value changes; `groups_table` prints the groups.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from sgdmix_hub._version import FORMAT
from sgdmix_hub.errors import UserError, shown
from sgdmix_hub.files import lies_in
from sgdmix_hub.forms import LARGEST_COUNT
from sgdmix_hub.storage.places import is_url

from .adapters import (
    check_base_alone,
    check_few_step,
    check_unread_adapter,
    check_weight_name,
)
from .data import DataSettings, outside_of_dataset
from .fields import LONGEST_NAME, names_where, setting
from .hub import HubSettings
from .method import COMPARE_MAPS
from .pilot import PilotSettings
from .presets import saliency_method, saliency_source
from .remaking import RemakingSettings
from .saliency import NEEDED_SETTINGS
from .stages import StageSettings

# Folders of every published repository, which no configuration may be named after.
FOLDERS = ("data", "sgdmix", "assets")
LONGEST_CONFIG_NAME = 100  # bytes, since it names folders
LONGEST_LINK = 500


@dataclass(kw_only=True)
class AugmentSettings(HubSettings, StageSettings, RemakingSettings, PilotSettings, DataSettings):
    """Applies SGD-Mix to a split, and writes a dataset that is ready to publish."""

    in_stores: ClassVar[bool] = True
    config: str | None = setting(
        None,
        "YAML file of settings, or hf://...; the command line wins; a published one brings its "
        "plan along",
        changes="nothing",
    )
    adapter: str | None = setting(
        None,
        "trained adapter, as org/name[@revision] or folder, or a LoRA of another program; without "
        "an adapter of sgdmix train-adapter, prompts hold class names",
        pinned=True,
    )
    pretrained_model_name_or_path: str | None = setting(
        None, "base model; by default the one the adapter was trained on", pinned=True
    )
    few_step_lora: str | None = setting(
        None,
        "LoRA that distils the base to few steps, beside the adapter: org/name[@revision] or "
        "folder; needs few_step_method",
        pinned=True,
    )
    classifier: str | None = setting(
        None, "classifier for the CAM, as org/name[@revision] or folder", pinned=True
    )
    segmenter: str | None = setting(
        None,
        "segmentation model for saliency_method segmentation, as org/name[@revision] or folder",
        pinned=True,
    )
    detector: str | None = setting(
        None,
        "detector for a SAM 2 segmenter (Grounding DINO, OWLv2), as org/name[@revision] or folder",
        pinned=True,
    )
    background_dataset_name: str | None = setting(
        None,
        "dataset whose images are the targets instead, as org/name[@revision] or folder; needs no "
        "labels",
        pinned=True,
    )
    background_config_name: str | None = setting(
        None, "configuration of the background dataset", at_most=LONGEST_NAME
    )
    background_split: str | None = setting(
        None, "split of the background dataset; train if not given", at_most=LONGEST_NAME
    )
    background_image_column: str | None = setting(
        None, "image column of the background dataset; image if not given", at_most=LONGEST_NAME
    )
    background_has_foreground: bool | None = setting(
        None,
        "find the foregrounds of the background dataset's images and fill them; if not given, "
        "each whole image is background",
    )
    allow_other_subset: bool = setting(
        False, "accept an adapter or classifier that was trained on another subset"
    )
    excluded_rows: list[int] | None = setting(
        None,
        "rows of the split to leave out (numbers from 0): neither mixed nor used as targets",
        at_least=0,
        at_most=LARGEST_COUNT,
    )
    config_name: str = setting(
        "default", "configuration name of the published dataset", at_most=LONGEST_CONFIG_NAME
    )
    card: str | None = setting(
        None, "Markdown file with text for the dataset card", changes="nothing"
    )
    gallery: bool = setting(
        False,
        "publish assets/gallery.html too, a page of a few hundred rows that needs nothing else",
        changes="nothing",
    )
    license: str | None = setting(
        None,
        "license of the augmented dataset; required for publishing",
        changes="nothing",
        at_most=LONGEST_NAME,
    )
    license_name: str | None = setting(
        None,
        "name of a license that the Hub does not know, with license other",
        changes="nothing",
        at_most=LONGEST_NAME,
    )
    license_link: str | None = setting(
        None,
        "text of that license: an https:// address, or a file of the published repository",
        changes="nothing",
        at_most=LONGEST_LINK,
    )
    saliency_dir: str | None = setting(
        None,
        "folder of saliency maps to share between runs; inside state/ by default",
        changes="nothing",
    )
    image_format: Literal["jpeg", "webp", "png"] = setting(
        "jpeg", "format of the published images; png keeps every pixel, at three times the size"
    )
    image_quality: int | None = setting(
        None, "quality of jpeg and webp; 95 if not given", at_least=1, at_most=100
    )
    publish_mask: bool = setting(
        True, "publish the source's foreground as the column mask, a PNG of one bit a pixel"
    )
    publish_mixed: bool = setting(
        False, "publish the mixture before refinement as the column mixed"
    )
    images_per_class: int | None = setting(
        None,
        "minimum number of images per class, real and synthetic together: sources of rarer "
        "classes get more variants than num_variants",
        at_least=1,
        at_most=10**5,
    )
    rows_per_shard: int = setting(
        128, "rows per parquet file, the unit of resuming", at_least=1, at_most=10**5
    )
    num_workers: int = setting(
        2,
        "per process: threads that mix images ahead, and worker processes that encode them",
        changes="nothing",
        at_least=1,
        at_most=256,
    )
    dry_run: bool = setting(
        False,
        "estimate number of images, time and size, without writing a dataset",
        changes="nothing",
    )
    price_per_hour: float | None = setting(
        None,
        "price of one accelerator-hour, in any currency; the dry run then prints the total",
        changes="nothing",
        at_least=0,
        at_most=10**6,
    )
    verify: bool = setting(
        False, "check every file of a finished repo/ against its manifest", changes="nothing"
    )
    max_skipped: float = setting(
        0.01,
        "exit with code 3, and publish nothing, if a larger share of the rows is skipped",
        changes="nothing",
        at_least=0,
        at_most=1,
    )
    push_to_hub: bool = setting(
        False,
        "publish the finished dataset, with the token of `hf auth login` or HF_TOKEN; with --stage "
        "files, send this worker's files ahead",
        changes="nothing",
    )

    @property
    def more_images(self) -> tuple[str, ...]:
        """The published columns of images besides `image`."""
        asked = {"mask": self.publish_mask, "mixed": self.publish_mixed}
        return tuple(name for name, is_published in asked.items() if is_published)

    @property
    def more_columns(self) -> tuple[str, ...]:
        """The published columns that settings add."""
        return self.more_images if self.judge is None else ("attempts", *self.more_images)

    def validate(self) -> None:
        super().validate()
        outside_of_dataset(self, "saliency_dir")
        self.validate_stage()
        if is_url(self.output_dir) and self.saliency_dir is not None:
            raise UserError(
                "saliency_dir is for an output_dir on a disk: leave it out, the workers find the "
                "maps in output_dir"
            )
        if self.stage == "files" and not is_url(self.output_dir):
            raise UserError("stage files is for object stores: on a disk, finish makes the files")
        if self.stage != "all" and self.dry_run:
            raise UserError("dry_run tells about the whole run: leave --stage out")
        if self.push_to_hub and self.stage not in ("all", "files", "finish"):
            raise UserError("push_to_hub goes with --stage finish, or files, which sends ahead")
        if self.image_quality is not None and self.image_format == "png":
            raise UserError("image_quality is for jpeg and webp: leave it out, png loses nothing")
        self._validate_license()
        if self.push_to_hub:
            self.validate_hub()
            if self.license is None:
                raise UserError("push_to_hub needs --license, the license of the dataset")
        if self.publish_mixed and not self.refines:
            raise UserError(
                "publish_mixed needs a strength above 0: without refinement the image is the "
                "mixture"
            )
        if self.refines and self.adapter is None:
            self._validate_without_adapter()
        elif self.refines:
            check_unread_adapter(self)
        self._validate_bank()
        check_few_step(self, self.few_step_lora)
        check_weight_name(self, self.adapter)
        needs = saliency_source(self).needs
        if needs == "function":
            raise UserError(
                "saliency_method function is for Python: "
                "SGDMixPipeline.from_pretrained(mask_function=...)"
            )
        if self.detector is not None and self.segmenter is None:
            raise UserError("detector needs --segmenter: a SAM 2 model that masks its boxes")
        if needs in NEEDED_SETTINGS:
            name, what = NEEDED_SETTINGS[needs]
            if getattr(self, name) is None:
                raise UserError(f"{saliency_method(self)} needs {what}: give --{name}")
        if self.card is not None and not os.path.isfile(self.card):
            raise UserError(f"card {self.card}: no such file")
        check_config_name(self.config_name)

    def _validate_bank(self) -> None:
        given = [name for name in BANK_SETTINGS if getattr(self, name) is not None]
        if self.background_dataset_name is None:
            if given:
                raise UserError(f"{given[0]} needs --background_dataset_name")
            return
        bank = self.background_dataset_name
        for folder in (self.output_dir, self.saliency_dir):
            if folder and os.path.isdir(bank) and lies_in(folder, bank):
                raise UserError(
                    f"{shown(folder)} lies inside the background dataset's folder {shown(bank)}: "
                    "choose a folder outside of it"
                )
        if self.target_classes not in (None, "any"):
            raise UserError(
                f"target_classes {self.target_classes} is for targets of the dataset's own "
                "classes: a background dataset has none, so leave it out"
            )
        if self.prompt_class == "target":
            raise UserError(
                "prompt_class target needs the targets' labels: a background dataset has none"
            )
        if not self.background_has_foreground:
            if self.selection_method in COMPARE_MAPS:
                raise UserError(
                    f"selection_method {self.selection_method} compares foregrounds: give "
                    "--background_has_foreground true, or leave it out"
                )
        elif saliency_source(self).needs == "classifier":
            raise UserError(
                f"{saliency_method(self)} needs labels, which a background dataset does not have: "
                "choose another --saliency_method, or leave --background_has_foreground out"
            )

    def _validate_license(self) -> None:
        given = [
            name for name in ("license_name", "license_link") if getattr(self, name) is not None
        ]
        if given and self.license != "other":
            raise UserError(f"{given[0]} needs --license other: the Hub knows all others by name")
        link = self.license_link
        if link is not None and not re.fullmatch(r"https://\S+|LICENSE[\w.-]*", link, re.ASCII):
            raise UserError(
                f"license_link {shown(link)}: give an https:// address, or LICENSE, the file that "
                "you add to the repository"
            )

    def _validate_without_adapter(self) -> None:
        if self.pretrained_model_name_or_path is None:
            raise UserError(
                "strength above 0 needs --adapter, as org/name@revision or a folder, or "
                "--pretrained_model_name_or_path alone, whose prompts then hold the class names; "
                "--strength 0 mixes without a model"
            )
        check_base_alone(self)


# What is said of the background dataset besides its name.
BANK_SETTINGS = (
    "background_config_name",
    "background_split",
    "background_image_column",
    "background_has_foreground",
)


def bank_settings(settings: AugmentSettings) -> AugmentSettings:
    """The settings with the background dataset in the place of the dataset."""
    assert settings.background_dataset_name is not None, "a bank has a name"
    return dataclasses.replace(
        settings,
        dataset_name=settings.background_dataset_name,
        dataset_config_name=settings.background_config_name,
        dataset_split=settings.background_split or "train",
        image_column=settings.background_image_column or "image",
        background_dataset_name=None,
        **dict.fromkeys(BANK_SETTINGS),
    )


# What goes into no published file: places, speed, pushes.
PLACE_AND_SPEED = names_where(AugmentSettings, changes="nothing")
# Recorded beside every shard; a resume with another value warns.
MAY_MOVE_LAST_BITS = names_where(AugmentSettings, changes="last_bits")
PINNED_INPUTS = names_where(AugmentSettings, pinned=True)


def check_config_name(name: str) -> None:
    """Raises `UserError` on a name that cannot be a configuration's, which names its folders."""
    if not re.fullmatch(r"(?=.*[^\W_])[\w-]+", name) or len(name.encode()) > LONGEST_CONFIG_NAME:
        raise UserError(
            f"config_name {shown(name)!r}: use letters, digits, - and _, at most "
            f"{LONGEST_CONFIG_NAME} of them"
        )
    if name in FOLDERS:
        raise UserError(
            f"config_name {name} names a folder of every published dataset: choose another"
        )


def published_settings(settings: AugmentSettings, pins: dict[str, str]) -> dict[str, Any]:
    """What the published config.yaml holds: inputs by their pins, and no places."""
    values = dataclasses.asdict(settings) | dict.fromkeys(PINNED_INPUTS) | pins
    values["strength"] = settings.stated_strength
    return {
        name: value
        for name, value in values.items()
        if name not in PLACE_AND_SPEED and value is not None
    }


def fingerprint(settings: AugmentSettings, pins: dict[str, str]) -> str:
    """sha256 of the settings that change the images, of the inputs' pins and of the format."""
    values = {
        name: value
        for name, value in published_settings(settings, pins).items()
        if name not in MAY_MOVE_LAST_BITS
    }
    values["format"] = FORMAT
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def groups_table() -> str:
    """The settings of a generation by what another value changes, as a Markdown table."""
    groups = {
        "the images": (names_where(AugmentSettings, changes="result"), "is refused"),
        "rounding at most": (MAY_MOVE_LAST_BITS, "warns"),
        "places and speed": (PLACE_AND_SPEED, "is accepted, and never published"),
    }
    rows = [
        f"| {changes} | {', '.join(f'`{name}`' for name in names)} | {on_resume} |"
        for changes, (names, on_resume) in groups.items()
    ]
    return "\n".join(["| changes | settings | on resume, another value |", "|---|---|---|", *rows])
