"""Estimates rows, time and size of a generation from its plan and a few rows that it makes."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sgdmix_hub.errors import UserError, shown
from sgdmix_hub.hub.pins import Pin
from sgdmix_hub.models.memory import MOST_PROMPTS, gpu_room, listed, need_of
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.presets import saliency_method, saliency_source
from sgdmix_hub.settings.reasons import is_low_confidence, most_common
from sgdmix_hub.settings.strengths import strength_grid

from .extent import Extent, files_text, limits_of
from .inputs import environment
from .maps_begun import MapsBegun
from .plan import PlanRow
from .row_blocks import BLOCK_ROWS
from .row_maker import RowMaker
from .shards import Shards
from .worker import make_shards

MOST_LISTED = 10  # strengths
PLAN_COLUMNS = ("skip", "source_index", "target_index")
SAMPLE_NOTE = (
    "maps were made for two minutes, so skipped, masks, time, price, size and files are "
    "extrapolated from the images that have one, and targets were drawn among these; with all maps "
    "(--stage maps, on any number of workers) a dry run plans every row"
)
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


@dataclass(frozen=True)
class Scope:
    """What an estimate is about.

    `shard_rows`: of every shard; `to_make`, `unfinished`: rows and shards that are not finished.
    `plan`: of the run or, if `begun`, of a part of its images. `sources`: rows of the split that
    are augmented.
    """

    shard_rows: list[int]
    to_make: int
    unfinished: int
    plan: pa.Table
    sources: np.ndarray
    begun: MapsBegun | None = None

    @property
    def rows(self) -> int:
        return sum(self.shard_rows)

    @property
    def skipped(self) -> int:
        """Rows that the plan skips."""
        share = skip_reasons(self.plan).total() / len(self.plan)
        return round(share * self.rows)


def scope_of(shards: Shards, unfinished: list[int]) -> Scope:
    """A whole plan."""
    plan = shards.plan_columns(*PLAN_COLUMNS)
    sizes = [shards.size(number) for number in range(len(shards))]
    to_make = sum(sizes[number] for number in unfinished)
    sources = plan.filter(plan["skip"].is_null())["source_index"].unique().to_numpy()
    return Scope(sizes, to_make, len(unfinished), plan, sources)


def scope_of_sample(sample: Shards, begun: MapsBegun) -> Scope:
    """A run of which only some maps are made. `sample`: the plan of these images."""
    size, plan = sample.rows_per_shard, sample.plan_columns(*PLAN_COLUMNS)
    sizes = [min(size, begun.rows - start) for start in range(0, begun.rows, size)]
    return Scope(sizes, begun.rows, len(sizes), plan, begun.sources, begun)


def estimate_text(
    scope: Scope, trial: Trial | None, maker: RowMaker, num_processes: int, room: int | None
) -> str:
    """The result of a dry run, one line per fact. `room`: as in `Extent`."""
    shards, to_make, settings = len(scope.shard_rows), scope.to_make, maker.settings
    known = most_common(skip_reasons(scope.plan).elements()) or "none"
    lines = [
        f"rows        {scope.rows:,} in {shards:,} shards of {settings.rows_per_shard}",
        f"to make     {to_make:,} rows in {scope.unfinished:,} shards; "
        f"{shards - scope.unfinished:,} shards are finished",
        f"skipped     by the plan: {known}",
    ]
    if scope.begun is not None:
        lines[0] += ", if every image has a usable map"
        lines[2] = f"skipped     of {len(scope.plan):,} rows in the sample: {known}"
        lines.insert(1, f"maps        {maps_text(scope.begun, num_processes)}")
    masks = untrusted_text(scope.plan, settings)
    lines.append(f"masks       {'in the sample, ' if scope.begun else ''}{masks}")
    if maker.pipeline.refiner is not None:
        lines.append(f"strength    {strengths_text(maker)}")
    if maker.settings.refines:
        lines.append(f"prompts     {prompts_text(maker)}")
    if maker.settings.strength_choice is not None:
        lines.append(f"pilot       {pilot_text(maker, scope.sources, trial)}")
    if trial is None:
        return "\n".join(lines)
    device = environment(maker.settings)["device"]
    skipped = next(number for number, line in enumerate(lines) if line.startswith("skipped"))
    lines[skipped] += f"; of {trial.tried} rows tried: {most_common(trial.reasons) or 0}"
    lines.append(
        f"speed       {trial.tried / trial.seconds:.3g} images/s per process, measured on "
        f"{trial.tried} rows on {device}"
    )
    seconds = trial.seconds / trial.tried * (to_make - scope.skipped)
    lines.append(f"time        {hours_text(seconds, num_processes)}")
    if scope.begun is not None:
        seconds += scope.begun.seconds
        lines[-1] += f"; with the maps {hours_text(seconds, num_processes)}"
    if (price := maker.settings.price_per_hour) is not None:
        lines.append(f"price       {seconds / 3600 * price:,.2f}, at {price:g} an accelerator-hour")
    if trial.made:
        size = trial.image_bytes / trial.made
        gigabytes = size * (scope.rows - scope.skipped) / 1e9
        lines.append(
            f"size        {gigabytes:.3g} GB, {size / 1e3:.3g} kB per row "
            f"({', '.join((maker.settings.image_format, *maker.settings.more_images))})"
        )
        extent = Extent(scope.shard_rows, size, to_make, room)
        lines.append(f"files       {files_text(extent)}")
        lines += [f"limit       {limit}" for limit in limits_of(extent)]
    if scope.begun is not None:
        lines.append(f"sample      {SAMPLE_NOTE}")
    return "\n".join(lines)


def maps_text(begun: MapsBegun, num_processes: int) -> str:
    """How many maps are made, and how long the others take."""
    made = ", ".join(f"{part.made:,} of {part.count:,}" for part in begun.parts)
    return (
        f"{made} blocks of {BLOCK_ROWS} images are made and kept; the others take "
        f"{hours_text(begun.seconds, num_processes)}"
    )


def hours_text(seconds: float, num_processes: int) -> str:
    """Seconds of one process, and of that many."""
    share = "one process"
    if num_processes > 1:
        share = f"{duration(seconds / num_processes)} with {num_processes} processes"
    return f"{seconds / 3600:.2f} accelerator-hours: {duration(seconds)}, {share}"


def memory_text(settings: AugmentSettings, base: Pin) -> str:
    """What the base model's weights need, before any is loaded. Raises `UserError`."""
    need = need_of(base, settings.safety_checker)
    if not need.weights:
        return "memory      unknown: the base model has no safetensors, so no run can load it"
    held = need.gigabytes(settings.dtype, settings.quantization)
    freed = sum(held.get(name, 0) for name in need.encoders)
    text = f"memory      {sum(held.values()):.2f} GB of weights in {settings.dtype}: {listed(held)}"
    text += f"; {sum(held.values()) - freed:.2f} once up to {MOST_PROMPTS - 1} prompts are encoded"
    if settings.cpu_offload == "model":
        text += f"; {max(held.values()):.2f} at once on the GPU, the rest in main memory"
    loaded = sum(need.gigabytes("float32", settings.quantization).values())
    text += f"; loading takes {loaded:.2f} GB of main memory per process; images come on top"
    if (room := gpu_room()) is not None:
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


def pilot_text(maker: RowMaker, sources: np.ndarray, trial: Trial | None) -> str:
    """How many images the pilot makes, and about how long that takes. What is estimated of the run
    holds for strengths that take turns. `sources`: as of `Scope`.
    """
    settings = maker.settings
    of_class = np.bincount(maker.inputs.split.labels[sources])
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
        return (
            f"{saliency_method(settings)} states no confidence: every mask is used{_hint(settings)}"
        )
    reasons = skip_reasons(plan)
    skipped = sum(count for reason, count in reasons.items() if is_low_confidence(reason))
    sources, targets = (plan[name].to_numpy() for name in ("source_index", "target_index"))
    untrusted = skipped + int((sources == targets).sum())
    text = f"{untrusted:,} of {len(plan):,} rows ({untrusted / len(plan):.1%}) have no trusted mask"
    return f"{text}: {settings.low_confidence}" if untrusted else text


def _hint(settings: AugmentSettings) -> str:
    if saliency_source(settings).needs != "column":
        return ""
    return " (soft masks that a model made: give --saliency_method predicted-column)"


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


def duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes else f"{seconds:.0f} s"
