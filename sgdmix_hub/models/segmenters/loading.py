"""A segmentation or detection model of transformers in a folder that anybody may have written: its
configuration is checked before anything is built, and only safetensors are read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoTokenizer

from sgdmix_hub._compat import LOADING
from sgdmix_hub.errors import UserError, first_line, one_line, shown
from sgdmix_hub.hub.pins import MODEL_FILES, Pin, local_folder

from .frames import Input

PEFT_FILE = "adapter_config.json"
SEGMENTER_FILES = [*MODEL_FILES, "merges.txt", "vocab.txt"]
NO_CODE = {"trust_remote_code": False}  # or transformers would ask on the terminal
LARGEST_SIDE = 2048
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@dataclass(frozen=True)
class Family:
    """One architecture: its class in transformers, and its input where the processor's file says
    nothing else. `padded`: trained on images at their aspect ratio. `found_from`: the score from
    which the family's own post-processing counts something as found, by default.
    """

    model_class: str
    side: int
    values: tuple[tuple[float, float, float], tuple[float, float, float]]
    padded: bool
    found_from: float = 0.5


@dataclass(frozen=True)
class Loaded:
    """A network in evaluation mode, its family's name, its input, and the folder it comes from."""

    network: Any
    family: str
    input: Input
    folder: str
    called: str


def load(pin: Pin, families: Mapping[str, Family], role: str) -> Loaded:
    """The network of a pin; `role` is what errors call it. Raises `UserError`; runs no code of the
    folder's.
    """
    folder, called = local_folder(pin, SEGMENTER_FILES), f"{role} {pin.name}"
    config = _checked_config(folder, called)
    name = config["model_type"]
    if name not in families:
        known = ", ".join(sorted(families))
        raise UserError(
            f"the {called} is of type {shown(name)}, which cannot be used: give one of {known}"
        )
    family = families[name]
    given = _input(folder, family, called)
    network = cannot_load(called, lambda: _network(folder, family))
    return Loaded(network.eval().requires_grad_(False), name, given, folder, called)


def load_tokenizer(model: Loaded) -> Any:
    """The tokenizer beside a network. Raises `UserError`."""
    return cannot_load(model.called, lambda: AutoTokenizer.from_pretrained(model.folder, **NO_CODE))


def cannot_load(called: str, make: Callable[[], Any]) -> Any:
    """What `make` gives. Raises `UserError` for whatever transformers and safetensors raise."""
    try:
        return make()
    except UserError:
        raise
    except Exception as error:
        raise UserError(one_line(f"cannot load the {called}: {first_line(error)}")) from error


def _network(folder: str, family: Family) -> Any:
    with LOADING:
        network, report = getattr(transformers, family.model_class).from_pretrained(
            folder, use_safetensors=True, output_loading_info=True
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(
            f"its weights lack {missing[0]}{' and others' * (len(missing) > 1)}, "
            "which would be drawn at random"
        )
    return network


def _read_json(folder: str, name: str, called: str) -> dict | None:
    path = Path(folder) / name
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise UserError(f"{name} of the {called} is not a JSON object")
    return values


def _checked_config(folder: str, called: str) -> dict:
    """config.json. Raises `UserError` where it would load more than the folder's own weights."""
    if (Path(folder) / PEFT_FILE).exists():
        # transformers would put the weights that this file describes into the network
        raise UserError(f"{PEFT_FILE} makes the {called} an adapter: merge it with its model first")
    config = _read_json(folder, "config.json", called)
    if config is None or not isinstance(config.get("model_type"), str):
        raise UserError(f"the {called} has no config.json with a model_type")
    for name, value in _settings(config):
        if name == "quantization_config" and value is not None:
            raise UserError(f"the {called} is quantised: give the unquantised model")
        if "attn_implementation" in name and value not in (None, "eager", "sdpa"):
            raise UserError(
                f"config.json of the {called} asks for attention code {shown(value)}, "
                "and code that was fetched is never run"
            )
        if name == "model_type" and str(value).startswith("timm"):
            raise UserError(f"the {called} has a backbone of timm, which is not supported")
        if name == "backbone" and value is not None:
            # transformers would ask the Hub for a repository of that name, at no pin
            raise UserError(
                f"config.json of the {called} names its backbone, {shown(value, 40)}, instead of "
                "holding its configuration: save the model again with transformers 5"
            )
        if name == "image_size" and any(side > LARGEST_SIDE for side in _numbers(value)):
            raise UserError(
                f"config.json of the {called} has an image_size of {shown(value, 40)}: "
                f"{LARGEST_SIDE} is the largest that is taken"
            )
    return config


def _settings(values: object) -> Iterator[tuple[str, object]]:
    """Every name and value of a configuration and of those nested in it."""
    if isinstance(values, dict):
        for name, value in values.items():
            yield str(name), value
            yield from _settings(value)


def _numbers(value: object) -> list[float]:
    values = value if isinstance(value, list) else [value]
    return [number for number in values if isinstance(number, int | float)]


def _input(folder: str, family: Family, called: str) -> Input:
    """The input by the image processor's file, which is read and not run. Raises `UserError`."""
    stated = _read_json(folder, "processor_config.json", called) or {}
    stated = stated.get("image_processor") or _read_json(folder, "preprocessor_config.json", called)
    stated = stated if isinstance(stated, dict) else {}
    mean, std = (
        _three(stated.get(name), default, f"{name} of the {called}")
        for name, default in zip(("image_mean", "image_std"), family.values, strict=True)
    )
    if 0.0 in std:
        raise UserError(f"image_std of the {called} holds a zero")
    return Input(_side(stated.get("size"), family, called), mean, std, family.padded)


def _three(
    value: object, default: tuple[float, float, float], called: str
) -> tuple[float, float, float]:
    if value is None:
        return default
    if (
        not isinstance(value, list)
        or len(value) != 3
        or len(_numbers(value)) != 3
        or not all(map(math.isfinite, value))
    ):
        raise UserError(f"{called} is {shown(value, 40)}: three numbers are needed")
    first, second, third = map(float, value)
    return first, second, third


def _side(size: object, family: Family, called: str) -> int:
    """The side of the square input. A processor that keeps aspect ratios names the shortest and the
    longest edge: a square between the two, of whole patches, is as detailed.
    """
    if size is None:
        return family.side
    sizes = size if isinstance(size, dict) else {"height": size, "width": size}
    edges = [
        sizes[name]
        for name in ("height", "width", "shortest_edge", "longest_edge")
        if sizes.get(name) is not None
    ]
    if not edges or not all(isinstance(edge, int) and 1 <= edge <= LARGEST_SIDE for edge in edges):
        raise UserError(
            f"the image processor of the {called} has a size of {shown(size, 60)}: "
            f"sides from 1 to {LARGEST_SIDE} are taken"
        )
    if len(set(edges)) == 1:
        return edges[0]
    return max(32, round(sum(edges) / len(edges) / 32) * 32)
