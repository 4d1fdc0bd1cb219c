"""The pinned inputs of a generation, and the check that a resumed run still has the same ones."""

from __future__ import annotations

import logging
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from datasets import Image as ImageFeature

from sgdmix_hub._version import FORMAT
from sgdmix_hub.data.splits import Split, load_split, subset_record
from sgdmix_hub.data.subsets import check_same_subset
from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.formats import CLASSIFIER_FACTS, read_classifier_facts
from sgdmix_hub.hub.pins import MODEL_FILES, Pin, local_folder, resolve
from sgdmix_hub.models.adapters import Adapter, check_base, check_family
from sgdmix_hub.models.bases.families import BY_NAME
from sgdmix_hub.models.bases.supported import check_sampling
from sgdmix_hub.models.loading import SegmenterPins, pin_diffusion
from sgdmix_hub.models.quantization import quantization_versions
from sgdmix_hub.runtime.environment import versions
from sgdmix_hub.runtime.ranks import on_rank_zero
from sgdmix_hub.settings.generation import (
    MAY_MOVE_LAST_BITS,
    PINNED_INPUTS,
    AugmentSettings,
    fingerprint,
    published_settings,
)
from sgdmix_hub.settings.method import sought_words
from sgdmix_hub.settings.presets import saliency_source
from sgdmix_hub.storage.stores import HERE, Store

from .bank import load_bank
from .plan_file import RUN, begun_run, has_begun, note_run

if TYPE_CHECKING:
    from sgdmix_hub.models.foreign import ForeignAdapter

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """The pinned inputs; None for those that the settings do not need."""

    split: Split
    adapter_pin: Pin | None
    adapter: Adapter | None
    base: Pin | None
    classifier: Pin | None
    segmenter: SegmenterPins | None = None
    bank: Split | None = None
    few_step_lora: Pin | None = None
    judge: Pin | None = None
    foreign: ForeignAdapter | None = None
    pilot_classifier: Pin | None = None

    @property
    def metaclass(self) -> str | None:
        """What all classes are, as the adapter says it."""
        return metaclass_of(self.adapter)

    @property
    def pins(self) -> dict[str, str]:
        """Setting -> pin, as fingerprinted and published."""
        pins = {
            "dataset_name": self.split.pin,
            "adapter": self.adapter_pin,
            "pretrained_model_name_or_path": self.base,
            "classifier": self.classifier,
            "few_step_lora": self.few_step_lora,
            "judge": self.judge,
            "pilot_classifier": self.pilot_classifier,
        }
        if self.segmenter is not None:
            pins |= {"segmenter": self.segmenter.segmenter, "detector": self.segmenter.detector}
        if self.bank is not None:
            pins["background_dataset_name"] = self.bank.pin
        return {name: str(pin) for name, pin in pins.items() if pin is not None}


def metaclass_of(adapter: Adapter | None) -> str | None:
    """What all classes are, which a base without an adapter does not say."""
    return None if adapter is None else adapter.facts["metaclass"]


def resolve_inputs(settings: AugmentSettings, state_folder: Path) -> Inputs:
    """Pins everything that the settings name, once for all ranks. A collective.

    Raises `UserError` if the inputs do not fit each other.
    """

    def pin(setting: str, asked: str, repo_type: str = "model") -> Pin:
        return on_rank_zero(
            lambda: _earlier_pin(state_folder, setting, asked) or resolve(asked, repo_type)
        )

    split = load_split(settings, pin("dataset_name", settings.dataset_name, "dataset"))
    check_columns(settings, split)
    needs = saliency_source(settings).needs
    base = adapter_pin = adapter = classifier = segmenter = few_step_lora = foreign = None
    if settings.refines:
        diffusion = pin_diffusion(
            settings,
            settings.adapter,
            settings.pretrained_model_name_or_path,
            pin,
            settings.few_step_lora,
        )
        few_step_lora, foreign = diffusion.few_step_lora, diffusion.foreign
        sampling = settings.scheduler, settings.timestep_spacing
        family = BY_NAME[on_rank_zero(lambda: check_sampling(diffusion.base, *sampling).name)]
        family.check_precision("dtype", settings.dtype)
        base, adapter_pin, adapter = diffusion.base, diffusion.adapter_pin, diffusion.adapter
        if adapter is not None:
            check_family(adapter, family)
    if needs == "classifier":
        assert settings.classifier is not None, "`validate` refuses a CAM without a classifier"
        classifier = pin("classifier", settings.classifier)
    if needs == "segmenter":
        assert settings.segmenter is not None, "`validate` refuses segmentation without a model"
        segmenter = SegmenterPins(
            pin("segmenter", settings.segmenter),
            None if settings.detector is None else pin("detector", settings.detector),
            sought_words(settings, metaclass_of(adapter)),
        )
    bank = None
    if (name := settings.background_dataset_name) is not None:
        bank = load_bank(settings, pin("background_dataset_name", name, "dataset"))
    judge = None if settings.judge is None else pin("judge", settings.judge)
    pilot_classifier = None
    if settings.strength_choice is not None:
        assert settings.pilot_classifier is not None, "`validate` refuses a pilot without one"
        pilot_classifier = pin("pilot_classifier", settings.pilot_classifier)
    inputs = Inputs(
        split,
        adapter_pin,
        adapter,
        base,
        classifier,
        segmenter,
        bank,
        few_step_lora,
        judge,
        foreign,
        pilot_classifier,
    )
    _check_belonging(settings, inputs)
    return inputs


