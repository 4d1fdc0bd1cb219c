"""Applies SGD-Mix to a split, on all processes of a launch, and writes a publishable dataset.

    saliency maps (all ranks) -> plan (rank 0) -> shards (all ranks) -> repo/ (rank 0)

A step is skipped if its files exist, so the same command resumes a stopped run. A dry run keeps the
maps it makes, but not its plan. A rerun of a published version takes that version's plan. With
`push_to_hub` the finished repo/ is published.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from sgdmix_hub.data.report import report_split, report_unusable
from sgdmix_hub.generation.bank import compute_bank, joined_backgrounds
from sgdmix_hub.generation.dry_run import (
    check_can_be_made,
    estimate_text,
    memory_text,
    try_rows,
)
from sgdmix_hub.generation.inputs import Inputs, check_resume, environment, resolve_inputs
from sgdmix_hub.generation.plan import make_plan, write_plan
from sgdmix_hub.generation.plan_file import PlanFile
from sgdmix_hub.generation.progress import Progress
from sgdmix_hub.generation.repository import base_licence, build_repository, is_complete
from sgdmix_hub.generation.rerun import published_plan
from sgdmix_hub.generation.row_maker import RowMaker
from sgdmix_hub.generation.saliency_maps import compute_backgrounds, compute_maps
from sgdmix_hub.generation.shards import Shards
from sgdmix_hub.generation.worker import make_shards
from sgdmix_hub.hub.licences import licence_line
from sgdmix_hub.method.targets import Pools
from sgdmix_hub.output_folder import OutputFolder
from sgdmix_hub.publishing.dataset_card import read_prose
from sgdmix_hub.publishing.layout import RepoLayout, check_share_skipped, shard_features
from sgdmix_hub.publishing.versions import (
    announcement,
    check_can_publish,
    check_inputs,
    publish_version,
)
from sgdmix_hub.runtime.launch import launch
from sgdmix_hub.runtime.ranks import Rank, on_rank_zero, say, start_processes
from sgdmix_hub.runtime.stopping import (
    POLL_SECONDS,
    forget_failure,
    lock_folder,
    stop_if_requested,
    wait_for_file,
)
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.mask_source import masks_line
from sgdmix_hub.settings.presets import apply_preset

from .errors import one_line
from .files import read_json

logger = logging.getLogger("sgdmix_hub.augment")
PutPlan = Callable[[Callable[[Path], None]], None]


def main(settings: AugmentSettings) -> None:
    """One generation. Raises `UserError`, `TooManySkipped`, `Preempted`."""
    settings.validate()
    settings = apply_preset(settings)
    if settings.card is not None:
        read_prose(settings.card)
    rank = start_processes(settings.num_threads)
    output = OutputFolder(settings.output_dir)
    with lock_folder(output.state, finished=output.repo):
        if rank.is_main_process and not output.repo.exists():
            clear_attempt(output)
        if settings.push_to_hub and not settings.dry_run:
            on_rank_zero(lambda: check_can_publish(settings, is_made=output.repo.exists()))
        inputs = resolve_inputs(settings, output.state)
        report_split(settings, inputs.split)
        say(masks_line(settings, inputs.metaclass))
        tell_licence(inputs)
        if settings.dry_run and inputs.base is not None:
            base = inputs.base
            say(on_rank_zero(lambda: memory_text(settings, base)))
        if inputs.bank is not None:
            say(
                one_line(f"backgrounds: {len(inputs.bank.subset)} images of {inputs.bank.pin.name}")
            )
        if settings.push_to_hub:
            check_inputs(inputs.pins, settings.allow_local_inputs)
        on_rank_zero(lambda: check_resume(settings, inputs, output.state))
        if on_rank_zero(lambda: is_complete(output, settings, inputs.pins)):
            say(f"augmented dataset: {output.repo} is complete, nothing to do")
            finish(settings, output, rank)
            return
        maps = compute_maps(
            settings,
            inputs.split,
            inputs.classifier,
            rank.index,
            rank.count,
            rank.device,
            inputs.segmenter,
        )
        report_unusable(inputs.split, maps.unusable)
        bank = None
        if inputs.bank is not None:
            bank = compute_bank(settings, inputs.split, inputs.bank, inputs.segmenter, rank)
            report_unusable(bank.split, bank.maps.unusable)
        maker = RowMaker(settings, inputs, maps, bank=bank)
        if settings.dry_run:
            dry_run(settings, maker, output, rank)
            return
        shards = plan_shards(settings, maker, output, rank)
        make_unfinished(settings, inputs, maker, shards, rank)
        if rank.is_main_process:
            if settings.inpainting_method == "diffusion":  # for the contact sheet
                maker.load_refiner(rank.device)
            build_repository(settings, inputs, maps, maker, shards, output)
        wait_for_file(output.repo)
        finish(settings, output, rank)


def tell_licence(inputs: Inputs) -> None:
    """Prints what the base model's licence says, of outputs too."""
    base = inputs.base
    if base is not None:
        say(licence_line(base, on_rank_zero(lambda: base_licence(inputs))))


