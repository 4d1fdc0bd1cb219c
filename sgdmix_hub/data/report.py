"""What a program says of the split it loaded, in one line: how many images of which classes, and
what is left out and why.
"""

from __future__ import annotations

import numpy as np

from sgdmix_hub.errors import one_line, shown
from sgdmix_hub.runtime.ranks import say
from sgdmix_hub.settings.data import DataSettings

from .loading import SPLIT_NAMES
from .splits import Split
from .subsets import NO_LABEL

NAMED = 3  # of the images that are left out


def report_split(
    settings: DataSettings, split: Split, undecodable: dict[int, str] | None = None
) -> None:
    """Says what was loaded, and warns of images in a local folder that are in none of its splits.
    `undecodable`: rows of the subset whose image cannot be decoded, with their reasons, where that
    is known by now.
    """
    say(one_line(split_line(settings, split, undecodable or {})))
    if split.strays:
        first = shown(split.strays[0])
        say(
            one_line(
                f"warning: {counted(len(split.strays), 'image file')} of {split.pin.name} in no "
                f"split, {first} first: {SPLIT_NAMES}"
            )
        )


def report_unusable(split: Split, unusable: dict[int, str]) -> None:
    """Says which images have no saliency map, or are of no use at all, before hours are spent on
    the others.
    """
    if unusable:
        say(
            one_line(
                f"warning: {counted(len(unusable), 'image')} of {split.pin.name} cannot be used: "
                f"{named(split, unusable)}"
            )
        )


def usable_rows(settings: DataSettings, split: Split) -> np.ndarray:
    """The rows of the subset whose image can be decoded, int64 (k,), after a report of the split
    that says which cannot. Raises `UserError` when there is none.
    """
    rows, undecodable = split.try_images()
    report_split(settings, split, undecodable)
    return rows


def split_line(settings: DataSettings, split: Split, undecodable: dict[int, str]) -> str:
    """N images of M classes, split S of NAME, K left out (why)."""
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
    """The first few rows that are left out, with their files and reasons."""
    texts = []
    for row, reason in list(left_out.items())[:NAMED]:
        file = split.file_name(row)
        texts.append(f"row {row}{f' {shown(file)}' if file else ''}: {reason}")
    return "; ".join(texts + ["..."] * (len(left_out) > NAMED))
