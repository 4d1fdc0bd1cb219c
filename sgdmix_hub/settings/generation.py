"""Settings of every run: one flat dataclass a run, validated before any model loads (parsing.py reads them).

The fingerprint of a generation. A run that is resumed, and a dataset that is made again, must have the settings that made it.
Every field of `AugmentSettings` is in one of three groups:

| group | settings | on resume |
|---|---|---|
| changes the images | dataset_name, dataset_config_name, dataset_split, image_column, label_column, max_image_pixels, mask_column, examples_per_class, imbalance_factor, subset_seed, allow_other_subset, adapter, pretrained_model_name_or_path, classifier, config_name, preset, saliency_method, saliency_layer, saliency_input_size, saliency_sigma, trust_test, threshold_method, threshold_quantile, largest_component, fill_holes, mask_dilation, mask_refinement, selection_method, target_classes, max_target_reuse, crop_target, mixing_method, inpainting_method, prompt_class, prompt_template, feather, strength, foreground_strength, paste_foreground, num_candidates, num_variants, guidance_scale, num_inference_steps, scheduler, safety_checker, resolution, resize, seed, dtype, image_format, rows_per_shard | another value is refused |
| may move last bits | batch_size, compile, num_threads (and, recorded beside them: device, library versions) | another value warns |
| place and speed | output_dir, saliency_dir, num_workers, dry_run, verify, max_skipped, license, card, config, push_to_hub, hub_dataset_id, tag, hub_private_repo, hub_branch, allow_local_inputs | ignored, never published |

The four inputs (dataset, base model, adapter, classifier) enter as pins: commit hashes, or content hashes of local folders.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from dataclasses import dataclass
from typing import Literal

from sgdmix_hub.errors import UserError, shown

from .data import DataSettings, outside_of_dataset
from .fields import LONGEST_NAME, LONGEST_PROMPT, setting
from .hub import HubSettings
from .method import (
    NAME_PROMPT,
    NEEDED_SETTINGS,
    MethodSettings,
    saliency_method,
    saliency_source,
)

MAY_MOVE_LAST_BITS = ("batch_size", "compile", "num_threads")
PUSH = (
    "push_to_hub",
    "hub_dataset_id",
    "tag",
    "hub_private_repo",
    "hub_branch",
    "allow_local_inputs",
)
PLACE_AND_SPEED = (
    "output_dir",
    "saliency_dir",
    "num_workers",
    "dry_run",
    "verify",
    "max_skipped",
    "license",
    "card",
    "config",
    *PUSH,
)
PINNED_INPUTS = ("dataset_name", "pretrained_model_name_or_path", "adapter", "classifier")
FOLDERS = (
    "data",
    "sgdmix",
    "assets",
)  # of every published repository: no names for a configuration
LONGEST_CONFIG_NAME = 100  # bytes: it names folders


@dataclass(kw_only=True)
class AugmentSettings(HubSettings, MethodSettings, DataSettings):
    """One generation: SGD-Mix mapped over a split."""

    config: str | None = setting(
        None,
        "YAML file with settings, or hf://...; the command line wins; a published one brings its plan",
    )
    adapter: str | None = setting(
        None,
        "trained adapter as org/name[@revision] or folder; without one the base is told class names",
    )
    pretrained_model_name_or_path: str | None = setting(
        None, "base model; the one the adapter was trained on by default"
    )
    prompt_template: str = setting(
        NAME_PROMPT, "prompt of a base model without an adapter", at_most=LONGEST_PROMPT
    )
    classifier: str | None = setting(
        None, "classifier that a CAM looks through, as org/name[@revision] or folder"
    )
    allow_other_subset: bool = setting(
        False, "accept an adapter or classifier that was trained on another subset"
    )
    config_name: str = setting(
        "default", "configuration of the published dataset", at_most=LONGEST_CONFIG_NAME
    )
    card: str | None = setting(None, "Markdown file with prose for the dataset card")
    license: str | None = setting(
        None,
        "licence of the augmented dataset; publishing without one is refused",
        at_most=LONGEST_NAME,
    )
    saliency_dir: str | None = setting(
        None, "folder of saliency maps shared between runs; inside state/ by default"
    )
    image_format: Literal["png", "jpeg", "webp"] = setting("png", "format of the published images")
    rows_per_shard: int = setting(
        128, "rows in one parquet file, the unit of resuming", at_least=1, at_most=10**5
    )
    num_workers: int = setting(
        2,
        "threads that mix images ahead of the diffusion model, and processes that encode them; each per process",
        at_least=1,
        at_most=256,
    )
    dry_run: bool = setting(
        False,
        "say what the run would make, how long it would take and how big it would be, and make nothing",
    )
    verify: bool = setting(
        False,
        "read a finished repo/ whole and compare it with its manifest, which a rerun does not do otherwise",
    )
    max_skipped: float = setting(
        0.01,
        "share of skipped rows above which the run ends with exit code 3",
        at_least=0,
        at_most=1,
    )
    push_to_hub: bool = setting(
        False, "publish the finished dataset, with the token of `hf auth login` or HF_TOKEN"
    )

    def validate(self) -> None:
        DataSettings.validate(self)
        MethodSettings.validate(self)
        outside_of_dataset(self, "saliency_dir")
        if self.push_to_hub:
            self.validate_hub()
            if self.license is None:
                raise UserError(
                    "push_to_hub needs --license: say under which one others may use the dataset"
                )
        if self.refines and self.adapter is None:
            self._validate_without_adapter()
        needs = saliency_source(self).needs
        if needs in NEEDED_SETTINGS:
            name, what = NEEDED_SETTINGS[needs]
            if getattr(self, name) is None:
                raise UserError(f"{saliency_method(self)} needs {what}: give --{name}")
        if self.card is not None and not os.path.isfile(self.card):
            raise UserError(f"card {self.card}: no such file")
        check_config_name(self.config_name)

    def _validate_without_adapter(self) -> None:
        if self.pretrained_model_name_or_path is None:
            raise UserError(
                "strength > 0 needs --adapter org/name@revision or a folder (--strength 0 mixes without one), or "
                "--pretrained_model_name_or_path alone, which is then told the names of the classes"
            )
        if self.prompt_template.count("{class_name}") != 1:
            raise UserError(
                f"prompt_template must hold {{class_name}} exactly once: {self.prompt_template!r}"
            )
        if self.inpainting_method == "diffusion":
            raise UserError(
                "inpainting_method diffusion needs an adapter, which knows the metaclass that a hole must not show"
            )


def check_config_name(name: str) -> None:
    """Raises `UserError` on what no configuration of a published dataset can be called: it is the name of its folders."""
    if not re.fullmatch(r"(?=.*[^\W_])[\w-]+", name) or len(name.encode()) > LONGEST_CONFIG_NAME:
        raise UserError(
            f"config_name {shown(name)!r}: use letters, digits, - and _, at most {LONGEST_CONFIG_NAME} of them"
        )
    if name in FOLDERS:
        raise UserError(
            f"config_name {name} is the name of a folder of every published dataset: choose another"
        )


def published_settings(settings: AugmentSettings, pins: dict[str, str]) -> dict:
    """What goes into the published config.yaml: the first two groups, inputs replaced by their pins, nothing about places."""
    values = dataclasses.asdict(settings) | dict.fromkeys(PINNED_INPUTS) | pins
    values["strength"] = settings.stated_strength
    return {
        name: value
        for name, value in values.items()
        if name not in PLACE_AND_SPEED and value is not None
    }


def fingerprint(settings: AugmentSettings, pins: dict[str, str]) -> str:
    """sha256 over the settings that change the images, with the inputs' pins."""
    values = {
        k: v for k, v in published_settings(settings, pins).items() if k not in MAY_MOVE_LAST_BITS
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
