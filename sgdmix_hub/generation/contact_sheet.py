"""The contact sheet of a finished generation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from PIL import Image

from sgdmix_hub.data.splits import decode_image
from sgdmix_hub.errors import shown
from sgdmix_hub.figures import counts
from sgdmix_hub.figures.panels import SheetRow, draw_contact_sheet, mask_panel, saliency_panel
from sgdmix_hub.settings.generation import AugmentSettings

from .inputs import Inputs
from .plan import PlanRow
from .row_maker import RowMaker
from .shards import Shards


def contact_sheet(
    settings: AugmentSettings, inputs: Inputs, maker: RowMaker, shards: Shards
) -> Image.Image:
    """A picture of rows spread over the plan, stage by stage."""
    return draw_contact_sheet(list(sheet_rows(settings, inputs, maker, shards, counts.SHEET_ROWS)))


def sheet_rows(
    settings: AugmentSettings, inputs: Inputs, maker: RowMaker, shards: Shards, count: int
) -> Iterator[SheetRow]:
    """At most `count` rows, spread over the plan.

    Maps, masks and mixtures are computed again; the refined images come from the shards.
    """
    made = np.cumsum([shards.record(number)["rows"] for number in range(len(shards))])
    total = int(made[-1])
    spread = np.linspace(0, total - 1, min(count, total)).round().astype(int)
    for place in spread:
        number = int(np.searchsorted(made, place, side="right"))
        before = int(made[number - 1]) if number else 0
        position = _finished(shards, number)[place - before]
        yield _sheet_row(settings, inputs, maker, shards, position)


def _finished(shards: Shards, number: int) -> list[int]:
    """Positions in the plan of the rows that a shard holds, ascending."""
    skipped = {
        (record["source_index"], record["variant"]) for record in shards.record(number)["skipped"]
    }
    first = number * shards.rows_per_shard
    return [
        first + place
        for place, row in enumerate(shards.rows(number))
        if (row.source_index, row.variant) not in skipped
    ]


def _sheet_row(
    settings: AugmentSettings, inputs: Inputs, maker: RowMaker, shards: Shards, position: int
) -> SheetRow:
    (planned,) = shards.plan_rows(position, 1)
    row, refined = published_row(shards, position, planned)
    mixture = maker.filled_mixture(row)
    panels = [
        mixture.source.pixels,
        saliency_panel(maker.maps[row.source_index], settings.resolution),
        mask_panel(mixture.source),
        mixture.target.pixels,
        mask_panel(mixture.target),
        mixture.mixed,
        refined,
    ]
    names, labels = inputs.split.class_names, inputs.split.labels
    foreground = ""
    if settings.foreground_strength is not None:
        foreground = f" (foreground {min(settings.foreground_strength, row.strength):g})"
    bank = inputs.bank
    if bank is not None and not row.is_unmixed:
        partner = f"+  background of {shown(bank.pin.name)}"
    else:
        partner = _partner(settings, names[labels[row.target_index]])
    caption = (
        f"{names[labels[row.source_index]]}  {partner}"
        f"     S = {row.strength:g}{foreground}   distance = {row.saliency_distance:.3f}"
    )
    return SheetRow(panels, caption)


def _partner(settings: AugmentSettings, name: str) -> str:
    """The part of a caption that names the target's class."""
    shown = "" if settings.mixing_method == "none" else f"+  background of {name}"
    return f"{shown}  ->  prompt of {name}" if settings.prompt_class == "target" else shown


def published_row(shards: Shards, position: int, row: PlanRow) -> tuple[PlanRow, np.ndarray]:
    """A planned row with the strength and seed that its image was made with, and this image."""
    number = position // shards.rows_per_shard
    table = shards.table(number, ["image", "source_index", "variant", "strength", "seed"])
    for cell, source, variant, strength, seed in zip(
        *(table.column(name).to_pylist() for name in table.column_names), strict=True
    ):
        if (source, variant) == (row.source_index, row.variant):
            made = replace(row, strength=strength, seed=seed)
            return made, np.asarray(decode_image(cell).convert("RGB"))
    raise LookupError(f"row {row.source_index}, variant {row.variant} is in no shard")