def check_columns(settings: AugmentSettings, split: Split) -> None:
    """Raises `UserError` if the split lacks a column that the masks are read from, or a row that is
    left out.
    """
    needs, column = saliency_source(settings).needs, settings.mask_column
    if needs == "column" and not isinstance(split.rows.features.get(column), ImageFeature):
        raise UserError(f"{split.pin.name} has no image column {column!r} for its masks")
    _check_box_column(settings, split)
    last = max(settings.excluded_rows or [0])
    if last >= len(split.rows):
        raise UserError(
            f"excluded_rows names row {last}, but {split.pin.name} has {len(split.rows)} rows, "
            "numbered from 0"
        )


def _check_box_column(settings: AugmentSettings, split: Split) -> None:
    """Raises `UserError` if the column of boxes is missing, or holds images."""
    column = settings.bbox_column
    feature = None if column is None else split.rows.features.get(column)
    if column is not None and (feature is None or isinstance(feature, ImageFeature)):
        raise UserError(f"{split.pin.name} has no column {column!r} with boxes")


def _earlier_pin(state_folder: Path, setting: str, asked: str) -> Pin | None:
    """The Hub pin that a resumed run began with, since a branch may have moved.

    None for a new run, another name, or a local folder.
    """
    if not has_begun(state_folder):
        return None
    run = begun_run(state_folder)
    pin = Pin.parse(run["settings"].get(setting, ""))
    return None if run["requested"].get(setting) != asked or pin.is_local else pin


def _check_belonging(settings: AugmentSettings, inputs: Inputs) -> None:
    """Raises `UserError` if adapter or classifier were made for other data."""
    subset = subset_record(settings, inputs.split)
    if inputs.adapter is not None and inputs.adapter_pin is not None and inputs.base is not None:
        if inputs.adapter.class_names != inputs.split.class_names:
            raise UserError(
                f"the adapter {inputs.adapter_pin.name} was trained on other classes than "
                f"{inputs.split.pin.name} has"
            )
        check_base(inputs.adapter, inputs.base)
        if not settings.allow_other_subset:
            check_same_subset(subset, inputs.adapter.facts["subset"], "adapter")
    if inputs.classifier is not None:
        facts = read_classifier_facts(
            Path(local_folder(inputs.classifier, MODEL_FILES)) / CLASSIFIER_FACTS
        )
        if "subset" in facts and not settings.allow_other_subset:
            check_same_subset(subset, facts["subset"], "classifier")


def environment(settings: AugmentSettings) -> dict[str, str]:
    """What may change last bits: device model, threads, batch size, versions."""
    device = (
        torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} cpu"
    )
    return (
        {"device": device}
        | {
            name: str(value)
            for name in MAY_MOVE_LAST_BITS
            if (value := getattr(settings, name)) is not None
        }
        | quantization_versions(settings.quantization)
        | versions()
    )


def check_resume(
    settings: AugmentSettings, inputs: Inputs, state_folder: Path, store: Store = HERE
) -> None:
    """Compares with the run that began in this folder, or records this one if there is none.

    Raises `UserError` if the images would differ; warns if last bits may.
    """
    current = {
        "format": FORMAT,
        "fingerprint": fingerprint(settings, inputs.pins),
        "settings": published_settings(settings, inputs.pins),
        "environment": environment(settings),
        "requested": {name: getattr(settings, name) for name in PINNED_INPUTS},
    }
    if not has_begun(state_folder):
        note_run(state_folder, current)
        store.keep(state_folder / RUN)
        return
    before = begun_run(state_folder)
    if (began := before.get("format", 1)) != FORMAT:
        raise UserError(
            f"{state_folder.parent} holds a run of another version of sgdmix_hub, which publishes "
            f"in format {began}, not {FORMAT}: finish it with that version, or choose another "
            "--output_dir"
        )
    if before["fingerprint"] != current["fingerprint"]:
        changes = [
            f"{name} {before['settings'].get(name)} -> {current['settings'].get(name)}"
            for name in _different(before["settings"], current["settings"])
            if name not in MAY_MOVE_LAST_BITS
        ]
        raise UserError(
            f"{state_folder.parent} holds a run with other settings ({', '.join(changes)}): "
            "choose another --output_dir"
        )
    moved = _different(before["environment"], current["environment"])
    # a plan may be made on another device: what made the shards is told when they are finished
    if moved and settings.stage == "all":
        logger.warning(
            f"{', '.join(moved)} changed since this run began: images made from here on may differ "
            "by rounding"
        )


def _different(before: dict, current: dict) -> list[str]:
    return [
        name for name in sorted(set(before) | set(current)) if before.get(name) != current.get(name)
    ]
