"""Pinning and loading the networks of SGD-Mix, for a generation and for a pipeline alike.

The networks' libraries take seconds to import. Each function imports only what it loads: mixing
alone starts without them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.pins import Pin
from sgdmix_hub.settings.method import MethodSettings

from .adapters import Adapter, read_adapter

if TYPE_CHECKING:
    from .classifier import Classifier
    from .refine import Refiner
    from .segmenters.segmenter import Segmenter


@dataclass(frozen=True)
class SegmenterPins:
    """A pinned segmentation model, the detector in front of it, and the words it looks for."""

    segmenter: Pin
    detector: Pin | None
    words: tuple[str, ...]


@dataclass(frozen=True)
class Diffusion:
    """A pinned base model and the adapter to use with it, if any."""

    base: Pin
    adapter_pin: Pin | None = None
    adapter: Adapter | None = None
    few_step_lora: Pin | None = None


def pin_diffusion(
    adapter: str | None,
    base: str | None,
    pin: Callable[[str, str], Pin],
    few_step_lora: str | None = None,
) -> Diffusion:
    """Pins a base model and an adapter; the base defaults to the one the adapter was trained on.

    `pin`: (setting, the name it holds) -> pin. Raises `UserError`.
    """
    adapter_pin = learned = None
    if adapter is not None:
        adapter_pin = pin("adapter", adapter)
        learned = read_adapter(adapter_pin)
        base = base or str(learned.base)
    assert base is not None, "settings above strength 0 name an adapter or a base model"
    return Diffusion(
        pin("pretrained_model_name_or_path", base),
        adapter_pin,
        learned,
        None if few_step_lora is None else pin("few_step_lora", few_step_lora),
    )


def load_refiner(
    settings: MethodSettings,
    base: Pin,
    adapter: Adapter | None,
    device: torch.device,
    on_step: Callable[[], None] = lambda: None,
    few_step_lora: Pin | None = None,
) -> Refiner:
    """The diffusion model of a run. Raises `UserError`."""
    from .refine import Refiner

    return Refiner(base, adapter, settings, device, on_step, few_step_lora)


def load_classifier(
    pin: Pin, class_names: list[str] | None, device: torch.device, owner: str = "dataset"
) -> Classifier:
    """The classifier of a saliency source.

    `class_names`: the classes that it must have, if known; `owner`: whose they are, for the error.
    Raises `UserError`.
    """
    from .classifier import Classifier

    classifier = Classifier(pin, device)
    if class_names is not None and classifier.class_names != class_names:
        raise UserError(
            f"the classifier's {len(classifier.class_names)} classes are not the "
            f"{len(class_names)} of the {owner}: train one with sgdmix train-classifier"
        )
    return classifier


def load_segmenter(
    pins: SegmenterPins, instances: str, resize: str, device: torch.device
) -> Segmenter:
    """The segmentation model of a saliency source. Raises `UserError`."""
    from .segmenters.segmenter import Segmenter

    return Segmenter(pins.segmenter, pins.detector, pins.words, instances, resize, device)
