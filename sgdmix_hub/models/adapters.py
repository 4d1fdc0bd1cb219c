"""Adapters: LoRA weights, learned tokens and `adapter.json`, in one folder for diffusers."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers.utils import logging as transformers_logging

from sgdmix_hub.errors import UserError, first_line, shown
from sgdmix_hub.files import write_json
from sgdmix_hub.forms import NAME, SHARE, of_kind, record
from sgdmix_hub.hub.formats import read_adapter_facts
from sgdmix_hub.hub.pins import Pin, local_folder

from .bases.families import BY_NAME, name_in
from .bases.family import Family
from .prompts import prompt_of, token_for, words_of

if TYPE_CHECKING:
    from .bases.loading import LoadedBase

JUDGED_ARMS = {
    "noise, base": "base, from noise",
    "noise, adapter": "adapter, from noise",
    "mixed, base": "base, from mixed images",
    "mixed, adapter": "adapter, from mixed images",
}
LORA_FILE = "pytorch_lora_weights.safetensors"
TOKENS_FILE = "learned_embeds.safetensors"
SECOND_TOKENS_FILE = "learned_embeds_2.safetensors"  # SDXL's textual inversion: second encoder
PIVOTAL_TOKENS = "*_emb.safetensors"
TOKEN_FILES = (TOKENS_FILE, SECOND_TOKENS_FILE, PIVOTAL_TOKENS)  # patterns, whoever wrote them
FACTS_FILE = "adapter.json"
FORMAT = 1
LORA_DESCRIPTION = "lora_adapter_metadata"  # diffusers' key in the metadata of LORA_FILE
LARGEST_RANK, LARGEST_ALPHA = 4096, 10**6
# what a training may choose in LoraConfig besides its family's targets; all else is peft's default
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
    def family(self) -> Family:
        """The family of its base."""
        return BY_NAME[name_in(self.facts)]

    @property
    def class_names(self) -> list[str]:
        return self.facts["class_names"]

    @property
    def learns_tokens(self) -> bool:
        """Whether its classes have learned tokens; else prompts hold their names."""
        return self.facts.get("tokens") != []

    def prompt(self, label: int, template: str | None = None) -> str:
        """The prompt of a class, by default the one it was trained with."""
        word = token_for(label) if self.learns_tokens else words_of(self.class_names[label])
        return prompt_of(word, self.facts["metaclass"], template or self.facts["prompt_template"])


def read_adapter(pin: Pin) -> Adapter:
    """Reads a pinned adapter. Raises `UserError` if files are missing or of another format."""
    folder = local_folder(pin, allow_patterns=[LORA_FILE, TOKENS_FILE, FACTS_FILE])
    missing = [
        name for name in (LORA_FILE, TOKENS_FILE, FACTS_FILE) if not (Path(folder) / name).is_file()
    ]
    fault = UserError(f"{pin.name} is not an adapter of sgdmix_hub: {', '.join(missing)} missing")
    if missing and missing != [TOKENS_FILE]:
        raise fault
    adapter = Adapter(folder, read_adapter_facts(Path(folder) / FACTS_FILE, FORMAT))
    if missing and adapter.learns_tokens:
        raise fault
    if (named := name_in(adapter.facts)) not in BY_NAME:
        raise UserError(
            f"{pin.name} is an adapter for {shown(named)}, which this version of sgdmix_hub does "
            "not know: install the version that made it"
        )
    return adapter


def check_base(adapter: Adapter, base: Pin) -> None:
    """Raises `UserError` if an adapter was trained on another base model."""
    if not base.holds_same_as(adapter.base):
        raise UserError(f"the adapter was trained on {adapter.base}, not on {base}: give that base")


def check_family(adapter: Adapter, family: Family) -> None:
    """Raises `UserError` if an adapter was trained on a base of another family."""
    if adapter.family.name != family.name:
        raise UserError(
            f"the adapter was trained on a base of {adapter.family.title}, and this base is of "
            f"{family.title}: give the adapter's base, {adapter.base}"
        )


def save_adapter(
    folder: Path,
    family: Family,
    denoiser: Any,
    learned: dict[str, torch.Tensor],
    num_vectors: int,
    facts: dict,
) -> None:
    """Writes LoRA weights, learned tokens and facts.

    `learned`: `AdaptedModel.token_tensors`; empty without tokens. The LoRA
    metadata holds alpha: without it diffusers would silently load alpha = rank.
    """
    # imported here: programs that only read an adapter's facts start seconds earlier
    import diffusers
    from peft import get_peft_model_state_dict

    folder.mkdir(parents=True, exist_ok=True)
    lora_layers = family.lora_layers(get_peft_model_state_dict(denoiser))
    metadata = denoiser.peft_config["default"].to_dict()
    # peft keeps sets, whose order differs between processes
    metadata = {
        name: sorted(value) if isinstance(value, set) else value for name, value in metadata.items()
    }
    getattr(diffusers, family.text_to_image).save_lora_weights(
        folder,
        safe_serialization=True,
        **{
            f"{family.denoiser}_lora_layers": lora_layers,
            f"{family.denoiser}_lora_adapter_metadata": metadata,
        },
    )
    sort_metadata(folder / LORA_FILE)
    rows = {key: value.detach().float().cpu() for key, value in learned.items()}
    if rows:
        tokens = family.token_file(rows, num_vectors)
        save_file(tokens, folder / TOKENS_FILE, metadata={"format": "pt"})
    write_json(folder / FACTS_FILE, {"format": FORMAT, "family": family.name, **facts})


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


def check_lora(path: Path, family: Family, denoiser: torch.nn.Module) -> None:
    """Raises `UserError` unless a LoRA file is as `save_adapter` writes it for this denoiser.

    It must hold the weights of every layer of the family's `lora_targets` and no others, since
    diffusers ignores missing and unknown ones, and a description that peft can be trusted with.
    """
    with safe_open(path, "pt") as file:
        names, metadata = set(file.keys()), file.metadata() or {}
    fault = fault_of_description(metadata.get(LORA_DESCRIPTION, "{}"), family)
    if fault is not None:
        raise UserError(
            f"{path.name} of the adapter was not written by sgdmix train-adapter: "
            f"its {LORA_DESCRIPTION} {fault}"
        )
    ends = tuple(f".{target}" for target in family.lora_targets)
    layers = [name for name, _ in denoiser.named_modules() if name.endswith(ends)]
    expected = {
        f"{family.denoiser}.{layer}.{half}.weight"
        for layer in layers
        for half in family.lora_halves
    }
    if names != expected:
        raise UserError(
            f"the adapter does not fit the base model: {path.name} has {len(names & expected)} of "
            f"{len(expected)} LoRA weights, and {len(names - expected)} of other names"
        )


def fault_of_numbers(weights: dict[str, torch.Tensor]) -> str | None:
    """Why weights cannot be computed with, or None: every image would be one of no numbers."""
    for name, value in weights.items():
        if not value.is_floating_point():
            return f"holds {shown(name)} as {str(value.dtype).removeprefix('torch.')}"
        if not value.float().isfinite().all():
            return f"holds numbers in {shown(name)} that are not finite"
    return None


def fault_of_description(text: str, family: Family) -> str | None:
    """What is wrong with a LoRA's description, or None.

    Anybody may have written it, and peft uses its texts as patterns, which may never end, and its
    numbers as sizes.
    """
    from peft import LoraConfig

    try:
        values = {
            name.removeprefix(f"{family.denoiser}."): value
            for name, value in json.loads(text).items()
        }
    except (ValueError, AttributeError, RecursionError) as error:
        return f"is not a description: {first_line(error)}"
    targets = sorted(family.lora_targets)
    choices = LORA_CHOICES | {
        "target_modules": of_kind(
            f"the list of {', '.join(targets)}", lambda value: value == targets
        )
    }
    defaults = LoraConfig().to_dict()
    others = [
        name
        for name, value in values.items()
        if name not in choices and (name not in defaults or value != defaults[name])
    ]
    return f"sets {shown(others[0])}" if others else record(choices)(values)


def load_into(base: LoadedBase, adapter: Adapter) -> None:
    """Loads an adapter into its base. Raises `UserError` if it does not fit."""
    check_family(adapter, base.family)
    try:
        tokens = load_file(Path(adapter.folder) / TOKENS_FILE) if adapter.learns_tokens else {}
        fault = base.family.fault_of_tokens(tokens, len(adapter.class_names))
        if adapter.learns_tokens and fault is not None:
            raise UserError(
                f"the adapter {fault}: its {TOKENS_FILE} and {FACTS_FILE} are of different adapters"
            )
        check_lora(Path(adapter.folder) / LORA_FILE, base.family, base.denoiser)
        for name, values in (
            (TOKENS_FILE, tokens),
            (LORA_FILE, load_file(Path(adapter.folder) / LORA_FILE)),
        ):
            if (fault := fault_of_numbers(values)) is not None:
                raise UserError(f"{name} of the adapter {fault}: train it again")
        # the loaders warn of an untrained text encoder, and of rows that are overwritten at once
        with quiet_libraries():
            base.pipeline.load_lora_weights(
                adapter.folder, weight_name=LORA_FILE, use_safetensors=True
            )
            if adapter.learns_tokens:
                base.family.load_tokens(base.pipeline, tokens, len(adapter.class_names))
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # fetched files can make the libraries raise anything
        raise UserError(f"the adapter does not fit the base model: {first_line(error)}") from error
