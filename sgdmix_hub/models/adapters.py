"""Adapters: LoRA of the UNet, learned tokens and `adapter.json`, in one folder for diffusers."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers.utils import logging as transformers_logging

from sgdmix_hub.errors import UserError, first_line, shown
from sgdmix_hub.files import write_json
from sgdmix_hub.forms import NAME, SHARE, of_kind, record
from sgdmix_hub.hub.formats import read_adapter_facts
from sgdmix_hub.hub.pins import Pin, local_folder

from .prompts import prompt_for, token_for

if TYPE_CHECKING:
    from .bases import Pipeline

JUDGED_ARMS = {
    "noise, base": "base, from noise",
    "noise, adapter": "adapter, from noise",
    "mixed, base": "base, from mixed images",
    "mixed, adapter": "adapter, from mixed images",
}
LORA_FILE = "pytorch_lora_weights.safetensors"
TOKENS_FILE = "learned_embeds.safetensors"
FACTS_FILE = "adapter.json"
FORMAT = 1
LORA_DESCRIPTION = "lora_adapter_metadata"  # diffusers' key in the metadata of LORA_FILE
LORA_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
LARGEST_RANK, LARGEST_ALPHA = 4096, 10**6
# what a training may choose in LoraConfig; everything else is peft's default
LORA_CHOICES = {
    "r": of_kind(
        f"a whole number from 1 to {LARGEST_RANK}",
        lambda value: type(value) is int and 1 <= value <= LARGEST_RANK,
    ),
    "lora_alpha": of_kind(
        f"a number up to {LARGEST_ALPHA}",
        lambda value: (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            and 0 < value <= LARGEST_ALPHA
        ),
    ),
    "lora_dropout": SHARE,
    "target_modules": of_kind(
        f"the list of {', '.join(LORA_TARGETS)}", lambda value: value == sorted(LORA_TARGETS)
    ),
    "init_lora_weights": of_kind("gaussian", lambda value: value == "gaussian"),
    "peft_version": NAME,
}


@dataclass(frozen=True)
class Adapter:
    """A trained adapter on disk: its folder and the content of `adapter.json`."""

    folder: str
    facts: dict

    @property
    def base(self) -> Pin:
        """The base model that it was trained on."""
        return Pin.parse(self.facts["base"])

    @property
    def class_names(self) -> list[str]:
        return self.facts["class_names"]

    def prompt(self, label: int) -> str:
        """The prompt the class was trained with."""
        return prompt_for(label, self.facts["metaclass"], self.facts["prompt_template"])


def read_adapter(pin: Pin) -> Adapter:
    """Reads a pinned adapter. Raises `UserError` if files are missing or of another format."""
    folder = local_folder(pin, allow_patterns=[LORA_FILE, TOKENS_FILE, FACTS_FILE])
    missing = [
        name for name in (LORA_FILE, TOKENS_FILE, FACTS_FILE) if not (Path(folder) / name).is_file()
    ]
    if missing == [TOKENS_FILE, FACTS_FILE]:
        raise UserError(
            f"{pin.name} is a LoRA of another program, without learned tokens: "
            "train an adapter with sgdmix train-adapter"
        )
    if missing:
        raise UserError(f"{pin.name} is no adapter of sgdmix_hub: {', '.join(missing)} missing")
    return Adapter(folder, read_adapter_facts(Path(folder) / FACTS_FILE, FORMAT))


def check_base(adapter: Adapter, base: Pin) -> None:
    """Raises `UserError` if an adapter was trained on another base model."""
    if not base.holds_same_as(adapter.base):
        raise UserError(f"the adapter was trained on {adapter.base}, not on {base}: give that base")


def save_adapter(
    folder: Path, unet: Any, learned_tokens: torch.Tensor, num_vectors: int, facts: dict
) -> None:
    """Writes LoRA weights, learned tokens (float32 (classes * num_vectors, dim)) and facts.

    The LoRA metadata holds alpha: without it diffusers would silently load alpha = rank.
    """
    # imported here: programs that only read an adapter's facts start seconds earlier
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import get_peft_model_state_dict

    folder.mkdir(parents=True, exist_ok=True)
    lora_layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    metadata = unet.peft_config["default"].to_dict()
    # peft keeps sets, whose order differs between processes
    metadata = {
        name: sorted(value) if isinstance(value, set) else value for name, value in metadata.items()
    }
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=lora_layers,
        safe_serialization=True,
        unet_lora_adapter_metadata=metadata,
    )
    sort_metadata(folder / LORA_FILE)
    vectors = learned_tokens.detach().float().cpu().unflatten(0, (-1, num_vectors))
    # diffusers reads a tensor (dim,) as one token and (k, dim) as k tokens
    rows = {
        token_for(label): (rows[0] if num_vectors == 1 else rows).clone()
        for label, rows in enumerate(vectors)
    }
    save_file(rows, folder / TOKENS_FILE, metadata={"format": "pt"})
    write_json(folder / FACTS_FILE, {"format": FORMAT, **facts})


def sort_metadata(path: Path) -> None:
    """Sorts a safetensors file's metadata, so that the same weights are the same bytes.

    Its order otherwise differs between processes.
    """
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])


@contextmanager
def quiet_libraries():
    """Silences transformers and diffusers, except for errors."""
    from diffusers.utils import logging as diffusers_logging

    loggings = (transformers_logging, diffusers_logging)
    before = [logging.get_verbosity() for logging in loggings]
    for logging in loggings:
        logging.set_verbosity_error()
    try:
        yield
    finally:
        for logging, verbosity in zip(loggings, before, strict=True):
            logging.set_verbosity(verbosity)


def check_lora(path: Path, unet: torch.nn.Module) -> None:
    """Raises `UserError` unless a LoRA file is as `save_adapter` writes it for this UNet.

    It must hold the weights of every layer of `LORA_TARGETS` and no others, since diffusers ignores
    missing and unknown ones, and a description that peft can be trusted with.
    """
    with safe_open(path, "pt") as file:
        names, metadata = set(file.keys()), file.metadata() or {}
    fault = fault_of_description(metadata.get(LORA_DESCRIPTION, "{}"))
    if fault is not None:
        raise UserError(
            f"{path.name} of the adapter was not written by sgdmix train-adapter: "
            f"its {LORA_DESCRIPTION} {fault}"
        )
    ends = tuple(f".{target}" for target in LORA_TARGETS)
    layers = [name for name, _ in unet.named_modules() if name.endswith(ends)]
    expected = {f"unet.{layer}.lora.{half}.weight" for layer in layers for half in ("down", "up")}
    if names != expected:
        raise UserError(
            f"the adapter does not fit the base model: {path.name} has {len(names & expected)} of "
            f"{len(expected)} LoRA weights, and {len(names - expected)} of other names"
        )


def fault_of_description(text: str) -> str | None:
    """What is wrong with a LoRA's description, or None.

    Anybody may have written it, and peft uses its texts as patterns, which may never end, and its
    numbers as sizes.
    """
    from peft import LoraConfig

    try:
        values = {name.removeprefix("unet."): value for name, value in json.loads(text).items()}
    except (ValueError, AttributeError, RecursionError) as error:
        return f"is no description: {first_line(error)}"
    defaults = LoraConfig().to_dict()
    others = [
        name
        for name, value in values.items()
        if name not in LORA_CHOICES and (name not in defaults or value != defaults[name])
    ]
    return f"sets {shown(others[0])}" if others else record(LORA_CHOICES)(values)


def load_into(pipeline: Pipeline, adapter: Adapter) -> None:
    """Loads an adapter into a pipeline of its base. Raises `UserError` if it does not fit."""
    try:
        tokens = load_file(Path(adapter.folder) / TOKENS_FILE)
        missing = [
            token
            for token in map(token_for, range(len(adapter.class_names)))
            if token not in tokens
        ]
        if missing:
            raise UserError(
                f"the adapter has no learned token {missing[0]}: "
                f"its {TOKENS_FILE} and {FACTS_FILE} are of different adapters"
            )
        check_lora(Path(adapter.folder) / LORA_FILE, pipeline.unet)
        # the loaders warn of an untrained text encoder, and of rows that are overwritten at once
        with quiet_libraries():
            pipeline.load_lora_weights(adapter.folder, weight_name=LORA_FILE, use_safetensors=True)
            # one dictionary per token: a file with several tokens is refused if given by path
            pipeline.load_textual_inversion([{name: row} for name, row in tokens.items()])
    except (ValueError, KeyError, TypeError, RuntimeError, OSError, SafetensorError) as error:
        raise UserError(f"the adapter does not fit the base model: {first_line(error)}") from error
