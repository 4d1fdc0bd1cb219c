"""LoRA files that others made: which one is meant, whether they fit a base, and loading them.

Such a file is not trusted: it is read from safetensors alone, and what it names must be layers of
the base, since peft takes names for patterns. The stock loaders leave out weights that they do not
know, so nothing but a LoRA's own is let through, and what was loaded is counted.
"""

from __future__ import annotations

import glob
import math
import re
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from sgdmix_hub.errors import UserError, first_line, shown
from sgdmix_hub.hub.pins import Pin, local_folder

from .adapters import LARGEST_ALPHA, LARGEST_RANK, LORA_FILE, fault_of_numbers, quiet_libraries
from .bases.loading import LoadedBase

Weights = dict[str, torch.Tensor]
OF_A_LAYER = re.compile(r"\.lora_[AB](\.default)?\.weight$")  # the ends of peft's names
UP = re.compile(r"(\.lora_B(\.default)?|[._]lora_up|[._]lora\.up|lora_linear_layer\.up)\.weight$")
# the ends of a LoRA's names, as all programs write them
HALF = re.compile(
    r"(\.lora_[AB](\.default)?|[._]lora[._](up|down)|lora_linear_layer\.(up|down))\.weight$"
)
ALPHA = re.compile(r"\.alpha$")
OF_A_DORA = re.compile(r"dora_scale|magnitude_vector")
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


def load_lora(
    base: LoadedBase,
    given: Weights,
    description: dict[str, Any],
    what: str,
    adapter_name: str,
    merged: bool,
    encoders: bool = False,
) -> None:
    """Loads a file's weights into its base, and merges them if `merged`.

    `description`: what `scaled` reads of the file's metadata. `encoders`: whether it may change
    the text encoders too. Raises `UserError`, which begins with `what`, if it is no plain LoRA,
    does not fit, or if any of its weights would have no effect.
    """
    networks = {base.family.denoiser: base.denoiser}
    if encoders:
        networks |= {encoder.model: base.network(encoder) for encoder in base.encoders}
    if (fault := fault_of_kind(given) or fault_of_values(given)) is not None:
        raise UserError(f"{what} {fault}")
    with quiet_libraries(), fitting(what):
        weights, in_peft = _read(base, given, what)
        fault = fault_of_names(base, in_peft, encoders) or fault_of_halves(in_peft)
        if fault is not None:
            raise UserError(f"{what} {fault}")
        if (unread := first_unread(base, given)) is not None:
            raise UserError(
                f"{what} does not fit the base model: diffusers reads no layer of it from "
                f"{shown(unread)}"
            )
        weights = scaled(weights, description, what)
        base.pipeline.load_lora_weights(weights, adapter_name=adapter_name)
        whole = effective_weights(in_peft)
        loaded = effective_layers(networks.values(), adapter_name)
        if whole == 0:
            raise UserError(f"{what} changes nothing: it was not trained, all its layers are zero")
        if loaded != whole:
            raise UserError(
                f"{what} does not fit the base model: diffusers loads {loaded} of its {whole} "
                "layers into it, so it is for another base"
            )
        if merged:
            parts = [name for name, of in networks.items() if effective_layers([of], adapter_name)]
            base.pipeline.fuse_lora(components=parts, adapter_names=[adapter_name])
            base.pipeline.unload_lora_weights()


def _read(base: LoadedBase, given: Weights, what: str) -> tuple[Weights, Weights]:
    """`Family.lora_weights`; raises `UserError` for names that the stock loader does not read."""
    in_peft: Weights = {}
    reason = ""
    try:
        weights, in_peft = base.family.lora_weights(base.pipeline, given)
    except MemoryError:
        raise
    except Exception as error:  # the converters state their expectations in many ways
        weights, reason = {}, f" ({first_line(error)})"
    if given and not in_peft:
        raise UserError(
            f"{what} does not fit the base model: diffusers reads no LoRA for a base of "
            f"{base.family.title} from names like {shown(min(given))}{reason}"
        )
    return weights, in_peft


def first_unread(base: LoadedBase, given: Weights) -> str | None:
    """The name of a weight that the stock loader leaves out, if there is one.

    The loaders rename, split and join weights, and drop what they do not know, some without a word.
    So the file is read once more with a number of its own in every second half, which must come
    out.
    """
    numbers = {name: n for n, name in enumerate(filter(UP.search, given), 1)}
    ranks = {_layer(name): given[name].shape[1] for name in numbers}  # alphas that scale nothing
    numbered = {
        name: torch.full(value.shape, float(numbers.get(name) or ranks.get(_layer(name), 1)))
        for name, value in given.items()
    }
    _, in_peft = base.family.lora_weights(base.pipeline, numbered)
    found = {value.flatten()[0].item() for name, value in in_peft.items() if UP.search(name)}
    return next((name for name, number in numbers.items() if number not in found), None)


