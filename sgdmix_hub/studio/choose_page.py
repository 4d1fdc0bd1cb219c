"""The page to choose by: a dataset's own images under settings that change, and a file of them."""

from __future__ import annotations

import dataclasses
import itertools
import re
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr  # an extra

from sgdmix_hub.errors import Unusable, UserError, attempt
from sgdmix_hub.evaluation.choices_page import verdict
from sgdmix_hub.figures.panels import outlined_panel, saliency_panel
from sgdmix_hub.generation.plan import PlanRow
from sgdmix_hub.generation.row_maker import RowMaker
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.mask_source import masks_line
from sgdmix_hub.settings.reasons import distrust

from .boxes import PAGE_ROWS, Visitor, Visitors, make_box
from .controls import (
    GROUPS,
    OF_BASE,
    chosen_values,
    control,
    follows_preset,
    left_to,
    names_on_page,
    update,
)
from .pictures import (
    ROWS,
    SETTINGS,
    Picture,
    RowView,
    error_html,
    intro,
    named,
    row_html,
    said,
    status_html,
)
from .recipe_file import check_place, chosen_settings, write_recipe
from .tryout import Tryout

WAIT = 0.2  # seconds between two looks whether a waiting request was overtaken


@dataclass(frozen=True)
class Step:
    """What is told while a page is being made: the status, and the rows where they changed."""

    line: str
    rows: Sequence[int] = ()
    views: Sequence[RowView] = ()


Steps = Iterator[Step]
Shown = Generator[Step, None, tuple[str, list[RowView]]]  # what `_shown` yields and returns


