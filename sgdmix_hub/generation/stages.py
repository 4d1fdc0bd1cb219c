"""The stages of a generation between its inputs and `repo/`: the plan, a dry run, the shards."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from sgdmix_hub.errors import UserError
from sgdmix_hub.files import DamagedFile
from sgdmix_hub.method.pools import Pools
from sgdmix_hub.output_folder import OutputFolder
from sgdmix_hub.publishing.layout import shard_features
from sgdmix_hub.runtime.ranks import Rank, on_rank_zero, say
from sgdmix_hub.runtime.stopping import POLL_SECONDS, RERUN, stop_if_requested, wait_for_file
from sgdmix_hub.settings.fetched import STRENGTHS
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.storage.stores import Store

from .background_features import compute_backgrounds, joined_backgrounds
from .claims import claims
from .dry_run import check_can_be_made, estimate_text, scope_of, scope_of_sample, try_rows
from .extent import free_room
from .inputs import Inputs, environment
from .maps_begun import MapsBegun
from .pilot import pilot_classifier, pilot_strengths, table_strengths, with_strengths
from .plan import plan_parts, write_plan
from .plan_file import PlanFile
from .progress import Progress
from .rerun import published_plan
from .row_maker import RowMaker
from .shards import Shards
from .worker import make_shards

logger = logging.getLogger(__name__)
PutPlan = Callable[[Callable[[Path], None]], None]
MOST_NAMED = 3  # shards in a message
AFTER_SHARDS = ("files", "finish")


def plan_shards(
    settings: AugmentSettings, maker: RowMaker, output: OutputFolder, store: Store, rank: Rank
) -> Shards:
    """The shards of the plan. Rank 0 takes the plan from a published version or makes it, once; the
    others wait for the file.
    """
    plan = PlanFile(output, store)
    if not on_rank_zero(lambda: plan.settle() and has_strengths(settings, output, store)):
        inputs, bank_rows = maker.inputs, None if maker.bank is None else maker.bank.count
        published = on_rank_zero(
            lambda: published_plan(settings, inputs.pins, inputs.split, bank_rows)
        )
        if published is None:
            make_plan_file(settings, maker, output, store, plan.put, rank)
        elif rank.is_main_process:
            if settings.strength_choice is not None:
                copy(published.with_name(STRENGTHS), output.strengths)
                store.keep(output.strengths)
            plan.put(lambda temporary: copy(published, temporary))
    wait_for_file(plan.path)
    return _opened(settings, output, plan.path, store)


def planned_shards(settings: AugmentSettings, output: OutputFolder, store: Store) -> Shards:
    """The shards of a plan that the stage `plan` has made. Raises `UserError`."""
    plan = PlanFile(output, store)
    if not on_rank_zero(plan.is_whole):
        raise UserError(
            f"{output} holds no whole plan: run the same command with --stage plan first"
        )
    return _opened(settings, output, plan.path, store)


def _opened(
    settings: AugmentSettings, output: OutputFolder, plan_path: Path, store: Store
) -> Shards:
    """The shards of a plan, where this version looks for them. Raises `UserError`."""
    shards = Shards(output.shards, plan_path, settings.rows_per_shard, store)
    on_rank_zero(lambda: shards.files.settle(store))
    return shards


def copy(source: Path, target: Path) -> None:
    """Copies a file's content."""
    shutil.copyfile(source, target)


def has_strengths(settings: AugmentSettings, output: OutputFolder, store: Store) -> bool:
    """Whether the table of a pilot is there, if the settings ask for one."""
    if settings.strength_choice is None:
        return True
    return store.bring(output.strengths) and table_strengths(output.strengths) is not None


def make_plan_file(
    settings: AugmentSettings,
    maker: RowMaker,
    output: OutputFolder,
    store: Store,
    put: PutPlan,
    rank: Rank,
) -> None:
    """Makes the plan on rank 0. All ranks compute the backgrounds and the pilot it needs first.

    In a dry run there is no pilot: strengths take turns.
    """
    split, maps, bank = maker.inputs.split, maker.maps, maker.bank
    backgrounds = None
    if settings.selection_method == "novel-background":
        backgrounds = compute_backgrounds(settings, split, maps, rank.index, rank.count, store)
        if bank is not None:
            backgrounds = joined_backgrounds(backgrounds, bank, rank, store)

    def draft() -> Iterator[pa.Table]:
        return plan_parts(settings, split, maps, backgrounds, bank)

    chosen = None
    if settings.strength_choice is not None and not settings.dry_run:
        chosen = pilot_strengths(maker, draft, output, store, rank)
    if not rank.is_main_process:
        return
    assert settings.target_classes is not None  # the preset is applied
    fewest = Pools(split.labels[split.subset], settings.target_classes).smallest()
    if bank is not None:
        fewest = bank.count
    if settings.num_candidates > fewest:
        logger.warning(
            f"num_candidates {settings.num_candidates} is more than the {fewest} candidates that "
            "some images have: these use all of theirs"
        )
    parts = draft() if chosen is None else with_strengths(maker, draft, chosen)
    put(lambda path: write_plan(path, parts))


