"""The presets: named sets of the method's settings, and what they amount to in a run's settings."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, TypeVar

from .saliency import SALIENCY_SOURCES, SaliencySource

if TYPE_CHECKING:
    from .method import MethodSettings

Method = TypeVar("Method", bound="MethodSettings")

# `paper` is Eq. 7-10; `recommended` did better in benchmarks/ (README shows by how much).
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "saliency_method": "grad-cam",
        "min_mask_confidence": 0.0,
        "trust_test": "warn",
        "threshold_method": "otsu",
        "largest_component": False,
        "fill_holes": False,
        "mask_dilation": 0.0,
        "mask_refinement": "none",
        "selection_method": "l2",
        "target_classes": "any",
        "crop_target": False,
        "mixing_method": "union",
        "feather": 0.0,
        "foreground_strength": None,  # S everywhere
        "paste_foreground": False,
    },
    "recommended": {
        "saliency_method": "consensus",  # or the best source at hand: `AT_HAND`
        "min_mask_confidence": 0.0,  # or what the source is trusted from
        "trust_test": "fall-back",
        "threshold_method": "otsu",
        "largest_component": False,
        "fill_holes": False,
        "mask_dilation": 0.0,
        "mask_refinement": "grabcut",
        "selection_method": "l2",
        "target_classes": "other",
        "crop_target": True,
        "mixing_method": "inpaint",
        "feather": 0.01,
        "foreground_strength": 0.0,
        "paste_foreground": True,
    },
}
# A setting that brings a source of masks -> the saliency method that uses it; the best one first.
AT_HAND = {"mask_column": "mask-column", "segmenter": "segmentation", "bbox_column": "box-column"}


def preset_values(settings: MethodSettings) -> dict[str, Any]:
    """What the settings' preset gives.

    `recommended` takes the best saliency source at hand: a column of masks, a segmentation model, a
    column of boxes, or else a method without a model. It mixes no mask that this source is not
    trusted from. With a bank of backgrounds that has no foregrounds, targets are random.
    """
    values = dict(PRESETS[settings.preset])
    if settings.preset == "recommended":
        at_hand = (method for name, method in AT_HAND.items() if getattr(settings, name, None))
        values["saliency_method"] = next(at_hand, values["saliency_method"])
        source = SALIENCY_SOURCES[settings.saliency_method or values["saliency_method"]]
        values["min_mask_confidence"] = source.trusted_from
    if getattr(settings, "background_dataset_name", None) is not None:
        values["target_classes"] = "any"  # a bank of backgrounds has no classes
        if not getattr(settings, "background_has_foreground", None):
            values["selection_method"] = "random"
    return values


def saliency_method(settings: MethodSettings) -> str:
    """The saliency method that the settings name, or else their preset."""
    return settings.saliency_method or preset_values(settings)["saliency_method"]


def saliency_source(settings: MethodSettings) -> SaliencySource:
    """The record of the settings' saliency method. Raises `KeyError` for an unknown one."""
    return SALIENCY_SOURCES[saliency_method(settings)]


def apply_preset(settings: Method) -> Method:
    """A copy in which the preset fills every setting of it that is None."""
    missing = {
        name: value
        for name, value in preset_values(settings).items()
        if getattr(settings, name) is None
    }
    return dataclasses.replace(settings, **missing)


def preset_deviations(settings: MethodSettings) -> dict[str, Any]:
    """The settings whose values differ from the preset's."""
    preset = preset_values(settings)
    return {
        name: getattr(settings, name)
        for name in preset
        if getattr(settings, name) not in (None, preset[name])
    }