def _layer(name: str) -> str:
    """What the names of a layer's halves and of its alpha have in common."""
    return ALPHA.sub("", HALF.sub("", name)).rstrip("._")


@contextmanager
def fitting(what: str) -> Generator[None]:
    """Raises `UserError`, which begins with `what`, for what libraries raise of a file."""
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # fetched files can make the libraries raise anything
        raise UserError(f"{what} does not fit the base model: {first_line(error)}") from error


def fault_of_kind(names: Iterable[str]) -> str | None:
    """Why a file with weights of these names is no plain LoRA, or None."""
    others = [name for name in names if not HALF.search(name) and not ALPHA.search(name)]
    if not others:
        return None
    if any(OF_A_DORA.search(name) for name in others):
        return "is a DoRA, which is not supported: give a plain LoRA"
    return f"has {shown(others[0])}, which no plain LoRA has: give one"


def fault_of_values(weights: Weights) -> str | None:
    """Why a LoRA with these values cannot be used, or None.

    Libraries take its shapes for sizes: a half without a single number could ask for any rank.
    """
    for name, value in weights.items():
        if ALPHA.search(name):
            if value.numel() != 1 or not abs(value.item()) <= LARGEST_ALPHA:
                return f"has {shown(name)}, which is no number up to {LARGEST_ALPHA}"
            continue
        rank = value.shape[bool(UP.search(name))] if value.ndim >= 2 else 0
        if not value.numel() or not 1 <= rank <= LARGEST_RANK:
            return f"has {shown(name)} of the shape {list(value.shape)}, which no LoRA has"
    return fault_of_numbers({n: v for n, v in weights.items() if not ALPHA.search(n)})


def fault_of_halves(in_peft: Weights) -> str | None:
    """Why the halves of a LoRA's layers do not belong together, or None."""
    ranks: dict[str, dict[bool, int]] = {}
    for name, value in in_peft.items():
        is_up = bool(UP.search(name))
        ranks.setdefault(_layer(name), {})[is_up] = value.shape[is_up]
    for layer, of_layer in ranks.items():
        if len(of_layer) < 2 or len(set(of_layer.values())) > 1:
            return f"does not fit: it has one half or two ranks for the layer {shown(layer)}"
    return None


def fault_of_names(base: LoadedBase, names: Iterable[str], encoders: bool = False) -> str | None:
    """Why the names of a LoRA's weights, in peft's format, are not of the base, or None.

    `encoders`: whether it may also have weights of the text encoders, whose layers libraries name
    in several ways: these names are only checked to be plain ones of a LoRA, see
    `effective_layers`.
    """
    start = f"{base.family.denoiser}."
    others = [f"{encoder.model}." for encoder in base.encoders] if encoders else []
    modules, count = dict(base.denoiser.named_modules()), 0
    for name in names:
        count += 1
        is_half = PLAIN_NAME.fullmatch(name) and HALF.search(name)
        if is_half and name.startswith(tuple(others)):
            continue
        if not name.startswith(start):
            where = "the denoiser and the text encoders" if encoders else "the denoiser"
            return f"has weights outside {where}, {shown(name)}: give one that has none"
        layer, found = OF_A_LAYER.subn("", name.removeprefix(start))
        if not found or layer not in modules:
            return f"has {shown(name)}, which the base has no layer for"
    return None if count else "has no weights"


def scaled(weights: Weights, description: dict[str, Any], what: str) -> Weights:
    """The weights with the alpha of the description in them, which is all that is read of it.

    The loader takes weights without an alpha at alpha = rank.
    """
    result = dict(weights)
    for network in {name.partition(".")[0] for name in weights}:
        values = {
            setting: description[f"{network}.{setting}"]
            for setting in ("lora_alpha", "use_rslora", "alpha_pattern")
            if f"{network}.{setting}" in description
        }
        if not values:
            continue
        alpha = values.get("lora_alpha", 8)  # peft's own default
        is_number = isinstance(alpha, (int, float)) and not isinstance(alpha, bool)
        if not is_number or not 0 < alpha <= LARGEST_ALPHA:
            raise UserError(f"{what} states lora_alpha {shown(alpha)}: it cannot be used")
        if values.get("alpha_pattern"):
            raise UserError(f"{what} has another alpha for some layers, which is not supported")
        for name, value in weights.items():
            if name.startswith(f"{network}.") and UP.search(name):
                rank = value.shape[1]
                factor = alpha / (math.sqrt(rank) if values.get("use_rslora") is True else rank)
                result[name] = value if factor == 1 else value * factor
    return result


def effective_weights(in_peft: Weights) -> int:
    """How many layers a LoRA changes: those whose second matrix is not zero."""
    return sum(bool(value.any()) for name, value in in_peft.items() if UP.search(name))


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
