"""The check boxes under the rows, which stay true although rows are redrawn while somebody ticks.

The browser keeps the label of every box in a hidden field, and sends it with the tick: a tick is
never taken for that of another row. A box is sent to a browser only where it has to change: a page
that was drawn before a tick arrived does not undo it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr  # an extra

PAGE_ROWS = 8
MOST_VISITORS = 10_000  # opened pages that are remembered
HIDDEN = ("", False)
GONE = "sgdmix-gone"  # class of what is not shown
PARTS = 2  # components of a box: itself, and the field that names it


def make_box() -> tuple[gr.Checkbox, gr.Textbox]:
    """A box that is not shown yet, and the hidden field with its label.

    Both are parts of the page from the start, hidden by their class: where something becomes
    `visible`, Gradio resets values that were sent to others meanwhile.
    """
    return gr.Checkbox(elem_classes=[GONE]), gr.Textbox(show_label=False, elem_classes=[GONE])


class Boxes:
    """Label and tick of every box, as one browser shows them; None where that is not known."""

    def __init__(self) -> None:
        self._shown: list[tuple[str, bool] | None] = [None] * PAGE_ROWS
        self._labels = [""] * PAGE_ROWS

    def heard(self, place: int, label: str | None) -> str:
        """Somebody has ticked a box, or has taken its tick away: perhaps before something that was
        sent reached the browser, so the box is sent again. Returns the label.

        A slow browser may show a box before it knows its label, which is then the one sent last.
        """
        label = label or self._labels[place]
        for number, shown in enumerate(self._shown):
            if shown is not None and shown[0] == label:
                self._shown[number] = None
        return label

    def updates(self, wanted: Sequence[tuple[str, bool]]) -> list[Any]:
        """What to send for every box so that the first ones are as wanted and no other is shown:
        values of its two parts.
        """
        padded = [*wanted, *[HIDDEN] * (PAGE_ROWS - len(wanted))]
        sent = [
            update
            for before, after in zip(self._shown, padded, strict=True)
            for update in ([gr.skip()] * PARTS if before == after else _update(*after))
        ]
        self._shown = list[tuple[str, bool] | None](padded)
        self._labels = [label for label, _ in padded]
        return sent


def _update(label: str, is_ticked: bool) -> list[Any]:
    if not label:
        return [gr.update(elem_classes=[GONE]), label]
    return [gr.update(value=is_ticked, label=label, elem_classes=[]), label]


@dataclass
class Visitor:
    """One opened page.

    `newest`: the number of its last request. `filters`: what its rows were filtered by. `view`: the
    filters and the page that it asked for last. `line`: what it says about the rows; `problem`: why
    the last mark was not made, until it asks for something else. `keys`: the rows that it shows;
    `marked`: those on its own list, as (source_index, variant).
    """

    boxes: Boxes = field(default_factory=Boxes)
    newest: int = 0
    filters: tuple[Any, ...] | None = None
    view: tuple[Any, ...] = ()
    line: str = ""
    problem: str = ""
    keys: list[Any] = field(default_factory=list)
    marked: set[tuple[int, int]] = field(default_factory=set)


class Visitors:
    """The pages that are open, by Gradio's name for each."""

    def __init__(self) -> None:
        self._known: OrderedDict[str | None, Visitor] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, request: gr.Request) -> Visitor:
        """The page that a request comes from."""
        with self._lock:
            visitor = self._known.setdefault(request.session_hash, Visitor())
            self._known.move_to_end(request.session_hash)
            if len(self._known) > MOST_VISITORS:
                self._known.popitem(last=False)
            return visitor