def clear_attempt(output: OutputFolder) -> None:
    """Removes the unfinished files of a killed attempt."""
    shutil.rmtree(output.building, ignore_errors=True)
    output.dry_run_plan.unlink(missing_ok=True)


def plan_shards(
    settings: AugmentSettings,
    maker: RowMaker,
    output: OutputFolder,
    rank: Rank,
) -> Shards:
    """The shards of the plan. Rank 0 takes the plan from a published version or makes it, once; the
    others wait for the file.
    """
    plan = PlanFile(output)
    if not on_rank_zero(plan.settle):
        inputs, bank_rows = maker.inputs, None if maker.bank is None else maker.bank.count
        published = on_rank_zero(
            lambda: published_plan(settings, inputs.pins, inputs.split, bank_rows)
        )
        if published is None:
            make_plan_file(settings, maker, plan.put, rank)
        elif rank.is_main_process:
            plan.put(lambda temporary: copy(published, temporary))
    wait_for_file(plan.path)
    return Shards(output.shards, plan.path, settings.rows_per_shard)


def copy(source: Path, target: Path) -> None:
    """Copies a file's content."""
    shutil.copyfile(source, target)


def make_plan_file(settings: AugmentSettings, maker: RowMaker, put: PutPlan, rank: Rank) -> None:
    """Makes the plan on rank 0. All ranks compute the backgrounds it needs first."""
    split, maps, bank = maker.inputs.split, maker.maps, maker.bank
    backgrounds = None
    if settings.selection_method == "novel-background":
        backgrounds = compute_backgrounds(settings, split, maps, rank.index, rank.count)
        if bank is not None:
            backgrounds = joined_backgrounds(backgrounds, bank, rank)
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
    put(lambda path: write_plan(path, make_plan(settings, split, maps, backgrounds, bank)))


def dry_run(settings: AugmentSettings, maker: RowMaker, output: OutputFolder, rank: Rank) -> None:
    """Prints what a run would make, or what is left of one that has begun."""
    plan, tried = PlanFile(output), output.dry_run_plan
    whole = on_rank_zero(plan.is_whole)
    if not whole:
        make_plan_file(settings, maker, lambda write: write(tried), rank)
    if rank.is_main_process:
        shards = Shards(output.shards, plan.path if whole else tried, settings.rows_per_shard)
        unfinished = shards.unfinished()
        maker.load_models(rank.device)
        trial = try_rows(maker, shards, unfinished)
        say(estimate_text(shards, unfinished, trial, maker, rank.count))
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
    features = shard_features(inputs.split.class_names, settings.more_columns)
    if mine:
        maker.load_models(rank.device)

    def write(number: int, rows: list[dict], skipped: list[dict], seconds: float) -> None:
        facts = {"skipped": skipped, "seconds": seconds, "environment": environment(settings)}
        shards.write(number, rows, features, facts)

    with Progress(shards, unfinished, mine, shown=rank.is_main_process) as progress:
        make_shards(
            maker,
            ((number, shards.rows(number)) for number in mine),
            settings.num_workers,
            write,
            progress.advance,
        )
        while rank.is_main_process and not progress.all_recorded():
            stop_if_requested()
            time.sleep(POLL_SECONDS)


def finish(settings: AugmentSettings, output: OutputFolder, rank: Rank) -> None:
    """Publishes with `push_to_hub`, and clears error.json of an earlier attempt.

    Raises `UserError`, and `TooManySkipped` before anything is published.
    """
    check_skipped(settings, output.repo)
    if settings.push_to_hub:
        assert settings.tag is not None  # checked by `validate`
        pin = on_rank_zero(lambda: publish_version(output.path, settings, settings.max_skipped))
        say(announcement(pin, settings.tag))
    if rank.is_main_process:
        forget_failure(output.state)


def check_skipped(settings: AugmentSettings, repo: Path) -> None:
    """Raises `TooManySkipped` if more rows were skipped than the settings allow."""
    path = repo / RepoLayout(settings.config_name).manifest
    check_share_skipped(read_json(path), settings.max_skipped, path)


if __name__ == "__main__":
    launch(main, AugmentSettings)
