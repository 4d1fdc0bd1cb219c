"""Saved pipelines: an adapter's files, and beside them the settings and the pins of the rest."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgdmix_hub.errors import UserError, shown
from sgdmix_hub.files import write_json
from sgdmix_hub.hub.formats import read_pipeline_facts
from sgdmix_hub.hub.pins import Pin, local_folder

from .adapters import FACTS_FILE, LORA_FILE, TOKEN_FILES, TOKENS_FILE, Adapter

if TYPE_CHECKING:
    from .foreign import ForeignAdapter

PIPELINE_FILE = "sgdmix_pipeline.json"
FORMAT = 1


@dataclass(frozen=True)
class Saved:
    """What a saved pipeline is made of, besides its adapter.

    `settings`: fields of `MethodSettings`. `pins`: of the base, classifier, segmenter and detector.
    `class_names`: those that its models know, if they are known.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    pins: dict[str, str] = field(default_factory=dict)
    class_names: list[str] | None = None


@dataclass(frozen=True)
class Contents:
    """What a repository or folder is: a base model, unless it holds one of these."""

    saved: Saved | None
    has_adapter: bool


def contents_of(pin: Pin) -> Contents:
    """Looks into a pinned model, of which only small files are fetched. Raises `UserError`."""
    folder = Path(local_folder(pin, [PIPELINE_FILE, FACTS_FILE]))
    path = folder / PIPELINE_FILE
    saved = Saved(**read_pipeline_facts(path, FORMAT)) if path.is_file() else None
    has_foreign = saved is not None and "adapter_weight_name" in saved.settings
    return Contents(saved, has_foreign or (folder / FACTS_FILE).is_file())


def save(
    folder: Path, adapter: Adapter | None, saved: Saved, foreign: ForeignAdapter | None = None
) -> None:
    """Writes a pipeline's folder. The adapter's files stay as they are: stock diffusers reads them.

    `foreign`: instead of `adapter`. Raises `UserError` if an adapter or learned tokens lie there
    that are not the pipeline's: whoever loads the folder would load them too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if adapter is None and (folder / FACTS_FILE).exists():
        raise UserError(f"{folder} holds an adapter, and this pipeline has none: choose another")
    own = {TOKENS_FILE} if adapter is not None else set()
    own |= {path.name for path in foreign.tokens} if foreign is not None else set()
    found = {path.name for pattern in TOKEN_FILES for path in folder.glob(pattern)}
    if found - own:
        raise UserError(
            f"{folder} holds the learned tokens {shown(min(found - own))}, and this pipeline "
            "has none: choose another"
        )
    if adapter is not None and Path(adapter.folder).resolve() != folder.resolve():
        tokens = (TOKENS_FILE,) if adapter.learns_tokens else ()
        for name in (LORA_FILE, *tokens, FACTS_FILE):
            shutil.copyfile(Path(adapter.folder) / name, folder / name)
    settings = saved.settings
    if foreign is not None:
        settings = settings | {"adapter_weight_name": foreign.lora.name}
        for path in (foreign.lora, *foreign.tokens):
            if path.resolve() != (folder / path.name).resolve():
                shutil.copyfile(path, folder / path.name)
    facts = {"settings": settings, "pins": saved.pins, "class_names": saved.class_names}
    write_json(folder / PIPELINE_FILE, {"format": FORMAT, **facts})
