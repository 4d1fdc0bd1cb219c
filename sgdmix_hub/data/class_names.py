"""Class names that Parquet files state: `datasets` reads all numbers under one list of names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, DatasetBuilder, Features
from huggingface_hub import try_to_load_from_cache

from sgdmix_hub.errors import UserError, shown
from sgdmix_hub.hub.pins import Pin

ON_HUB = "hf://datasets/"


def data_files(builder: DatasetBuilder, split: str | None = None) -> list[str]:
    """The data files of a split, as `datasets` names them; of all splits without one, or of a name
    that is no whole split (`train[:50]`).
    """
    of_splits = builder.config.data_files or {}
    files = of_splits.get(split) or [file for found in of_splits.values() for file in found]
    return [str(file) for file in files]


def check_class_names(
    pin: Pin, features: Features, schemas: Iterable[tuple[str, pa.Schema]]
) -> None:
    """Raises `UserError` if two files name the numbers of a column otherwise, or if a file and the
    loaded `features`, which a README may state, have a name in two places.
    """
    first: dict[str, tuple[str, list[str]]] = {}
    for place, schema in schemas:
        for column, names in stated_names(schema).items():
            known_place, known = first.setdefault(column, (place, names))
            other = None
            if names != known:
                other = PurePosixPath(known_place).name
            elif is_reordered(names, features.get(column)):
                other = "the dataset's README"
            if other is not None:
                raise UserError(
                    f"{pin.name}: {shown(PurePosixPath(place).name)} and {shown(other)} give the "
                    f"numbers in column {shown(column)!r} different class names, and are read "
                    "under one list: write them again with the same names in the same order"
                )


def stated_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Column -> class names, of a file that `datasets` wrote; nothing of any other."""
    try:
        features = Features.from_arrow_schema(schema)
    except Exception:  # of any type, on metadata of others: `datasets` says what it thinks of it
        return {}
    return {name: kind.names for name, kind in features.items() if isinstance(kind, ClassLabel)}


def is_reordered(names: list[str], loaded: object) -> bool:
    """Whether a name stands at one place in a file and at another one where it was loaded."""
    if not isinstance(loaded, ClassLabel):
        return False
    places = {name: place for place, name in enumerate(loaded.names)}
    return any(places.get(name, place) != place for place, name in enumerate(names))


def schemas_here(pin: Pin, places: list[str]) -> Iterator[tuple[str, pa.Schema]]:
    """Place and schema of the files that are on this machine; of the Hub, those in its cache."""
    for place in places:
        path: object = place
        if place.startswith(ON_HUB):
            file = place.partition(f"@{pin.revision}/")[2]
            path = try_to_load_from_cache(
                pin.name, file, revision=pin.revision, repo_type="dataset"
            )
        if isinstance(path, str) and "://" not in path:
            yield place, pq.read_schema(path)
