"""Class names that a dataset's files state for its labels.

`datasets` reads the numbers of all files under one list, that of the first file or of the README,
whatever the others state.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, DatasetBuilder, Features, Value
from datasets.config import HF_DATASETS_CACHE, HF_HUB_OFFLINE
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.file_download import repo_folder_name

from sgdmix_hub.errors import UserError, shown
from sgdmix_hub.hub.pins import Pin

logger = logging.getLogger(__name__)
ON_HUB = "hf://"
STATED = b"huggingface"  # the key of what `datasets` writes into a file


def data_files(builder: DatasetBuilder, split: str | None = None) -> list[str]:
    """The data files of all splits, or of those that `split` names (`train[:50]+test`), as
    `datasets` names them.
    """
    of_splits = builder.config.data_files or {}
    names = list(of_splits)
    if split is not None:
        names = [part.partition("[")[0] for part in split.split("+")]
    return [str(file) for name in names for file in of_splits.get(name, ())]


def check_class_names(
    pin: Pin,
    builder: DatasetBuilder,
    config_name: str | None,
    split: str,
    column: str,
    features: Features,
    known: Mapping[str, bytes | None],
) -> None:
    """Raises `UserError` if two files, or a file and the loaded `features`, contradict each other
    in the class names of the label column.

    `known`: what files state, by their places, as far as it was read before. What was found in
    order is not read again.
    """
    kind = builder.info.builder_name or builder.name  # the builder of a prepared one is `cache`
    mark = mark_of(pin.name, pin.revision, str(config_name), split, column)
    if kind not in READERS or column not in features or mark.exists():
        return
    places = [*data_files(builder)[:1], *data_files(builder, split)]
    places = places or in_snapshot(pin, config_name, kind)  # of one that was prepared before
    read = {place: raw for place in places if (raw := _stated_in(pin, place, kind, known))}
    compare(pin.name, column, features[column], read.items())
    if len(read) < max(1, len(set(places))):
        logger.warning(
            f"{pin.name}: not all of its files are here, and what they state of class names is not "
            "compared: load it once without HF_HUB_OFFLINE"
        )
        return
    with suppress(OSError):  # somebody else's folder, or a full disk
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


def mark_of(*asked: str) -> Path:
    """The file that says that what was asked for has been found in order."""
    key = hashlib.sha256("\0".join(asked).encode()).hexdigest()
    return Path(HF_DATASETS_CACHE) / "sgdmix_hub" / "class_names" / key[:32]


def in_snapshot(pin: Pin, config_name: str | None, kind: str) -> list[str]:
    """The files of a kind in the Hub's cache, of one configuration if its folder is there."""
    folder = repo_folder_name(repo_id=pin.name, repo_type="dataset")
    snapshot = Path(HF_HUB_CACHE) / folder / "snapshots" / pin.revision
    for place in (snapshot / (config_name or "default"), snapshot):
        if files := sorted(map(str, place.rglob(f"*.{kind}"))):
            return files
    return []


def compare(name: str, column: str, loaded: object, stated: Iterable[tuple[str, bytes]]) -> None:
    """Raises `UserError` for the first contradiction. `stated`: place and what a file states.

    A list may go on where another one ends, and `loaded` may rename classes, not reorder them.
    """
    longest: tuple[str, list[str]] = "", []
    for place, raw in stated:
        names, other = names_in(raw, column), None
        if any(one != two for one, two in zip(names, longest[1], strict=False)):
            other = PurePosixPath(longest[0]).name
        elif isinstance(loaded, ClassLabel) and is_reordered(names, loaded.names):
            other = "the dataset's card"
        elif names and isinstance(loaded, Value) and "string" in loaded.dtype:
            other = "a file of texts"
        if other is not None:
            raise UserError(
                f"{name}: {shown(PurePosixPath(place).name)} and {shown(other)} contradict each "
                f"other in the class names of column {shown(column)!r}, and are read under one "
                "list: write the files again with the same names in the same order"
            )
        longest = max(longest, (place, names), key=lambda found: len(found[1]))


@lru_cache(64)  # files of one dataset state the same
def names_in(raw: bytes, column: str) -> list[str]:
    """The class names that a file states for a column; none if it has no class labels."""
    try:
        feature = json.loads(raw)["info"]["features"][column]
        return list(map(str, feature["names"])) if feature["_type"] == "ClassLabel" else []
    except (ValueError, TypeError, KeyError, RecursionError):  # anybody may have written it
        return []


def is_reordered(names: list[str], loaded: list[str]) -> bool:
    """Whether both lists hold the same names, at other places."""
    return names != loaded and sorted(names) == sorted(map(str, loaded))


def _stated_in(pin: Pin, place: str, kind: str, known: Mapping[str, bytes | None]) -> bytes | None:
    """What a file states: some JSON, or None if it is out of reach."""
    if place in known:
        return known[place] or b"{}"
    path: Any = place
    if place.startswith(ON_HUB):
        file = place.partition(f"@{pin.revision}/")[2]
        path = try_to_load_from_cache(pin.name, file, revision=pin.revision, repo_type="dataset")
        if not isinstance(path, str) and HF_HUB_OFFLINE:
            return None
    with fsspec.open(path if isinstance(path, str) else place) as opened:
        return READERS[kind](opened) or b"{}"


def _of_parquet(file: IO[bytes]) -> bytes | None:
    return (pq.read_metadata(file).metadata or {}).get(STATED)


def _of_arrow(file: IO[bytes]) -> bytes | None:
    try:
        schema = pa.ipc.open_stream(file).schema
    except pa.ArrowInvalid:
        file.seek(0)
        schema = pa.ipc.open_file(file).schema
    return (schema.metadata or {}).get(STATED)


READERS: dict[str, Callable[[IO[bytes]], bytes | None]] = {
    "parquet": _of_parquet,
    "arrow": _of_arrow,
}
