"""The page to look through versions: pictures and numbers of every row, and a list of bad ones."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr  # an extra
import numpy as np

from sgdmix_hub.errors import UserError, shown

from .boxes import PAGE_ROWS, Visitor, Visitors, make_box
from .controls import number_or_text
from .late import Late
from .marks import Marks, box_label, key_of
from .originals import Originals
from .pictures import (
    LONGEST_FACT,
    ROWS,
    SETTINGS,
    RowView,
    error_html,
    intro,
    named,
    row_html,
    said,
    status_html,
)
from .places import place_of
from .row_views import key_in, view_of, with_other
from .selection import Selection, selected_positions
from .shard_files import READ_BY_NEED, READ_WHOLE
from .version_rows import VersionRows

AS_STORED = "as stored"
PATIENCE = 2.0  # seconds that the first page waits for sources from the Hub
AGAIN = 3.0  # seconds until it looks whether they are there
HASH = 12  # digits of a hash that are shown
Outputs = Iterator[list[Any]]


@dataclass(frozen=True)
class Asked:
    """What to look at: names of versions, and where their local sources are."""

    names: Sequence[str]
    config_name: str
    dataset_name: str | None


class BrowsePage:
    """The page of one or two versions.

    `save_to`: the file of the list of bad rows, which everybody who opens the page shares. Without
    one, as in a Space, everybody has a list of their own.
    """

    def __init__(self, asked: Asked, save_to: Path | None, picture_size: int):
        """Raises `UserError`."""
        self.asked, self.picture_size = asked, picture_size
        self.visitors = Visitors()
        self._lock = threading.Lock()
        self.versions: list[VersionRows] = []
        self._originals = Late(self._open_originals)
        self.load()
        self.marks = Marks(save_to)

    @property
    def first(self) -> VersionRows:
        """The version whose rows are filtered and sorted."""
        return self.versions[0]

    def load(self) -> None:
        """Finds the files of all versions again. Raises `UserError`."""
        places = [place_of(name, self.asked.config_name) for name in self.asked.names]
        versions = [VersionRows(place) for place in places]
        for version in versions:
            if not version.place.is_read_by_need:
                version.read_all_numbers()
        self.versions = versions
        if not isinstance(self._originals.found, Originals):
            self._originals = Late(self._open_originals)

    def build(self) -> gr.Blocks:
        """The page's parts and what happens when they are used."""
        numbers = self.first.numbers
        with gr.Blocks(title="sgdmix studio", analytics_enabled=False) as page:
            gr.HTML(self._intro_html())
            with gr.Row():
                with gr.Column(scale=2, min_width=300, elem_id=SETTINGS):
                    with gr.Accordion("Filter and sort", open=True):
                        classes = gr.Dropdown(
                            self._classes(),
                            value=[],
                            multiselect=True,
                            label="Classes",
                            info="all if none is chosen",
                        )
                        sort_by = gr.Dropdown(
                            [AS_STORED, *((named(name), name) for name in numbers)],
                            value=AS_STORED,
                            label="Sort by",
                        )
                        descending = gr.Checkbox(label="Largest first")
                        only_marked = gr.Checkbox(label="Only rows that are marked as bad")
                    with gr.Accordion("Ranges", open=False):
                        ranges = [part for name in numbers for part in self._range(name)]
                    listed = gr.Textbox(
                        label="Rows marked as bad",
                        lines=4,
                        max_lines=8,
                        interactive=False,
                        info=self.marks.where(),
                        buttons=["copy"],
                        elem_id="marked-rows",
                    )
                with gr.Column(scale=5, min_width=320, elem_id=ROWS):
                    status = gr.HTML(status_html("Loading."))
                    again = gr.Button("Look for new rows", visible=self._is_unfinished())
                    number = gr.Number(1, label="Page", precision=0, elem_id="page-number")
                    slots = [self._slot() for _ in range(PAGE_ROWS)]
                    with gr.Row():
                        before = gr.Button("Previous page")
                        after = gr.Button("Next page")
            # One after the other, in the order in which they were asked for.
            private: dict[str, Any] = {
                "api_visibility": "private",
                "show_progress": "hidden",
                "concurrency_id": "page",
                "concurrency_limit": 1,
            }
            filters = [classes, sort_by, descending, only_marked, *ranges]
            inputs = [number, *filters]
            boxes = [part for slot in slots for part in slot[1:]]
            late = gr.Timer(AGAIN, active=False)
            outputs = [number, status, late, *(text for text, *_ in slots)]
            # What is asked for while the page is being drawn is drawn after it.
            last: dict[str, Any] = private | {"trigger_mode": "always_last"}
            show = {"fn": self.show, "inputs": inputs, "outputs": outputs} | last
            # An event of its own: what a generator sends, its next value may take back.
            tick = {"fn": self.boxes, "inputs": None, "outputs": boxes} | last
            page.load(self.known_marks, None, listed, **private).then(**show).then(**tick)
            changes: list[Any] = [
                part.change for part in (classes, sort_by, descending, only_marked)
            ]
            changes += [event for part in ranges for event in (part.submit, part.blur)]
            gr.on(changes, self.first_page, filters, number, **last).then(**show).then(**tick)
            gr.on([number.submit, number.blur, late.tick], **show).then(**tick)
            for button, step in ((before, -1), (after, 1)):
                button.click(
                    lambda page, step=step: (page or 1) + step, number, number, **private
                ).then(**show).then(**tick)
            again.click(self.reload, inputs, [classes, *outputs], **last).then(**tick)
            marked: dict[str, Any] = {
                "outputs": [listed, status, *boxes],
                "trigger_mode": "multiple",
            } | private
            for place, (_, box, name) in enumerate(slots):
                box.select(self.mark, [gr.State(place), box, name], **marked)
        return page

    def _slot(self) -> tuple[gr.HTML, gr.Checkbox, gr.Textbox]:
        with gr.Group():
            return gr.HTML(""), *make_box()

    def _range(self, name: str) -> list[gr.Textbox]:
        """Fields for the lowest and highest value of a column."""
        ends = ["", ""]
        if self.first.has_numbers:
            values = self.first.columns[name]
            known = values[np.isfinite(values.astype(np.float64))]
            ends = [f"{known.min():g}", f"{known.max():g}"] if len(known) else ends
        with gr.Row():
            return [
                gr.Textbox(label=f"{named(name)}, {word}", placeholder=end, min_width=110)
                for word, end in zip(("from", "to"), ends, strict=True)
            ]

    def first_page(self, request: gr.Request, *filters: Any) -> Any:
        """The page's number after something was filtered or sorted: 1 if that changed anything."""
        visitor, filters = self.visitors.of(request), _given(filters)
        if visitor.filters == filters:
            return gr.skip()
        visitor.filters = filters
        return 1

    def show(
        self,
        request: gr.Request,
        number: int | None,
        classes: list[int],
        sort_by: str,
        descending: bool,
        only_marked: bool,
        *ranges: str,
    ) -> Outputs:
        """Fills a page: yields values of all outputs, and what it waits for before."""
        visitor = self.visitors.of(request)
        filters = _given((classes, sort_by, descending, only_marked, *ranges))
        if visitor.filters is None:
            visitor.filters = filters
        # A field that loses the focus to a box draws the same rows again, after the box's mark.
        if visitor.view != (number, filters):
            visitor.view, visitor.problem = (number, filters), ""
        try:
            selection = Selection(
                labels=classes or [],
                ranges=self._ranges(ranges),
                keys=frozenset(self.marks.of(visitor)) if only_marked else None,
                sort_by=None if sort_by == AS_STORED else sort_by,
                descending=descending,
            )
            yield from self._numbers_for(selection)
            with self._lock:
                values = self._shown(number, selection, visitor)
            yield values
        except Exception as error:  # of a library too: said on the page, which goes on
            yield self._only_status(error_html(said(error)))

    def _numbers_for(self, selection: Selection) -> Outputs:
        """Reads the numbers of all rows where they are needed; they are on this machine but for a
        version on the Hub.
        """
        for version in self.versions[selection.is_everything :]:
            name, of = named(version.place.name), len(version.place.files)
            for done in version.read_numbers():
                text = f"Reading the numbers of all rows of {name}: {done} of {of} files"
                yield self._only_status(status_html(text, done, of))

    def _only_status(self, line: str) -> list[Any]:
        return [gr.skip(), line, gr.skip(), *(gr.skip() for _ in range(PAGE_ROWS))]

    def _shown(self, number: int | None, selection: Selection, visitor: Visitor) -> list[Any]:
        first = self.first
        positions: Sequence[int] = range(len(first))
        if not selection.is_everything:
            positions = selected_positions(first.columns, selection).tolist()
        pages = max(1, -(-len(positions) // PAGE_ROWS))
        page = min(max(int(number or 1), 1), pages)
        read = first.read(positions[(page - 1) * PAGE_ROWS : page * PAGE_ROWS])
        rows = list(read.values())
        originals = self._originals.within(self._patience())
        views = self._views(rows, originals if isinstance(originals, Originals) else None)
        texts = [row_html(view, self.picture_size) for view in views]
        visitor.keys = [key_in(row) for row in rows]
        texts += [""] * (PAGE_ROWS - len(rows))
        line = f"{len(positions):,} of {len(first):,} rows; page {page:,} of {pages:,}."
        if self._is_unfinished():
            line += f" The run makes {first.place.planned} rows."
        if isinstance(originals, UserError):
            line += f" {str(originals)[:1].upper()}{str(originals)[1:]}."
        if originals is None:
            line += " Sources and targets are being downloaded; the rows are drawn again then."
        visitor.line = line
        page_number = gr.skip() if page == number else page
        status = error_html(visitor.problem) if visitor.problem else status_html(line)
        return [page_number, status, gr.Timer(active=originals is None), *texts]

    def _open_originals(self) -> Originals:
        """The images that the first version was made from. Raises `UserError`."""
        return Originals(self.first.place, self.asked.dataset_name)

    def _patience(self) -> float | None:
        """Seconds that a page waits for sources: any number if they are on this machine."""
        is_here = self.asked.dataset_name is not None and os.path.isdir(self.asked.dataset_name)
        return None if is_here else PATIENCE

    def boxes(self, request: gr.Request) -> list[Any]:
        """What to send for the boxes after rows were shown."""
        with self._lock:
            return self._boxes(self.visitors.of(request))

    def _boxes(self, visitor: Visitor) -> list[Any]:
        """What to send for the boxes of the rows that a visitor sees."""
        marked = self.marks.of(visitor)
        return visitor.boxes.updates([(box_label(key), key in marked) for key in visitor.keys])

    def _views(self, rows: list[dict[str, Any]], originals: Originals | None) -> list[RowView]:
        """The rows with their pictures, of the second version too if there is one."""
        views = [view_of(row, self.first, originals, self.picture_size) for row in rows]
        for other in self.versions[1:]:
            found = [other.position_of(key_in(row)) for row in rows]
            beside = other.read(place for place in found if place is not None)
            views = [
                with_other(view, other, None if place is None else beside[place])
                for view, place in zip(views, found, strict=True)
            ]
        return views

    def known_marks(self, request: gr.Request) -> str:
        """The list when a page is opened."""
        with self._lock:
            return self.marks.text(self.visitors.of(request))

    def mark(self, request: gr.Request, place: int, is_bad: bool, label: str | None) -> list[Any]:
        """A row's box was ticked, or its tick was taken away: writes the list."""
        visitor = self.visitors.of(request)
        with self._lock:
            key = key_of(visitor.boxes.heard(place, label))
            try:
                if key is None or not self.first.may_have(key):
                    raise UserError("the version has no such row any more: nothing was marked")
                self.marks.change(visitor, key, is_bad)
                number = len(self.marks.of(visitor))
                visitor.problem = ""
                line = status_html(f"{visitor.line} Rows marked as bad: {number}.".lstrip())
            except UserError as error:
                visitor.problem = str(error)
                line = error_html(visitor.problem)
            return [self.marks.text(visitor), line, *self._boxes(visitor)]

    def reload(self, request: gr.Request, *inputs: Any) -> Outputs:
        """Finds the rows that a run has made meanwhile: the classes, and what `show` gives."""
        try:
            with self._lock:
                self.load()
        except Exception as error:  # of a library too
            yield [gr.skip(), *self._only_status(error_html(said(error)))]
            return
        for values in self.show(request, *inputs):
            yield [gr.update(choices=self._classes()), *values]

    def _classes(self) -> list[tuple[str, int]]:
        """The classes to choose among: name and label."""
        return [(named(name), label) for label, name in enumerate(self.first.class_names)]

    def _is_unfinished(self) -> bool:
        return any(version.place.planned is not None for version in self.versions)

    def _ranges(self, texts: Sequence[str]) -> dict[str, tuple[float | None, float | None]]:
        """Column -> lowest and highest value. Raises `UserError`."""
        ends = [_number(text) for text in texts]
        pairs = zip(self.first.numbers, ends[::2], ends[1::2], strict=True)
        return {name: (low, high) for name, low, high in pairs if (low, high) != (None, None)}

    def _intro_html(self) -> str:
        names = " and ".join(named(version.place.name) for version in self.versions)
        pins = ", ".join(map(short, self.first.place.pins.values()))
        hints = [f"Made from {shown(pins, LONGEST_FACT)}."]
        if not self._is_unfinished():
            by_need = any(version.place.is_read_by_need for version in self.versions)
            hints.append(READ_BY_NEED if by_need else READ_WHOLE)
        return intro(names, hints)


def _given(filters: tuple[Any, ...]) -> tuple[Any, ...]:
    """The filters, alike for a field that was never opened and one that is empty."""
    return tuple(value or None for value in filters)


def short(pin: str) -> str:
    """A pin with the beginning of its hash."""
    name, _, revision = pin.rpartition("@")
    kind, dash, digits = revision.rpartition("-")
    return f"{name}@{kind}{dash}{digits[:HASH]}"


def _number(text: str | None) -> float | None:
    """A field's number; None if it is empty. Raises `UserError`."""
    if not (text or "").strip():
        return None
    value = number_or_text(str(text))
    if isinstance(value, str) or math.isnan(value):
        raise UserError(f"{text} is not a number: give one, or leave the field empty")
    return value
