"""Estimates rows, time and size of a generation from its plan and a few rows that it makes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from sgdmix_hub.errors import UserError, shown
from sgdmix_hub.hub.pins import Pin
from sgdmix_hub.models.memory import MOST_PROMPTS, need_of
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.presets import saliency_method, saliency_source
from sgdmix_hub.settings.saliency import is_low_confidence, kind_of
from sgdmix_hub.settings.strengths import strength_grid

from .extent import Extent, files_text, limits_of
from .inputs import environment
from .plan import PlanRow
from .row_maker import RowMaker
from .shards import Shards
from .worker import make_shards

MOST_LISTED = 10  # strengths
TRIED_BATCHES = 2  # timed batches of each strength, after one to warm up


@dataclass(frozen=True)
class Trial:
    """A few rows, made and thrown away. `reasons`: why some could not be made."""

    tried: int
    made: int
    reasons: list[str]
    image_bytes: int
    seconds: float


def try_rows(maker: RowMaker, shards: Shards, unfinished: list[int]) -> Trial | None:
    """Makes and times the first unfinished rows of each strength; None if there are none.

    One batch of each strength is made before, to warm up.
    """
    settings = maker.settings
    wanted = dict.fromkeys(settings.strength, (1 + TRIED_BATCHES) * settings.batch_size)
    chosen: dict[float, list[PlanRow]] = {strength: [] for strength in settings.strength}
    for number in unfinished:
        for row in shards.rows(number):
            takes = row.skip is None and not row.is_unmixed
            if takes and len(chosen[row.strength]) < wanted[row.strength]:
                chosen[row.strength].append(row)
        if all(len(rows) == wanted[strength] for strength, rows in chosen.items()):
            break
    if not any(chosen.values()):
        return None
    # with few rows left, the warm-up rows are timed too
    warming = [row for rows in chosen.values() for row in rows[: settings.batch_size]]
    timed = [row for rows in chosen.values() for row in (rows[settings.batch_size :] or rows)]
    sizes: list[int] = []
    reasons: list[str] = []

    def write(number: int, rows: list[dict], skipped: list[dict], seconds: float) -> None:
        sizes.extend(
            sum(len(row[name]["bytes"]) for name in ("image", *settings.more_images))
            for row in rows
        )
        reasons.extend(record["reason"] for record in skipped)

    make_shards(maker, [(0, warming)], settings.num_workers, write, lambda rows: None)
    sizes.clear()
    reasons.clear()
    started = time.monotonic()
    make_shards(maker, [(0, timed)], settings.num_workers, write, lambda rows: None)
    return Trial(len(timed), len(sizes), reasons, sum(sizes), time.monotonic() - started)


def estimate_text(
    shards: Shards,
    unfinished: list[int],
    trial: Trial | None,
    maker: RowMaker,
    num_processes: int,
    room: int | None,
) -> str:
    """The result of a dry run, one line per fact. `room`: as in `Extent`."""
    to_make = sum(map(shards.size, unfinished))
    plan = shards.plan_columns("skip", "source_index", "target_index")
    reasons = skip_reasons(plan)
    known = most_common(reasons.elements()) or "none"
    lines = [
        f"rows        {shards.num_rows:,} in {len(shards)} shards of {shards.rows_per_shard}",
        f"to make     {to_make:,} rows in {len(unfinished)} shards; "
        f"{len(shards) - len(unfinished)} shards are finished",
        f"skipped     by the plan: {known}",
    ]
    lines.append(f"masks       {untrusted_text(plan, maker.settings)}")
    if maker.pipeline.refiner is not None:
        lines.append(f"strength    {strengths_text(maker)}")
    if maker.settings.refines:
        lines.append(f"prompts     {prompts_text(maker)}")
    if maker.settings.strength_choice is not None:
        lines.append(f"pilot       {pilot_text(maker, plan, trial)}")
    if trial is None:
        return "\n".join(lines)
    device = environment(maker.settings)["device"]
    lines[2] += f"; of {trial.tried} rows tried: {most_common(trial.reasons) or 0}"
    lines.append(
        f"speed       {trial.tried / trial.seconds:.3g} images/s per process, measured on "
        f"{trial.tried} rows on {device}"
    )
    seconds = trial.seconds / trial.tried * (to_make - sum(reasons.values()))
    share = "one process"
    if num_processes > 1:
        share = f"{duration(seconds / num_processes)} with {num_processes} processes"
    lines.append(
        f"time        {seconds / 3600:.2f} accelerator-hours: {duration(seconds)}, {share}"
    )
    if (price := maker.settings.price_per_hour) is not None:
        lines.append(f"price       {seconds / 3600 * price:,.2f}, at {price:g} an accelerator-hour")
    if trial.made:
        size = trial.image_bytes / trial.made
        gigabytes = size * (shards.num_rows - sum(reasons.values())) / 1e9
        lines.append(
            f"size        {gigabytes:.3g} GB, {size / 1e3:.3g} kB per row "
            f"({', '.join((maker.settings.image_format, *maker.settings.more_images))})"
        )
        rows = [shards.size(number) for number in range(len(shards))]
        extent = Extent(rows, size, to_make, room)
        lines.append(f"files       {files_text(extent)}")
        lines += [f"limit       {limit}" for limit in limits_of(extent)]
    return "\n".join(lines)


def memory_text(settings: AugmentSettings, base: Pin) -> str:
    """What the base model's weights need, before any is loaded. Raises `UserError`."""
    need = need_of(base, settings.safety_checker)
    if not need.weights:
        return "memory      unknown: the base model has no safetensors, so no run can load it"
    held = need.gigabytes(settings.dtype, settings.quantization)
    parts = sorted(held.items(), key=lambda item: -item[1])
    listed = ", ".join(f"{name} {size:.2f}" for name, size in parts)
    freed = sum(held.get(name, 0) for name in need.encoders)
    text = f"memory      {sum(held.values()):.2f} GB of weights in {settings.dtype}: {listed}"
    text += f"; {sum(held.values()) - freed:.2f} once up to {MOST_PROMPTS - 1} prompts are encoded"
    if settings.cpu_offload == "model":
        text += f"; {max(held.values()):.2f} at once on the GPU, the rest in main memory"
    loaded = sum(need.gigabytes("float32", settings.quantization).values())
    text += f"; loading takes {loaded:.2f} GB of main memory per process; images come on top"
    if torch.cuda.is_available():
        room = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / 1e9
        text += f"; this GPU has {room:.1f} GB"
        if sum(held.values()) > room and settings.cpu_offload is None:
            text += ": give --cpu_offload or --quantization"
    return text


