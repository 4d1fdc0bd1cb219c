"""Adapters that others trained: a LoRA, and the learned tokens that lie beside it or in it.

They know no classes: prompts hold the classes' names, and the tokens where the user writes them.
The LoRA is what `lora_state_dict` of the base's stock pipeline reads: files of diffusers' scripts,
kohya, OneTrainer, ai-toolkit. It is merged into the base in single precision. Nothing in the file
is trusted: see `lora_files`.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from sgdmix_hub.errors import UserError, shown
from sgdmix_hub.files import file_sha256
from sgdmix_hub.hub.pins import Pin, local_folder
from sgdmix_hub.settings.prompts import LEARNED_TOKEN

from .adapters import (
    LORA_DESCRIPTION,
    PIVOTAL_TOKENS,
    SECOND_TOKENS_FILE,
    TOKEN_FILES,
    TOKENS_FILE,
    quiet_libraries,
)
from .bases.loading import LoadedBase
from .lora_files import Weights, find_lora, fitting, load_lora

logger = logging.getLogger(__name__)
NAME = "foreign"
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
    what = f"adapter {adapter.name}: {adapter.lora.name}"
    with fitting(what):
        given, bundled = _without_tokens(load_file(adapter.lora))
        description = _description(adapter.lora)
    load_lora(base, given, description, what, NAME, merged, encoders=True)
    with quiet_libraries(), fitting(what):
        return _load_tokens(base, adapter, bundled)


def warn_of_unused(tokens: list[str], texts: list[str], adapter: ForeignAdapter) -> None:
    """Warns if no prompt names a learned token of the adapter."""
    if tokens and not any(token in text for token in tokens for text in texts):
        logger.warning(
            f"no prompt holds a learned token of the adapter {adapter.name}: put "
            f"{shown(' '.join(tokens[:4]))} into prompt_template or negative_prompt"
        )


def _without_tokens(weights: Weights) -> tuple[Weights, Weights]:
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
        raise ValueError("its description is not an object")
    return values


def _load_tokens(base: LoadedBase, adapter: ForeignAdapter, bundled: Weights) -> list[str]:
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


def _read_tokens(base: LoadedBase, adapter: ForeignAdapter, bundled: Weights) -> Tokens:
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
