"""Class names that a dataset's files state for its labels.

`datasets` reads the numbers of all files under one list, that of the first file or of the README,
whatever the others state.
"""

from __future__ import annotations

import json
import logging
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import PurePosixPath
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, DatasetBuilder, Features, Value
from huggingface_hub import try_to_load_from_cache

from sgdmix_hub.errors import UserError, shown
from sgdmix_hub.hub.pins import Pin, cached_folder

from .caches import cache_of

logger = logging.getLogger(__name__)
ON_HUB = "hf://"
RULES = "2"  # their edition: what was in order by earlier ones is compared again
STATED = b"huggingface"  # the key of what `datasets` writes into a file


def splits_in(split: str) -> list[str]:
    """The whole splits that `train[:50]+test` takes rows of."""
    return [part.partition("[")[0] for part in split.split("+")]


def data_files(builder: DatasetBuilder, split: str = "all") -> list[str]:
    """The data files of the splits that `split` names (`train[:50]+test`), as `datasets` names
    them.
    """
    of_splits = builder.config.data_files or {}
    names = splits_in(split)
    if "all" in names:
        names = list(of_splits)
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
    """Raises `UserError` if a file of the split contradicts the loaded `features`, or another file,
    in the class names of the label column.

    `known`: what files state, by their places, as far as it was read before. What was found in
    order is not read again.
    """
    kind = builder.info.builder_name or builder.name  # the builder of a prepared one is `cache`
    mark = cache_of("class_names", pin, [RULES, pin.name, str(config_name), split, column])
    if kind not in READERS or column not in features or mark.exists():
        return
    first, places = data_files(builder)[:1], data_files(builder, split)
    if not places:  # the Hub is out of reach, and `datasets` took what it had prepared
        places = in_snapshot(pin, config_name, split, kind)
        logger.warning(
            f"{pin.name}: without the Hub, only the files in its cache can be checked for other "
            "class names: load it once without HF_HUB_OFFLINE"
        )
    stated = {
        place: names_in(_stated_in(pin, place, kind, known), column)
        for place in dict.fromkeys([*first, *places])
    }
    source = first[0] if first and stated[first[0]] else None
    compare(pin.name, column, features[column], source, stated, places)
    if first:
        with suppress(OSError):  # somebody else's folder, or a full disk
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()


def in_snapshot(pin: Pin, config_name: str | None, split: str, kind: str) -> list[str]:
    """The files of a split in the Hub's cache, by their names; none if they lie in several folders,
    which may be of several configurations.
    """
    snapshot = cached_folder(pin.name, "dataset") / "snapshots" / pin.revision
    own = snapshot / (config_name or "default")
    files = sorted((own if own.is_dir() else snapshot).rglob(f"*.{kind}"))
    wanted = splits_in(split)
    named = [file for file in files if re.split(r"\W|_", file.name)[0] in wanted]
    return list(map(str, named)) if len({file.parent for file in named}) == 1 else []


def compare(
    name: str,
    column: str,
    loaded: object,
    source: str | None,
    stated: Mapping[str, list[str]],
    places: Iterable[str],
) -> None:
    """Raises `UserError` for the first of the `places` that contradicts what is loaded.

    `source`: the dataset's first file, whose list is loaded if no card states another one. Files
    then have to agree with it; a card may rename their classes, if it does not mix them up. A list
    may go on where another one ends.
    """
    names = list(map(str, loaded.names or [])) if isinstance(loaded, ClassLabel) else None
    of_source = [] if source is None else stated[source]
    from_card = names is not None and not (of_source and agree(of_source, names))
    longest: tuple[str, list[str]] = "", []
    for place in places:
        own, other = stated[place], None
        if names is not None and agree(own, names):
            continue
        if own and isinstance(loaded, Value) and "string" in loaded.dtype:
            other = "a file of texts"
        elif names is not None and from_card and mixes_up(own, names):
            other = "the dataset's card"
        elif names is not None and not from_card:
            other = _short(str(source))
        elif not agree(own, longest[1]):
            other = _short(longest[0])
        if other is not None:
            raise UserError(
                f"{name}: in column {shown(column)!r}, {_short(place)} gives the classes other "
                f"names than {other}, under whose names it would be read: write the files again "
                "with the same names in the same order"
            )
        longest = max(longest, (place, own), key=lambda found: len(found[1]))


def agree(one: list[str], two: list[str]) -> bool:
    """Whether the same numbers have the same names, but for their spelling."""
    return all(spelt(a) == spelt(b) for a, b in zip(one, two, strict=False))


def spelt(name: str) -> str:
    """A name without what may differ between two spellings of it."""
    return unicodedata.normalize("NFC", name).casefold().replace("_", " ").strip()


def mixes_up(own: list[str], loaded: list[str]) -> bool:
    """Whether lists that do not agree hold the same names at other places: two of them exchanged,
    or all names of one list among those of the other.
    """
    mine, theirs = list(map(spelt, own)), list(map(spelt, loaded))
    if set(mine) <= set(theirs) or set(theirs) <= set(mine):
        return True
    place_of = {name: place for place, name in enumerate(theirs)}
    moved = {(place, place_of.get(name, place)) for place, name in enumerate(mine)}
    return any(place != to and (to, place) in moved for place, to in moved)


def _short(place: str) -> str:
    """A place as a message names it: the file and its folder."""
    return shown("/".join(PurePosixPath(place).parts[-2:]))


@lru_cache(64)  # files of one dataset state the same
def names_in(raw: bytes, column: str) -> list[str]:
    """The class names that a file states for a column; none if it has no class labels."""
    try:
        feature = json.loads(raw)["info"]["features"][column]
        return list(map(str, feature["names"])) if feature["_type"] == "ClassLabel" else []
    except (ValueError, TypeError, KeyError, RecursionError):  # anybody may have written it
        return []


def _stated_in(pin: Pin, place: str, kind: str, known: Mapping[str, bytes | None]) -> bytes:
    """What a file states; nothing if `datasets` did not write it."""
    if place in known:
        return known[place] or b""
    path: Any = place
    if place.startswith(ON_HUB):
        file = place.partition(f"@{pin.revision}/")[2]
        path = try_to_load_from_cache(pin.name, file, revision=pin.revision, repo_type="dataset")
    with fsspec.open(path if isinstance(path, str) else place) as opened:
        return READERS[kind](opened) or b""


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
