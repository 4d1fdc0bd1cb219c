"""Configurations of other people: which ones they are, how they are fetched, and what they may set.

The command line and a YAML file of one's own are the user's word. A published configuration is not:
it may set what `config.published_settings` writes, and nothing that names a place, a push, a card
or a licence on the reader's machine.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from sgdmix_hub.errors import UserError, shown
from sgdmix_hub.forms import NAME, PIN

from .generation import PINNED_INPUTS, PLACE_AND_SPEED, AugmentSettings
from .shipped import shipped_recipe_file

PUBLISHED_BESIDE = ("plan.parquet", "manifest.json")
PUBLISHED = frozenset(field.name for field in fields(AugmentSettings)) - set(PLACE_AND_SPEED)
MOST_PIXELS = 178_956_970  # what is read where nothing is set: the memory of the reader's machine is not the publisher's to spend
LOCATION = re.compile(r"hf://(datasets/)?([^/@]+/[^/@]+)(?:@(refs/pr/\d+|[^/]+))?/(.+)")


def fetch_config(location: str) -> str:
    """The local path of a configuration: a file, a shipped recipe's (`cub-sgdmix/generate.yaml`),
    or `hf://datasets/org/name@revision/path/in/repository`. Of a published generation's the plan
    and the manifest, which lie beside it, come too. Raises `UserError`.
    """
    if not location.startswith("hf://"):
        shipped = None if os.path.exists(location) else shipped_recipe_file(location)
        return location if shipped is None else str(shipped)
    from sgdmix_hub.hub.pins import (
        local_folder,
        resolve_on_hub,
    )  # seconds of the start of every program that fetches nothing

    match = LOCATION.fullmatch(location)
    if match is None or ".." in PurePosixPath(match[4]).parts:
        raise UserError(
            f"{shown(location)}: give it as hf://datasets/org/name@revision/path/of/file.yaml"
        )
    is_dataset, repo_id, revision, path = match.groups()
    repo_type = "dataset" if is_dataset else "model"
    # at its commit: by a branch or tag the client gives whatever its cache holds when the Hub does
    # not answer
    pin = resolve_on_hub(repo_id, unquote(revision or ""), repo_type)
    wanted = [path, *((PurePosixPath(path).parent / name).as_posix() for name in PUBLISHED_BESIDE)]
    folder = Path(local_folder(pin, [glob.escape(name) for name in wanted], repo_type))
    if not (folder / path).is_file():
        raise UserError(f"cannot fetch {shown(location)}: there is no such file at that revision")
    return str(folder / path)


def is_fetched(path: Path) -> bool:
    """Whether a file is of a published repository: its plan or manifest lies beside it, or the
    Hub's client has put it there.
    """
    return any(map(_lies_with_others, (Path(os.path.abspath(path)), Path(os.path.realpath(path)))))


def _lies_with_others(path: Path) -> bool:
    if any(os.path.exists(path.parent / name) for name in PUBLISHED_BESIDE):
        return True
    places = zip(path.parts, path.parts[1:], strict=False)
    in_cache = any(
        place in ("snapshots", "blobs") and re.fullmatch("[0-9a-f]{40,64}", name)
        for place, name in places
    )
    # what `hf download --local-dir` notes of every file
    notes = (
        root / ".cache/huggingface/download" / f"{path.relative_to(root)}.metadata"
        for root in path.parents
    )
    return in_cache or any(map(os.path.isfile, notes))


def check_fetched(values: dict, given: Iterable[str], location: str) -> dict:
    """The values that a published configuration sets where the command line, which sets the names
    `given`, does not.

    Raises `UserError` on a name that no published configuration has, on an input that is not
    pinned, and on a text that would be more than one word of a command line.
    """
    refused = [str(name) for name in values if name not in PUBLISHED]
    if refused:
        raise UserError(
            f"{shown(location)} is a published configuration, which may not set {shown(', '.join(refused))}: "
            "give on the command line what you want of it, or copy its lines into a file of your own"
        )
    values = {name: value for name, value in values.items() if name not in given}
    if isinstance(values.get("max_image_pixels"), int) and values["max_image_pixels"] > MOST_PIXELS:
        raise UserError(
            f"{shown(location)}: max_image_pixels is above {MOST_PIXELS}: give --max_image_pixels on the command line"
        )
    for name, value in values.items():
        fault = (
            PIN(value) if name in PINNED_INPUTS else None if not has_text(value) else NAME(value)
        )
        if fault is not None:
            raise UserError(
                f"{shown(location)}: {name} {shown(value)} {fault}: give --{name} on the command line"
            )
    return values


def has_text(value: object) -> bool:
    """Whether a value is a text or a list with one, which a command line would take for a word of
    its own.
    """
    return any(isinstance(item, str) for item in (value if isinstance(value, list) else [value]))
