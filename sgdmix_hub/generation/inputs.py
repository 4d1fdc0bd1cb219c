"""The pinned inputs of a generation, and whether they and the settings are those that a folder's
run began with.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Image as ImageFeature

from sgdmix_hub.data.splits import Split, load_split, subset_record
from sgdmix_hub.data.subsets import check_same_subset
from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.formats import CLASSIFIER_FACTS, read_classifier_facts
from sgdmix_hub.hub.pins import LOCAL, MODEL_FILES, Pin, local_folder, resolve
from sgdmix_hub.models.adapters import Adapter, check_base, read_adapter
from sgdmix_hub.models.supported_bases import check_supported
from sgdmix_hub.runtime.environment import versions
from sgdmix_hub.runtime.ranks import on_rank_zero, say
from sgdmix_hub.settings.generation import (
    MAY_MOVE_LAST_BITS,
    PINNED_INPUTS,
    AugmentSettings,
    fingerprint,
    published_settings,
)
from sgdmix_hub.settings.method import saliency_source

from .plan_file import begun_run, has_begun, note_run


@dataclass(frozen=True)
class Inputs:
    """The four pinned inputs; None where the settings need none."""

    split: Split
    adapter_pin: Pin | None
    adapter: Adapter | None
    base: Pin | None
    classifier: Pin | None

    @property
    def pins(self) -> dict[str, str]:
        """Setting name -> pin, as it is fingerprinted and published."""
        pins = {
            "dataset_name": self.split.pin,
            "adapter": self.adapter_pin,
            "pretrained_model_name_or_path": self.base,
            "classifier": self.classifier,
        }
        return {name: str(pin) for name, pin in pins.items() if pin is not None}


def resolve_inputs(settings: AugmentSettings, state_folder: Path) -> Inputs:
    """Pins everything the settings name, once for all ranks, and checks that it belongs together.
    Raises `UserError`. A collective.
    """

    def pin(setting: str, asked: str, repo_type: str = "model") -> Pin:
        return on_rank_zero(
            lambda: _earlier_pin(state_folder, setting, asked) or resolve(asked, repo_type)
        )

    split = load_split(settings, pin("dataset_name", settings.dataset_name, "dataset"))
    needs = saliency_source(settings).needs
    if needs == "column" and not isinstance(
        split.rows.features.get(settings.mask_column), ImageFeature
    ):
        raise UserError(
            f"{split.pin.name} has no image column {settings.mask_column!r} for its masks"
        )
    adapter_pin = adapter = base = classifier = None
    if settings.refines:
        if settings.adapter is not None:
            adapter_pin = pin("adapter", settings.adapter)
            adapter = read_adapter(adapter_pin)
        base = pin(
            "pretrained_model_name_or_path",
            settings.pretrained_model_name_or_path or adapter.facts["base"],
        )
        on_rank_zero(lambda: check_supported(base))
    if needs == "classifier":
        classifier = pin("classifier", settings.classifier)
    inputs = Inputs(split, adapter_pin, adapter, base, classifier)
    _check_belonging(settings, inputs)
    return inputs


def _earlier_pin(state_folder: Path, setting: str, asked: str) -> Pin | None:
    """The Hub pin a run that goes on began with: a branch may have moved since. None for a new run,
    another name, or a local folder.
    """
    if not has_begun(state_folder):
        return None
    run = begun_run(state_folder)
    name, _, revision = run["settings"].get(setting, "").rpartition("@")
    if run["requested"].get(setting) != asked or revision.startswith(LOCAL):
        return None
    return Pin(name, revision)


def _check_belonging(settings: AugmentSettings, inputs: Inputs) -> None:
    subset = subset_record(settings, inputs.split)
    if inputs.adapter is not None:
        facts = inputs.adapter.facts
        if inputs.adapter.class_names != inputs.split.class_names:
            raise UserError(
                f"the adapter {inputs.adapter_pin.name} was trained on other classes than {inputs.split.pin.name} has"
            )
        check_base(inputs.adapter, inputs.base)
        if not settings.allow_other_subset:
            check_same_subset(subset, facts["subset"], "adapter")
    if inputs.classifier is not None:
        facts = read_classifier_facts(
            Path(local_folder(inputs.classifier, MODEL_FILES)) / CLASSIFIER_FACTS
        )
        if "subset" in facts and not settings.allow_other_subset:
            check_same_subset(subset, facts["subset"], "classifier")


def environment(settings: AugmentSettings) -> dict[str, str]:
    """What may move last bits: device model, threads, batch size, versions."""
    device = (
        torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} cpu"
    )
    return (
        {"device": device}
        | {name: str(getattr(settings, name)) for name in MAY_MOVE_LAST_BITS}
        | versions()
    )


def check_resume(settings: AugmentSettings, inputs: Inputs, state_folder: Path) -> None:
    """Compares with the run that began in this folder: refuses other images, warns about other last
    bits, else notes this run.
    """
    current = {
        "fingerprint": fingerprint(settings, inputs.pins),
        "settings": published_settings(settings, inputs.pins),
        "environment": environment(settings),
        "requested": {name: getattr(settings, name) for name in PINNED_INPUTS},
    }
    if not has_begun(state_folder):
        note_run(state_folder, current)
        return
    before = begun_run(state_folder)
    if before["fingerprint"] != current["fingerprint"]:
        changes = [
            f"{name} {before['settings'].get(name)} -> {current['settings'].get(name)}"
            for name in _different(before["settings"], current["settings"])
            if name not in MAY_MOVE_LAST_BITS
        ]
        raise UserError(
            f"{state_folder.parent} holds a run with other settings ({', '.join(changes)}): choose another --output_dir"
        )
    moved = _different(before["environment"], current["environment"])
    if moved:
        say(
            f"warning: {', '.join(moved)} changed since this run began: images made from here on may differ by rounding"
        )


def _different(before: dict, current: dict) -> list[str]:
    return [
        name for name in sorted(set(before) | set(current)) if before.get(name) != current.get(name)
    ]
