"""Adapters that others trained: a LoRA, and the learned tokens that lie beside it or in it.

They know no classes: prompts hold the classes' names, and the tokens where the user writes them.
The LoRA is what `lora_state_dict` of the base's stock pipeline reads: files of diffusers' scripts,
kohya, OneTrainer, ai-toolkit. It is merged into the base in single precision. Nothing in the file
is trusted: see `lora_files`.
"""

from __future__ import annotations

import json
import logging
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from sgdmix_hub.errors import UserError, first_line, shown
from sgdmix_hub.files import file_sha256
from sgdmix_hub.hub.pins import Pin, local_folder
from sgdmix_hub.settings.prompts import LEARNED_TOKEN

from .adapters import LARGEST_ALPHA, LORA_DESCRIPTION, TOKENS_FILE, quiet_libraries
from .bases.loading import LoadedBase
from .lora_files import UP, effective_layers, effective_weights, fault_of_names, find_lora

logger = logging.getLogger(__name__)
NAME = "foreign"
SECOND_TOKENS_FILE = "learned_embeds_2.safetensors"  # SDXL's textual inversion: second encoder
PIVOTAL_TOKENS = "*_emb.safetensors"
TOKEN_FILES = (TOKENS_FILE, SECOND_TOKENS_FILE, PIVOTAL_TOKENS)
BUNDLED = re.compile(r"bundle_emb\.(.+)\.(\w+)")  # OneTrainer's, in the LoRA's file
LONGEST_TOKEN = 100
# encoder's key -> token -> its vectors, (k, dim)
Tokens = dict[str, dict[str, torch.Tensor]]


@dataclass(frozen=True)
class ForeignAdapter:
    """A LoRA's file, and the files of the learned tokens beside it."""

    name: str
    lora: Path
    tokens: tuple[Path, ...]

    @property
    def files(self) -> dict[str, str]:
        """File name -> sha256, for the card."""
        return {path.name: file_sha256(path) for path in (self.lora, *self.tokens)}


def open_foreign(pin: Pin, weight_name: str | None) -> ForeignAdapter:
    """Fetches a pinned adapter without adapter.json. Raises `UserError`."""
    lora = find_lora(pin, weight_name, "adapter", "adapter_weight_name", TOKEN_FILES)
    folder = Path(local_folder(pin, list(TOKEN_FILES)))
    pivotal = sorted(folder.glob(PIVOTAL_TOKENS))
    if len(pivotal) > 1:
        raise UserError(
            f"adapter {pin.name} has several files of learned tokens: put the LoRA and the one "
            f"that you want into a folder ({shown(', '.join(path.name for path in pivotal))})"
        )
    inverted = [folder / name for name in (TOKENS_FILE, SECOND_TOKENS_FILE)]
    tokens = pivotal or [path for path in inverted if path.is_file()]
    return ForeignAdapter(pin.name, lora, tuple(tokens))


def merge_foreign(base: LoadedBase, adapter: ForeignAdapter, merged: bool = True) -> list[str]:
    """Loads a foreign adapter into its base; returns its learned tokens.

    Its LoRA is left beside the weights if not `merged`. Raises `UserError` if it does not fit, or
    if any of its weights would have no effect.
    """
    encoders = {one.model: base.network(one) for one in base.encoders}
    networks = {base.family.denoiser: base.denoiser} | encoders
    what = f"adapter {adapter.name}: {adapter.lora.name}"
    try:
        with quiet_libraries():
            given, bundled = _without_tokens(load_file(adapter.lora))
            weights, names = base.family.lora_weights(base.pipeline, given)
            fault = fault_of_names(base, names, encoders=True)
            if fault is not None:
                raise UserError(f"{what} {fault}")
            weights = _scaled(weights, _description(adapter.lora), what)
            base.pipeline.load_lora_weights(weights, adapter_name=NAME)
            whole, loaded = (
                effective_weights(given, names),
                effective_layers(networks.values(), NAME),
            )
            if loaded == 0 or loaded != whole:
                raise UserError(
                    f"{what} does not fit the base model: diffusers loads {loaded} of its "
                    f"{whole} layers into it, so it is for another base"
                )
            if merged:
                parts = [name for name, of in networks.items() if effective_layers([of], NAME)]
                base.pipeline.fuse_lora(components=parts, adapter_names=[NAME])
                base.pipeline.unload_lora_weights()
            return _load_tokens(base, adapter, bundled)
    except (ValueError, LookupError, TypeError, RuntimeError, OSError, SafetensorError) as error:
        raise UserError(f"{what} does not fit the base model: {first_line(error)}") from error


