"""LoRA files that others made: which one is meant, and whether they fit a base.

Such a file is not trusted: it is read from safetensors alone, and what it names must be layers of
the base, since peft takes names for patterns.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from sgdmix_hub.errors import UserError, shown
from sgdmix_hub.hub.pins import Pin, local_folder

from .adapters import LORA_FILE
from .bases.loading import LoadedBase

OF_A_LAYER = re.compile(r"\.lora_[AB](\.default)?\.weight$")  # the ends of peft's names
UP = re.compile(r"(\.lora_B(\.default)?|[._]lora_up|[._]lora\.up|lora_linear_layer\.up)\.weight$")
PLAIN_NAME = re.compile(r"[\w.-]+")


def find_lora(
    pin: Pin,
    weight_name: str | None,
    setting: str,
    weight_setting: str,
    left_out: Iterable[str] = (),
) -> Path:
    """The file of a repository: the named one, `pytorch_lora_weights.safetensors` or its only one.

    `setting`, `weight_setting`: the settings that name the repository and the file. `left_out`:
    patterns of files that are no LoRA. Raises `UserError`.
    """
    folder = Path(local_folder(pin, [glob.escape(weight_name or "") or "*.safetensors"]))
    found = sorted(
        path.name
        for path in folder.glob("*.safetensors")
        if path.is_file() and not any(fnmatchcase(path.name, pattern) for pattern in left_out)
    )
    if weight_name is None and LORA_FILE in found:
        weight_name = LORA_FILE
    if weight_name is None and len(found) == 1:
        (weight_name,) = found
    if weight_name not in found:
        listed = f"it has {shown(', '.join(found))}" if found else "it has no .safetensors file"
        asked = f"has no {shown(weight_name)}" if weight_name else f"needs {weight_setting}"
        raise UserError(f"{setting} {pin.name} {asked}: {listed}")
    return folder / weight_name


def fault_of_names(base: LoadedBase, names: Iterable[str], encoders: bool = False) -> str | None:
    """Why the names of a LoRA's weights, in peft's format, are not of the base, or None.

    `encoders`: whether it may also have weights of the text encoders, whose layers libraries name
    in several ways: these names are only checked to be plain, see `effective_layers`.
    """
    start = f"{base.family.denoiser}."
    others = [f"{encoder.model}." for encoder in base.encoders] if encoders else []
    modules, count = dict(base.denoiser.named_modules()), 0
    for name in names:
        count += 1
        if name.startswith(tuple(others)) and PLAIN_NAME.fullmatch(name):
            continue
        if not name.startswith(start):
            where = "the denoiser and the text encoders" if encoders else "the denoiser"
            return f"has weights outside {where}, {shown(name)}: give one that has none"
        layer, found = OF_A_LAYER.subn("", name.removeprefix(start))
        if not found or layer not in modules:
            return f"has {shown(name)}, which the base has no layer for"
    return None if count else "has no weights"


def effective_weights(weights: dict[str, torch.Tensor], names: list[str]) -> int:
    """How many layers a LoRA file changes: those whose second matrix is not zero.

    `names`: of the same weights in peft's format, where one that stands for several layers
    (kohya's q, k and v in one) is several.
    """
    ups = [value for name, value in weights.items() if UP.search(name)]
    split = sum(bool(UP.search(name)) for name in names) - len(ups)
    return sum(bool(value.any()) for value in ups) + split


def effective_layers(networks: Iterable[torch.nn.Module], adapter_name: str) -> int:
    """How many layers of the networks a loaded LoRA changes."""
    parts: list[Any] = [part for network in networks for part in network.modules()]
    loaded = [part.lora_B[adapter_name] for part in parts if adapter_name in _loras(part)]
    return sum(bool(half.weight.any()) for half in loaded)


def _loras(part: torch.nn.Module) -> Any:
    """The second halves of the LoRA of a layer, by adapter."""
    return getattr(part, "lora_B", ())


def use_all_adapters(pipeline: Any) -> None:
    """Turns on every LoRA that was loaded beside a pipeline's weights; loading one turns the others
    off.
    """
    loaded = pipeline.get_list_adapters().values()
    names = list(dict.fromkeys(name for of_part in loaded for name in of_part))
    if names:
        pipeline.set_adapters(names)
