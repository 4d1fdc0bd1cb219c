"""Prints one line about a loaded split: images, classes, and rows left out with reasons."""

from __future__ import annotations

import logging

import numpy as np

from sgdmix_hub.errors import one_line, shown
from sgdmix_hub.runtime.ranks import say
from sgdmix_hub.settings.data import DataSettings

from .loading import SPLIT_NAMES
from .splits import Split
from .subsets import NO_LABEL

logger = logging.getLogger(__name__)
NAMED = 3  # examples of images left out


def report_split(
    settings: DataSettings, split: Split, undecodable: dict[int, str] | None = None
) -> None:
    """Prints what was loaded, and warns about images that belong to no split.

    `undecodable`: row -> reason, for rows of the subset whose image cannot be decoded, if known.
    """
    say(one_line(split_line(settings, split, undecodable or {})))
    if split.strays:
        first = shown(split.strays[0])
        strays = counted(len(split.strays), "image file")
        logger.warning(
            one_line(f"{strays} of {split.pin.name} in no split, {first} first: {SPLIT_NAMES}")
        )


def report_unusable(split: Split, unusable: dict[int, str]) -> None:
    """Warns about images that cannot be used, before the long part of a run starts."""
    if unusable:
        images = counted(len(unusable), "image")
        logger.warning(
            one_line(f"{images} of {split.pin.name} cannot be used: {named(split, unusable)}")
        )


def usable_rows(settings: DataSettings, split: Split) -> np.ndarray:
    """Rows of the subset with a decodable image, int64 (k,); prints the report of the split.

    Raises `UserError` if there is no such row.
    """
    rows, undecodable = split.try_images()
    report_split(settings, split, undecodable)
    return rows


def split_line(settings: DataSettings, split: Split, undecodable: dict[int, str]) -> str:
    """`N images of M classes, split S of NAME, K left out (why)`."""
    used = np.setdiff1d(split.subset, list(undecodable))
    seen, names = np.unique(split.labels[used]), split.class_names
    empty = [name for label, name in enumerate(names) if label not in seen]
    classes = (
        f"{len(names)} classes"
        if not empty
        else f"{len(seen)} of {len(names)} classes ({shown(empty[0])} has none)"
    )
    line = (
        f"{counted(len(used), 'image')} of {classes}, split {settings.dataset_split!r} of "
        f"{split.pin.name}"
    )
    unlabelled = int((split.labels == NO_LABEL).sum())
    counts = {
        "without a label": unlabelled,
        "outside the subset": len(split.labels) - unlabelled - len(split.subset),
        f"that cannot be decoded: {named(split, undecodable)}": len(undecodable),
    }
    why = [f"{count} {what}" for what, count in counts.items() if count]
    return f"{line}, {len(split.labels) - len(used)} left out ({', '.join(why)})" if why else line


def counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def named(split: Split, left_out: dict[int, str]) -> str:
    """The first `NAMED` rows left out, with files and reasons."""
    texts = []
    for row, reason in list(left_out.items())[:NAMED]:
        file = split.file_name(row)
        texts.append(f"row {row}{f' {shown(file)}' if file else ''}: {reason}")
    return "; ".join(texts + ["..."] * (len(left_out) > NAMED))
