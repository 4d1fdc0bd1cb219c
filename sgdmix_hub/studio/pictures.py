"""Rows of pictures as HTML. Every text of others is escaped, and pictures are inside the page.

A page that anybody else may write to would need a file server beside it; this one has none.
"""

from __future__ import annotations

import html
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sgdmix_hub.errors import Unusable, UserError, first_line, one_line, shown
from sgdmix_hub.figures.embedded import data_uri

logger = logging.getLogger(__name__)
LONGEST_NAME = 60  # characters of a class name
LONGEST_FACT = 300  # characters of a line below the pictures
SETTINGS, ROWS = "settings", "rows"  # ids of the two halves of a page


@dataclass(frozen=True)
class Picture:
    """One picture, RGB, or the reason why there is none. `caption`: what it shows."""

    caption: str
    image: Image.Image | np.ndarray | Unusable


@dataclass(frozen=True)
class RowView:
    """One row of a page: pictures side by side, and lines of text.

    `warnings`: what somebody should look at first; shown before the facts.
    """

    title: str
    pictures: Sequence[Picture]
    facts: Sequence[str] = ()
    warnings: Sequence[str] = ()


def named(text: str) -> str:
    """A class name as it is shown: short, on one line. Not yet escaped."""
    return shown(" ".join(text.split()), LONGEST_NAME)


def escaped(text: str) -> str:
    """Text as HTML that shows it and is nothing else; braces and $ are no part of a template."""
    text = html.escape(text, quote=True)
    return text.replace("$", "&#36;").replace("{", "&#123;").replace("}", "&#125;")


def row_html(view: RowView, size: int) -> str:
    """The row as one `<article>`; pictures are scaled down to `size` pixels."""
    title = escaped(view.title)
    pictures = "".join(_figure(picture, view.title, size) for picture in view.pictures)
    warnings = "".join(_line("sgdmix-warning", f"Warning: {text}") for text in view.warnings)
    facts = "".join(_line("sgdmix-fact", text) for text in view.facts)
    return (
        f'<article class="sgdmix-row"><h2>{title}</h2>'
        f'<div class="sgdmix-pictures">{pictures}</div>{warnings}{facts}</article>'
    )


def _line(kind: str, text: str) -> str:
    return f'<p class="{kind}">{escaped(shown(text, LONGEST_FACT))}</p>'


def _figure(picture: Picture, title: str, size: int) -> str:
    caption = escaped(picture.caption)
    if isinstance(picture.image, Unusable):
        inside = f'<p class="sgdmix-none">{escaped(shown(picture.image.reason))}</p>'
    else:
        alt = f"{caption} of {escaped(title)}"
        inside = f'<img alt="{alt}" src="{data_uri(picture.image, size)}">'
    return f"<figure>{inside}<figcaption>{caption}</figcaption></figure>"


def intro(heading: str, hints: Sequence[str]) -> str:
    """The head of a page, with links to its halves: on a phone one lies below the other."""
    lines = "".join(f'<p class="sgdmix-hint">{escaped(hint)}</p>' for hint in hints)
    links = f'<a href="#{ROWS}">To the images</a> <a href="#{SETTINGS}">To the settings</a>'
    return (
        f'<header class="sgdmix-intro"><h1>{escaped(heading)}</h1>{lines}'
        f'<nav class="sgdmix-links" aria-label="parts of the page">{links}</nav></header>'
    )


def status_html(text: str, done: int | None = None, of: int = 0) -> str:
    """A line that screen readers speak when it changes, with a bar while work goes on."""
    bar = ""
    if done is not None:
        bar = f'<progress max="{max(of, 1)}" value="{done}" aria-label="progress"></progress> '
    return f'<p class="sgdmix-status" role="status">{bar}{escaped(text)}</p>'


def error_html(text: str) -> str:
    """A mistake of the user, in one line."""
    return f'<p class="sgdmix-error" role="alert">{escaped(text)}</p>'


def said(error: Exception) -> str:
    """An error as one line. One that is no mistake of the user goes to the log as a whole."""
    if isinstance(error, UserError):
        return str(error)
    logger.error("the page goes on after an error", exc_info=error)
    return one_line(first_line(error))
