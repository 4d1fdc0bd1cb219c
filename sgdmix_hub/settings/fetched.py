"""Published configurations: how they are fetched, how they are recognized, what they may set.

The command line and the user's own YAML are trusted. A published configuration may set only what
`generation.published_settings` writes: no place, push, card or license of the reader.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from sgdmix_hub.errors import UserError, shown
from sgdmix_hub.forms import NAME, PIN

from .fields import names_where
from .generation import PINNED_INPUTS, PLACE_AND_SPEED, AugmentSettings
from .shipped import shipped_recipe_file

PUBLISHED_BESIDE = ("plan.parquet", "manifest.json")
STRENGTHS = "strengths.json"  # beside them, if a pilot chose the strengths
PUBLISHED_LISTS = ("skipped", "files", "real_rows")  # of the manifest, if they are long
PUBLISHED = frozenset(names_where(AugmentSettings)) - set(PLACE_AND_SPEED)
# What is read if nothing is set: a publisher must not use up the memory of the reader's machine.
MOST_PIXELS = 178_956_970
LOCATION = re.compile(r"hf://(datasets/)?([^/@]+/[^/@]+)(?:@(refs/pr/\d+|[^/]+))?/(.+)")


def fetch_config(location: str) -> str:
    """The local path of a configuration. Raises `UserError`.

    `location`: a file, a recipe's that ships (`cub-sgdmix/generate.yaml`), or
    `hf://datasets/org/name@revision/path/in/repository`. The plan and the manifest beside a
    published one are fetched too.
    """
    if not location.startswith("hf://"):
        shipped = None if os.path.exists(location) else shipped_recipe_file(location)
        return location if shipped is None else str(shipped)
    # takes seconds to import, and few programs fetch
    from sgdmix_hub.hub.pins import local_folder, resolve_on_hub

    match = LOCATION.fullmatch(location)
    if match is None or ".." in PurePosixPath(match[4]).parts:
        raise UserError(
            f"{shown(location)}: give it as hf://datasets/org/name@revision/path/of/file.yaml"
        )
    is_dataset, repo_id, revision, path = match.groups()
    repo_type = "dataset" if is_dataset else "model"
    # by commit: for a branch or tag the client would fall back to its cache if the Hub is down
    pin = resolve_on_hub(repo_id, unquote(revision or ""), repo_type)
    beside = (*PUBLISHED_BESIDE, STRENGTHS, *(f"{name}.parquet" for name in PUBLISHED_LISTS))
    wanted = [path, *((PurePosixPath(path).parent / name).as_posix() for name in beside)]
    folder = Path(local_folder(pin, [glob.escape(name) for name in wanted], repo_type))
    if not (folder / path).is_file():
        raise UserError(f"cannot fetch {shown(location)}: no such file at that revision")
    return str(folder / path)


def is_fetched(path: str | Path) -> bool:
    """Whether a file is from a published repository: a plan or manifest lies beside it, or the
    Hub's client downloaded it.
    """
    return any(map(_is_download, (Path(os.path.abspath(path)), Path(os.path.realpath(path)))))


def _is_download(path: Path) -> bool:
    if any(os.path.exists(path.parent / name) for name in PUBLISHED_BESIDE):
        return True
    in_cache = any(
        folder in ("snapshots", "blobs") and re.fullmatch("[0-9a-f]{40,64}", name)
        for folder, name in zip(path.parts, path.parts[1:], strict=False)
    )
    # what `hf download --local-dir` writes beside every file
    notes = (
        root / ".cache/huggingface/download" / f"{path.relative_to(root)}.metadata"
        for root in path.parents
    )
    return in_cache or any(map(os.path.isfile, notes))


def check_fetched(values: dict[str, Any], given: Iterable[str], location: str) -> dict[str, Any]:
    """The values of a published configuration, without those that the command line sets (`given`).

    Raises `UserError` on a name that no published configuration has, on an input that is not
    pinned, and on a text that the command line could take for more than one word.
    """
    refused = [str(name) for name in values if name not in PUBLISHED]
    if refused:
        raise UserError(
            f"{shown(location)} is a published configuration, which may not set "
            f"{shown(', '.join(refused))}: set it on the command line, or copy the lines you want "
            "into your own file"
        )
    values = {name: value for name, value in values.items() if name not in given}
    if isinstance(values.get("max_image_pixels"), int) and values["max_image_pixels"] > MOST_PIXELS:
        raise UserError(
            f"{shown(location)}: max_image_pixels is above {MOST_PIXELS}: set "
            "--max_image_pixels on the command line"
        )
    for name, value in values.items():
        fault = _fault_of(name, value)
        if fault is not None:
            raise UserError(
                f"{shown(location)}: {name} {shown(value)} {fault}: set --{name} on the command "
                "line"
            )
    return values


def _fault_of(name: str, value: object) -> str | None:
    if name in PINNED_INPUTS:
        return PIN(value)
    texts = [text for text in as_list(value) if isinstance(text, str)]
    return next((fault for text in texts if (fault := NAME(text))), None)


def as_list(value: object) -> list:
    """The values of a setting that may have one or several."""
    return value if isinstance(value, list) else [value]