def strengths_text(maker: RowMaker) -> str:
    """The steps that each strength runs, the noise it starts from, and which strengths differ."""
    settings = maker.settings
    total = settings.num_inference_steps
    made = maker.pipeline
    runs = [
        f"{strength:g} runs {made.num_steps(strength)} of {total} steps, from noise level "
        f"{made.sigma_start(strength):g}"
        for strength in settings.strength
        if strength > 0
    ]
    grid = strength_grid(total)
    if settings.strength_unit is not None and made.refiner is not None:
        grid = made.refiner.levels.of_steps()[1:]
    if len(grid) > MOST_LISTED:
        return "; ".join(runs)
    listed = ", ".join(f"{strength:g}" for strength in grid)
    return f"{'; '.join(runs)}; with {total} steps, these differ: {listed}"


def pilot_text(maker: RowMaker, plan: pa.Table, trial: Trial | None) -> str:
    """How many images the pilot makes, and about how long that takes. What is estimated of the run
    holds for strengths that take turns.
    """
    settings = maker.settings
    made = plan.filter(plan["skip"].is_null())["source_index"].unique().to_numpy()
    of_class = np.bincount(maker.inputs.split.labels[made])
    strengths = sum(strength > 0 for strength in settings.strength)
    images = int(np.minimum(of_class, settings.rows_of_class).sum()) * strengths
    took = "" if trial is None else f", {duration(images * trial.seconds / trial.tried)}"
    return (
        f"{images:,} images{took}, then one strength for each class; what follows is estimated "
        "with all strengths equally often"
    )


def prompts_text(maker: RowMaker) -> str:
    """How many prompts a class has, and one of them."""
    first = shown(maker.prompts.published(0, 0))
    count = len(maker.prompts)
    return f"{first!r}" if count == 1 else f"{count} of each class, drawn per row: {first!r} ..."


def untrusted_text(plan: pa.Table, settings: AugmentSettings) -> str:
    """How many rows of a plan have a source without a trusted mask, and what becomes of them."""
    if not saliency_source(settings).has_confidence:
        return f"{saliency_method(settings)} states no confidence: every mask is used"
    reasons = skip_reasons(plan)
    skipped = sum(count for reason, count in reasons.items() if is_low_confidence(reason))
    sources, targets = (plan[name].to_numpy() for name in ("source_index", "target_index"))
    untrusted = skipped + int((sources == targets).sum())
    text = f"{untrusted:,} of {len(plan):,} rows ({untrusted / len(plan):.1%}) have no trusted mask"
    return f"{text}: {settings.low_confidence}" if untrusted else text


def skip_reasons(plan: pa.Table) -> Counter[str]:
    """How many rows of a plan are skipped, by reason."""
    counted = plan["skip"].drop_null().value_counts()
    return Counter({entry["values"].as_py(): entry["counts"].as_py() for entry in counted})


def check_can_be_made(shards: Shards, unfinished: list[int], trial: Trial | None) -> None:
    """Raises `UserError` if a run could make none of the rows that are left."""
    reasons = trial.reasons if trial else skip_reasons(shards.plan_columns("skip")).elements()
    if unfinished and not (trial and trial.made):
        raise UserError(
            f"not one row could be made ({most_common(reasons)}): a run would leave no dataset"
        )


def most_common(reasons: Iterable[str], kinds: int = 3) -> str:
    """The most frequent reasons with their counts, in words."""
    counted = Counter(map(kind_of, reasons)).most_common()
    more = f"; {len(counted) - kinds} other reasons" if len(counted) > kinds else ""
    return "; ".join(f"{count} x {shown(reason)}" for reason, count in counted[:kinds]) + more


def duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes else f"{seconds:.0f} s"
