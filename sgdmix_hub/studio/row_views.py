"""The rows of versions as the browsing page shows them: pictures, and numbers in a line."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from PIL import Image

from sgdmix_hub.errors import Unusable
from sgdmix_hub.evaluation.drop_list import DroppedRow
from sgdmix_hub.figures.panels import outlined_panel
from sgdmix_hub.method.mixer import MaskedImage

from .originals import Originals
from .pictures import Picture, RowView, named
from .version_rows import KEY, VersionRows


def key_in(row: dict[str, Any]) -> DroppedRow:
    """What names a row in every version."""
    source, variant = (row[name] for name in KEY)
    return source, variant


def view_of(
    row: dict[str, Any], rows: VersionRows, originals: Originals | None, size: int
) -> RowView:
    """A row as `VersionRows.read` gives it, with its source and target if they are known."""
    source, variant = key_in(row)
    title = f"{named(rows.class_names[row['label']])}, source {source}, variant {variant}"
    facts = [_facts_line(rows, row)]
    if row.get("prompt"):
        facts.append(f"prompt: {row['prompt']}")
    return RowView(title, _pictures(row, originals, size), facts)


def with_other(view: RowView, other: VersionRows, row: dict[str, Any] | None) -> RowView:
    """The view with the image and the numbers of the same row in another version."""
    name = f"in {named(other.place.name)}"
    if row is None:
        lacking = Unusable("this version does not have the row")
        return dataclasses.replace(view, pictures=[*view.pictures, Picture(name, lacking)])
    facts = [*view.facts, f"{name}: {_facts_line(other, row)}"]
    pictures = [*view.pictures, Picture(name, _rgb(row["image"]))]
    return dataclasses.replace(view, pictures=pictures, facts=facts)


def _pictures(row: dict[str, Any], originals: Originals | None, size: int) -> list[Picture]:
    """Source, target, mask and mixture, as far as they are known, and the image itself."""
    image, pictures = _rgb(row["image"]), []
    source: Image.Image | Unusable | None = None
    if originals is not None:
        source = originals.source(row)
        pictures += [Picture("source", source), Picture("target", originals.target(row))]
    if "mask" in row:
        under = image if source is None or isinstance(source, Unusable) else source
        pictures.append(Picture("mask", _outlined(under, row["mask"], size)))
    if (row.get("strength") or 0) > 0:
        if "mixed" in row:
            pictures.append(Picture("mixed", _rgb(row["mixed"])))
        elif originals is not None:
            pictures.append(Picture("mixed, made again", originals.mixed(row)))
        return [*pictures, Picture("refined", image)]
    return [*pictures, Picture("mixed", image)]


def _facts_line(rows: VersionRows, row: dict[str, Any]) -> str:
    """The numbers of a row in one line."""
    words = []
    for name in rows.names:
        value = row[name]
        if name in ("target_label", "judge_label"):
            inside = value is not None and 0 <= value < len(rows.class_names)
            words.append(f"{name} {named(rows.class_names[value]) if inside else 'none'}")
        elif name not in ("label", "source_index", "variant", "seed") and value is not None:
            words.append(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
    return ", ".join(words)


def _rgb(image: Image.Image | Unusable) -> Image.Image | Unusable:
    return image if isinstance(image, Unusable) else image.convert("RGB")


def _outlined(
    image: Image.Image | Unusable, mask: Image.Image | Unusable, size: int
) -> np.ndarray | Unusable:
    """The image with its mask, as the choosing page shows it."""
    if isinstance(mask, Unusable):
        return mask
    if isinstance(image, Unusable):
        return image
    frame = mask.size
    pixels = np.asarray(image.convert("RGB").resize(frame, Image.Resampling.BICUBIC))
    return outlined_panel(MaskedImage(pixels, np.asarray(mask.convert("L")) > 127, frame), size)
