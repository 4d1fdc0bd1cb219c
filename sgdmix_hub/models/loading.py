"""Pinning and loading the networks of SGD-Mix, for a generation and for a pipeline alike.

The networks' libraries take seconds to import. Each function imports only what it loads: mixing
alone starts without them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.pins import Pin, local_folder
from sgdmix_hub.settings.adapters import check_base_alone, check_own_adapter
from sgdmix_hub.settings.method import MethodSettings

from .adapters import FACTS_FILE, Adapter, read_adapter
from .bases.supported import INDEX

if TYPE_CHECKING:
    from .classifier import Classifier
    from .foreign import ForeignAdapter
    from .prompts import Prompts
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
    """A pinned base model and the adapter to use with it, if any: our own or a foreign one."""

    base: Pin
    adapter_pin: Pin | None = None
    adapter: Adapter | None = None
    few_step_lora: Pin | None = None
    foreign: ForeignAdapter | None = None


def pin_diffusion(
    settings: MethodSettings,
    adapter: str | None,
    base: str | None,
    pin: Callable[[str, str], Pin],
    few_step_lora: str | None = None,
) -> Diffusion:
    """Pins a base model and an adapter; the base defaults to the one the adapter was trained on.

    `pin`: (setting, the name it holds) -> pin. Raises `UserError`, also for settings that do not
    belong to such an adapter.
    """
    adapter_pin = learned = foreign = None
    if adapter is not None:
        adapter_pin = pin("adapter", adapter)
        folder = Path(local_folder(adapter_pin, [FACTS_FILE, INDEX]))
        if (folder / INDEX).is_file():
            raise UserError(
                f"adapter {adapter_pin.name} is a whole base model: give it as "
                "pretrained_model_name_or_path"
            )
        if (folder / FACTS_FILE).is_file():
            learned = read_adapter(adapter_pin)
            base = base or str(learned.base)
        elif base is None:
            raise UserError(
                f"adapter {adapter_pin.name} has no {FACTS_FILE}, so it was not made by sgdmix "
                "train-adapter and does not say its base: give --pretrained_model_name_or_path"
            )
        else:
            from .foreign import open_foreign

            foreign = open_foreign(adapter_pin, settings.adapter_weight_name)
    (check_base_alone if learned is None else check_own_adapter)(settings)
    assert base is not None, "settings above strength 0 name an adapter or a base model"
    return Diffusion(
        pin("pretrained_model_name_or_path", base),
        adapter_pin,
        learned,
        None if few_step_lora is None else pin("few_step_lora", few_step_lora),
        foreign,
    )


def load_refiner(
    settings: MethodSettings,
    base: Pin,
    adapter: Adapter | None,
    device: torch.device,
    on_step: Callable[[], None] = lambda: None,
    few_step_lora: Pin | None = None,
    foreign: ForeignAdapter | None = None,
    prompts: Prompts | None = None,
) -> Refiner:
    """The diffusion model of a run. `prompts`: all that it will be told. Raises `UserError`."""
    from .refine import Refiner

    return Refiner(base, adapter, settings, device, on_step, few_step_lora, foreign, prompts)


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