class ChoosePage:
    """The page of one dataset. Everybody who opens it shares the images, what was made of them, and
    the rows that are left out.

    `save_to`: the file that the button writes.
    """

    def __init__(self, tryout: Tryout, save_to: Path):
        """Raises `UserError` if `save_to` is a file of somebody else."""
        check_place(save_to)
        self.tryout, self.save_to = tryout, save_to
        self.excluded = set(tryout.start.excluded_rows or [])
        self.names = names_on_page(tryout.has_base)
        self.of_preset = [name for name in self.names if follows_preset(name)]
        self.pages = -(-len(tryout.rows) // PAGE_ROWS)
        self.visitors = Visitors()
        self._working = threading.Lock()
        self._tickets = itertools.count(1)

    def build(self) -> gr.Blocks:
        """The page's parts and what happens when they are used."""
        tryout = self.tryout
        with gr.Blocks(title="sgdmix studio", analytics_enabled=False) as page:
            gr.HTML(intro_html(tryout))
            with gr.Row():
                with gr.Column(scale=2, min_width=300, elem_id=SETTINGS):
                    controls = self._controls()
                    save = gr.Button(f"Write {self.save_to.name}", variant="primary")
                    saved = gr.HTML(status_html("Nothing is written yet."))
                with gr.Column(scale=5, min_width=320, elem_id=ROWS):
                    status = gr.HTML(status_html("Loading the images."))
                    refine = None
                    if tryout.has_base:
                        refine = gr.Button("Refine the images on this page")
                    number = gr.Number(
                        1,
                        label="Page",
                        info=f"of {self.pages}",
                        precision=0,
                        elem_id="page-number",
                    )
                    slots = [self._slot() for _ in range(PAGE_ROWS)]
                    with gr.Row():
                        before = gr.Button("Previous page")
                        after = gr.Button("Next page")
            defaults = gr.State([left_to(name, tryout.start) for name in self.of_preset])
            boxes = [part for slot in slots for part in slot[1:]]
            inputs = [number, *controls.values()]
            outputs = [status, *(text for text, *_ in slots)]
            private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
            show = {"fn": self.show, "inputs": inputs, "outputs": outputs} | private
            anew = {"concurrency_limit": None, "trigger_mode": "multiple"}
            gr.on(
                [page.load, number.change, *(part.change for part in controls.values())],
                **show,
                **anew,
            )
            follow = [controls[name] for name in self.of_preset]
            gr.on(
                [controls["preset"].change, controls["saliency_method"].change],
                self.follow,
                [defaults, *controls.values()],
                [defaults, *follow],
                **private,
            )
            before.click(lambda page: max(1, (page or 1) - 1), number, number, **private)
            after.click(lambda page: min(self.pages, (page or 0) + 1), number, number, **private)
            # One after the other and none left out, before anything that was asked for later.
            ticks: dict[str, Any] = {
                "trigger_mode": "multiple",
                "concurrency_id": "ticks",
                "concurrency_limit": 1,
            }
            gr.on([page.load, number.change], self.turn, number, boxes, **private, **ticks)
            for place, (_, box, name) in enumerate(slots):
                box.select(self.tick, [gr.State(place), box, name], boxes, **private, **ticks).then(
                    **show, **anew
                )
            if refine is not None:
                refine.click(self.refine, inputs, outputs, **private, **anew)
            save.click(self.save, [*controls.values()], saved, **private, **ticks)
        return page

    def _controls(self) -> dict[str, Any]:
        """Setting -> its control, under the groups' headings."""
        controls = {}
        for group, names in GROUPS.items():
            if group in OF_BASE and not self.tryout.has_base:
                continue
            with gr.Accordion(group, open=group in ("Masks", "Targets", "Mixing")):
                for name in names:
                    controls[name] = control(name, self.tryout.start)
        return controls

    def _slot(self) -> tuple[gr.HTML, gr.Checkbox, gr.Textbox]:
        with gr.Group(visible=True):
            return gr.HTML(""), *make_box()

    def turn(self, request: gr.Request, number: int | None) -> list[Any]:
        """The boxes of a page."""
        visitor = self.visitors.of(request)
        visitor.keys = self._rows_of(number)
        return self._boxes(visitor)

    def tick(
        self, request: gr.Request, place: int, is_ticked: bool, label: str | None
    ) -> list[Any]:
        """A box of the page was ticked, or its tick was taken away; returns what boxes change."""
        visitor = self.visitors.of(request)
        row = row_of(visitor.boxes.heard(place, label))
        if row is not None and row in self.tryout.rows:
            self.leave_out(row, is_ticked)
        return self._boxes(visitor)

    def _boxes(self, visitor: Visitor) -> list[Any]:
        return visitor.boxes.updates(
            [(box_label(row), row in self.excluded) for row in visitor.keys]
        )

    def leave_out(self, row: int, is_out: bool) -> None:
        """Leaves a row out, or takes it in again."""
        (self.excluded.add if is_out else self.excluded.discard)(row)

    def show(self, request: gr.Request, number: int | None, *raws: Any) -> Iterator[list[Any]]:
        """Fills the page: sources and masks first, mixtures when every image has a map."""
        yield from self._told(request, lambda: self._shown(self._rows_of(number), raws))

    def refine(self, request: gr.Request, number: int | None, *raws: Any) -> Iterator[list[Any]]:
        """As `show`, and then refines the images of the page, one after the other."""
        yield from self._told(request, lambda: self._refined(self._rows_of(number), raws))

    def _told(self, request: gr.Request, work: Callable[[], Steps]) -> Iterator[list[Any]]:
        """What the work yields, until the same person asks for something else; errors in a line."""
        visitor, ticket = self.visitors.of(request), next(self._tickets)
        visitor.newest = ticket
        while not self._working.acquire(timeout=WAIT):
            if visitor.newest != ticket:
                return
        # The rows are sent with every step: a value that is skipped may take back the one before,
        # which the browser has not shown yet.
        texts = [gr.skip() for _ in range(PAGE_ROWS)]
        try:
            for step in work():
                if visitor.newest != ticket:
                    return
                if step.rows:
                    texts = self._texts(step.views)
                yield [step.line, *texts]
        except Exception as error:  # of a library too: said on the page, which goes on
            yield [error_html(said(error)), *texts]
        finally:
            self._working.release()

    def _shown(self, rows: list[int], raws: tuple[Any, ...]) -> Shown:
        """Returns the summary of the page and its rows, after it has yielded them."""
        tryout = self.tryout
        settings = tryout.mixing(self._chosen(raws))
        known = tryout.known_maps(settings)
        if not set(rows) <= known.known.values.keys():
            views = [self._source_of(row) for row in rows]
            yield Step(status_html("Masks: none yet."), rows, views)
        for left in known.make(rows):
            line = status_html(f"Masks: {left} to make", len(rows) - left, len(rows))
            yield Step(line)
        maker = tryout.maker(settings, known.maps)
        every = tryout.split.subset.tolist()
        views = [self._masks_of(maker, row, settings) for row in rows]
        yield Step(status_html("Masks are there."), rows, views)
        for left in known.make(every):
            text = f"Maps of all candidates: {left} of {len(every)} to make"
            yield Step(status_html(text, len(every) - left, len(every)))
        plan, reasons = tryout.plan(settings, known.maps)
        views = [
            self._with_mixture(view, maker, plan[row])
            for view, row in zip(views, rows, strict=True)
        ]
        summary = self._summary(settings, reasons)
        yield Step(summary, rows, views)
        return summary, views

    def _refined(self, rows: list[int], raws: tuple[Any, ...]) -> Steps:
        chosen, total = self._chosen(raws), len(rows)
        summary, views = yield from self._shown(rows, raws)
        yield Step(status_html("Refining: loading the diffusion model.", 0, total))
        for place, (_, prompt, image) in enumerate(self.tryout.refined(chosen, rows)):
            view = views[place]
            facts = [*view.facts, *([f"prompt: {prompt}"] if prompt else [])]
            pictures = [*view.pictures, Picture("refined", image)]
            views[place] = dataclasses.replace(view, pictures=pictures, facts=facts)
            line = status_html(f"Refining: {place + 1} of {total}", place + 1, total)
            yield Step(line, rows, views)
        yield Step(summary, rows, views)

    def follow(self, defaults: list[str], *raws: Any) -> list[Any]:
        """What the preset gives under the chosen source, where it is no longer what is shown."""
        try:
            chosen = self._chosen(raws, check=False)
        except UserError:
            return [defaults, *[gr.skip() for _ in self.of_preset]]
        now = [left_to(name, chosen) for name in self.of_preset]
        updates = [
            gr.skip() if before == after else update(name, chosen)
            for name, before, after in zip(self.of_preset, defaults, now, strict=True)
        ]
        return [now, *updates]

    def save(self, *raws: Any) -> str:
        """Writes the file; says so, or what is wrong."""
        try:
            values = self._values(raws)
            write_recipe(self.save_to, self.tryout.start, values, self.tryout.has_base)
        except OSError as error:
            return error_html(f"{self.save_to.name} cannot be written: {error.strerror}")
        except Exception as error:  # of a library too
            return error_html(said(error))
        name = self.save_to.name
        return status_html(
            f"Written: {name}. Go on with: sgdmix augment --config {name} --output_dir outputs"
        )

    def _values(self, raws: tuple[Any, ...]) -> dict[str, Any]:
        """What was chosen, by the setting's name."""
        return chosen_values(self.names, raws) | {"excluded_rows": sorted(self.excluded) or None}

    def _chosen(self, raws: tuple[Any, ...], check: bool = True) -> AugmentSettings:
        """The settings of the page. Raises `UserError`."""
        chosen = chosen_settings(self.tryout.start, self._values(raws), self.tryout.has_base)
        if check:
            chosen.validate()
        return chosen

    def _rows_of(self, number: int | None) -> list[int]:
        first = (min(max(int(number or 1), 1), self.pages) - 1) * PAGE_ROWS
        return self.tryout.rows[first : first + PAGE_ROWS]

    def _texts(self, views: Sequence[RowView]) -> list[Any]:
        """The rows as HTML, for every slot."""
        texts = [row_html(view, self.tryout.picture_size) for view in views]
        return texts + [""] * (PAGE_ROWS - len(texts))

    def _title(self, row: int) -> str:
        split = self.tryout.split
        return f"row {row}: {named(split.class_names[split.labels[row]])}"

    def _source_of(self, row: int) -> RowView:
        """A row's image, or why there is none."""
        return RowView(self._title(row), [Picture("source", attempt(self.tryout.split.image, row))])

    def _masks_of(self, maker: RowMaker, row: int, settings: AugmentSettings) -> RowView:
        """Source, map and mask of a row."""
        title, size = self._title(row), self.tryout.picture_size
        masked = self.tryout.masked(maker, row)
        if isinstance(masked, Unusable):
            return RowView(title, [Picture("source", masked)], warnings=[masked.reason])
        confidence = maker.maps.confidence(row)
        facts = [f"mask: {masked.mask.mean():.0%} of the image"]
        if confidence is not None:
            facts[0] += f", confidence {confidence:.2f}"
        reason = distrust(confidence, settings.min_mask_confidence)
        warnings = [] if reason is None else [reason]
        if not masked.mask.any():
            warnings.append("the mask is empty")
        pictures = [
            Picture("source", masked.pixels),
            Picture("saliency", saliency_panel(maker.maps[row], size)),
            Picture("mask", outlined_panel(masked, size)),
        ]
        return RowView(title, pictures, facts, warnings)

    def _with_mixture(self, view: RowView, maker: RowMaker, planned: PlanRow) -> RowView:
        """The row with its target and mixture, or why there is none."""
        split = self.tryout.split
        mixture = maker.mixture_or_reason(planned)
        if isinstance(mixture, Unusable):
            known = any(mixture.reason in warning for warning in view.warnings)
            warnings = [*view.warnings, *([] if known else [mixture.reason])]
            return dataclasses.replace(
                view, pictures=[*view.pictures, Picture("mixed", mixture)], warnings=warnings
            )
        if planned.is_unmixed:
            return dataclasses.replace(
                view, pictures=[*view.pictures, Picture("kept unmixed", mixture.mixed)]
            )
        name = named(split.class_names[split.labels[planned.target_index]])
        fact = (
            f"target: row {planned.target_index}, {name}; distance "
            f"{planned.saliency_distance:.3f}; {mixture.foreground_area:.0%} kept from the source"
        )
        pictures = [Picture("target", mixture.target.pixels), Picture("mixed", mixture.mixed)]
        return dataclasses.replace(
            view, pictures=[*view.pictures, *pictures], facts=[*view.facts, fact]
        )

    def _summary(self, settings: AugmentSettings, reasons: dict[int, str]) -> str:
        """What holds for all drawn images."""
        number = len(self.tryout.split.subset)
        line = f"{masks_line(settings)}. {len(reasons)} of {number} images are left out."
        line = line[:1].upper() + line[1:]
        trust = self.tryout.trust(settings)
        if trust is not None:
            line += f" {verdict(trust)}"
        return status_html(line)


def box_label(row: int) -> str:
    """The label of the box that leaves a row out."""
    return f"Leave row {row} out"


def row_of(label: str) -> int | None:
    """The row whose box has a label, if one has."""
    found = re.fullmatch(r"Leave row (\d{1,18}) out", label)
    return None if found is None else int(found[1])


def intro_html(tryout: Tryout) -> str:
    """The heading of the page."""
    start = tryout.start
    hint = (
        f"{len(tryout.rows)} images of split {named(start.dataset_split)}, drawn with seed "
        f"{start.seed}. Targets are chosen among them; a run chooses among all."
    )
    if not tryout.has_base:
        hint += " To choose S and prompts too, start with --adapter or a base model."
    return intro(f"How to mix {named(tryout.split.pin.name)}", [hint])