def warn_of_unused(tokens: list[str], texts: list[str], adapter: ForeignAdapter) -> None:
    """Warns if no prompt names a learned token of the adapter."""
    if tokens and not any(token in text for token in tokens for text in texts):
        logger.warning(
            f"no prompt holds a learned token of the adapter {adapter.name}: put "
            f"{shown(' '.join(tokens[:4]))} into prompt_template"
        )


def _without_tokens(
    weights: dict[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The LoRA's weights, and the learned tokens that OneTrainer bundles with them."""
    bundled = {name: value for name, value in weights.items() if BUNDLED.fullmatch(name)}
    return {name: value for name, value in weights.items() if name not in bundled}, bundled


def _description(path: Path) -> dict[str, Any]:
    """What the stock scripts say of a LoRA: `network.setting` -> value; empty if nothing."""
    with safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get(LORA_DESCRIPTION, "{}")
    try:
        values = json.loads(text)
    except RecursionError as error:
        raise ValueError("its description is nested too deep") from error
    if not isinstance(values, dict):
        raise ValueError("its description is no object")
    return values


def _scaled(
    weights: dict[str, torch.Tensor], description: dict[str, Any], what: str
) -> dict[str, torch.Tensor]:
    """The weights with the alpha of the description in them, which is all that is read of it.

    The loader takes weights without an alpha at alpha = rank.
    """
    scaled = dict(weights)
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
                scaled[name] = value if factor == 1 else value * factor
    return scaled


def _load_tokens(
    base: LoadedBase, adapter: ForeignAdapter, bundled: dict[str, torch.Tensor]
) -> list[str]:
    """Adds the learned tokens to the text encoders, and returns them. Raises `UserError`."""
    tokens = _read_tokens(base, adapter, bundled)
    loader: Any = getattr(base.pipeline, "load_textual_inversion", None)
    if tokens and loader is None:
        raise UserError(
            f"adapter {adapter.name} has learned tokens, which diffusers does not load into a base "
            f"of {base.family.title}: remove their file"
        )
    for encoder in base.encoders:
        for name, vectors in tokens.get(encoder.key, {}).items():
            is_plain = name.isprintable() and not re.search(r"\s", name)
            if not is_plain or not 0 < len(name) <= LONGEST_TOKEN:
                raise UserError(f"adapter {adapter.name}: {shown(name)} cannot be a token")
            if LEARNED_TOKEN.search(name):
                raise UserError(
                    f"adapter {adapter.name} has the token {shown(name)} of sgdmix train-adapter, "
                    "but no adapter.json: fetch it whole"
                )
            row = vectors if len(vectors) > 1 else vectors[0]
            loader([{name: row}], None, base.tokenizer(encoder), base.network(encoder))
    return list(dict.fromkeys(name for of_one in tokens.values() for name in of_one))


def _read_tokens(
    base: LoadedBase, adapter: ForeignAdapter, bundled: dict[str, torch.Tensor]
) -> Tokens:
    """The learned tokens of all encoders. Raises `UserError` if some are missing."""
    keys = [encoder.key for encoder in base.encoders]
    found: Tokens = {}
    for name, value in bundled.items():
        match = BUNDLED.fullmatch(name)
        assert match is not None, "only such names are bundled"
        found.setdefault(match[2], {})[match[1]] = torch.atleast_2d(value)
    for path in adapter.tokens:
        stored = load_file(path)
        if path.name in (TOKENS_FILE, SECOND_TOKENS_FILE):  # textual inversion: token -> vectors
            place = (TOKENS_FILE, SECOND_TOKENS_FILE).index(path.name)
            key = keys[place] if place < len(keys) else path.name
            found.setdefault(key, {}).update(
                {token: torch.atleast_2d(value) for token, value in stored.items()}
            )
        else:  # pivotal tuning: encoder's key -> one vector a token, <s0> <s1> ...
            for key, rows in stored.items():
                vectors = {f"<s{number}>": row[None] for number, row in enumerate(rows)}
                found.setdefault(key, {}).update(vectors)
    unknown = [key for key in found if key not in keys]
    missing = [key for key in keys if found and key not in found]
    if unknown or missing:
        raise UserError(
            f"adapter {adapter.name} has learned tokens for {shown(', '.join(sorted(found)))}, and "
            f"a base of {base.family.title} takes them for {', '.join(keys)}"
        )
    return found