def dry_run(
    settings: AugmentSettings,
    found: RowMaker | MapsBegun,
    output: OutputFolder,
    store: Store,
    rank: Rank,
) -> None:
    """Prints what a run would make, or what is left of one that has begun. `found`: as of
    `begin_maps`.
    """
    plan, tried = PlanFile(output, store), output.dry_run_plan
    whole = on_rank_zero(plan.is_whole)
    begun, maker = (None, found) if isinstance(found, RowMaker) else (found, found.maker)
    if begun is not None:
        if rank.is_main_process:
            split = maker.inputs.split
            write_plan(tried, plan_parts(maker.settings, split, maker.maps, bank=maker.bank))
    elif not whole:
        make_plan_file(settings, maker, output, store, lambda write: write(tried), rank)
    if rank.is_main_process:
        path = plan.path if whole else tried
        shards = Shards(output.shards, path, settings.rows_per_shard, store)
        if begun is None:
            shards.files.settle(store)
            unfinished = shards.unfinished()
            scope = scope_of(shards, unfinished)
        else:
            unfinished = list(range(len(shards)))
            scope = scope_of_sample(shards, begun)
        maker.load_models(rank.device)
        if settings.strength_choice is not None:
            pilot_classifier(maker, rank.device)  # tells whether it can be used
        trial = try_rows(maker, shards, unfinished)
        room = None if store.is_remote else free_room(output.path)
        say(estimate_text(scope, trial, maker, rank.count, room))
        tried.unlink(missing_ok=True)
        check_can_be_made(shards, unfinished, trial)


def make_unfinished(
    settings: AugmentSettings, inputs: Inputs, maker: RowMaker, shards: Shards, rank: Rank
) -> None:
    """Makes this rank's share of the unfinished shards. Rank 0 then waits for the others, and its
    progress bar counts everyone's rows.
    """
    unfinished = on_rank_zero(shards.drop_unfinished)
    mine = unfinished[rank.index :: rank.count]
    if mine:
        maker.load_models(rank.device)
    with Progress(shards, unfinished, mine, shown=rank.is_main_process) as progress:
        _make(settings, inputs, maker, shards, iter(mine), progress)
        while rank.is_main_process and not progress.all_recorded():
            stop_if_requested()
            time.sleep(POLL_SECONDS)


def place_of(settings: AugmentSettings, rank: Rank) -> tuple[int, int]:
    """This process's place among those of all workers' launches, and their number."""
    return settings.rank * rank.count + rank.index, settings.world_size * rank.count


def make_claimed(
    settings: AugmentSettings, inputs: Inputs, maker: RowMaker, shards: Shards, rank: Rank
) -> None:
    """Makes shards as one of several workers that share nothing but the store: its own share, then
    what the others have not made yet. Its progress bar counts everyone's rows.
    """
    place, world_size = place_of(settings, rank)
    unfinished = sorted(set(range(len(shards))) - shards.recorded())
    with Progress(shards, unfinished, [], shown=rank.is_main_process) as progress:

        def claimed() -> Iterator[int]:
            for number in claims(
                len(shards), place, world_size, shards.recorded, shards.is_recorded
            ):
                maker.load_models(rank.device)
                progress.others.discard(number)
                yield number

        _make(settings, inputs, maker, shards, claimed(), progress)


def _make(
    settings: AugmentSettings,
    inputs: Inputs,
    maker: RowMaker,
    shards: Shards,
    numbers: Iterator[int],
    progress: Progress,
) -> None:
    schema = shard_features(inputs.split.class_names, settings.more_columns).arrow_schema

    def write(number: int, rows: list[dict], skipped: list[dict], seconds: float) -> None:
        facts = {"skipped": skipped, "seconds": seconds, "environment": environment(settings)}
        shards.write(number, rows, schema, facts)

    make_shards(
        maker,
        ((number, shards.rows(number)) for number in numbers),
        settings.num_workers,
        write,
        progress.advance,
    )


@contextmanager
def naming_stages(stage: str) -> Generator[None]:
    """Tells which stage makes a damaged shard again, where the stage that found it does not. Raises
    `UserError`.
    """
    try:
        yield
    except DamagedFile as damage:
        if stage not in AFTER_SHARDS:
            raise
        raise UserError(f"{damage.what}: {shards_first(stage)}") from None


def shards_first(stage: str) -> str:
    """What to do when a stage finds that shards are missing."""
    if stage not in AFTER_SHARDS:
        return RERUN
    return f"run the same command with --stage shards, then with --stage {stage}"


def check_finished(shards: Shards, stage: str) -> None:
    """Raises `UserError` if a shard is missing or its record damaged; it can then be made again.
    Tells if different devices have made them. Who puts a shard into a file compares its bytes.
    """
    unfinished = shards.drop_unfinished(by_bytes=False)
    if unfinished:
        named = ", ".join(map(str, unfinished[:MOST_NAMED]))
        more = " ..." if len(unfinished) > MOST_NAMED else ""
        raise UserError(
            f"{len(unfinished)} of {len(shards)} shards are not finished ({named}{more}): "
            f"{shards_first(stage)}"
        )
    devices: dict[str, int] = {}
    for number in range(len(shards)):
        device = shards.record(number)["environment"]["device"]
        devices[device] = devices.get(device, 0) + 1
    if len(devices) > 1:
        made = ", ".join(f"{count} on {device}" for device, count in sorted(devices.items()))
        logger.warning(f"shards were made on different devices ({made}): images differ by rounding")
