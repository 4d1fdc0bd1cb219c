"""The pinned inputs of a generation, and whether they and the settings are those that a folder's run began with."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from .adapters import Adapter, read_adapter
from .config import MAY_MOVE_LAST_BITS, AugmentSettings, UserError, fingerprint, published_settings
from .data import Split, check_same_subset, load_split, subset_record
from .pins import Pin, local_folder, resolve
from .processes import read_json, say, write_json

CLASSIFIER_FACTS = "classifier.json"
LIBRARIES = ("torch", "diffusers", "transformers", "peft", "datasets", "pillow", "numpy", "grad-cam", "sgdmix_hub")


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

    def prompt(self, label: int) -> str:
        """The prompt of a class; empty where no diffusion model is used."""
        return self.adapter.prompt(label) if self.adapter else ""


def resolve_inputs(settings: AugmentSettings) -> Inputs:
    """Pins everything the settings name and checks that it belongs together. Raises `UserError`."""
    split = load_split(settings)
    subset = subset_record(settings, split)
    adapter_pin, adapter, base = _resolve_adapter(settings, split, subset) if settings.strength > 0 else (None, None, None)
    classifier = _resolve_classifier(settings, subset) if settings.saliency_method == "grad-cam" else None
    return Inputs(split, adapter_pin, adapter, base, classifier)


def _resolve_adapter(settings: AugmentSettings, split: Split, subset: dict) -> tuple[Pin, Adapter, Pin]:
    pin = resolve(settings.adapter)
    adapter = read_adapter(pin)
    if adapter.class_names != split.class_names:
        raise UserError(f"the adapter {pin.name} was trained on other classes than {split.pin.name} has")
    base = resolve(settings.pretrained_model_name_or_path or adapter.facts["base"])
    if _revision(str(base)) != _revision(adapter.facts["base"]):
        raise UserError(f"the adapter was trained on {adapter.facts['base']}, not on {base}: give that base")
    if not settings.allow_other_subset:
        check_same_subset(subset, adapter.facts["subset"], "adapter")
    return pin, adapter, base


def _resolve_classifier(settings: AugmentSettings, subset: dict) -> Pin:
    pin = resolve(settings.classifier)
    facts = Path(local_folder(pin)) / CLASSIFIER_FACTS
    if facts.is_file() and not settings.allow_other_subset:
        check_same_subset(subset, read_json(facts)["subset"], "classifier")
    return pin


def _revision(pin: str) -> str:
    return pin.rpartition("@")[2]


def environment(settings: AugmentSettings) -> dict[str, str]:
    """What may move last bits: device model, threads, batch size, versions."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} cpu"
    facts = {"device": device, "batch_size": str(settings.batch_size), "num_threads": str(settings.num_threads)}
    return facts | {library: version(library) for library in LIBRARIES}


def check_resume(settings: AugmentSettings, inputs: Inputs, state_folder: Path) -> None:
    """Compares with the run that began in this folder: refuses other images, warns about other last bits, else notes this run."""
    current = {
        "fingerprint": fingerprint(settings, inputs.pins),
        "settings": published_settings(settings, inputs.pins),
        "environment": environment(settings),
    }
    path = state_folder / "run.json"
    if not path.exists():
        write_json(path, current)
        return
    before = read_json(path)
    if before["fingerprint"] != current["fingerprint"]:
        changes = [
            f"{name} {before['settings'].get(name)} -> {current['settings'].get(name)}"
            for name in _different(before["settings"], current["settings"])
            if name not in MAY_MOVE_LAST_BITS
        ]
        raise UserError(f"{state_folder.parent} holds a run with other settings ({', '.join(changes)}): choose another --output_dir")
    moved = _different(before["environment"], current["environment"])
    if moved:
        say(f"warning: {', '.join(moved)} changed since this run began: images made from here on may differ by rounding")


def _different(before: dict, current: dict) -> list[str]:
    return [name for name in sorted(set(before) | set(current)) if before.get(name) != current.get(name)]
