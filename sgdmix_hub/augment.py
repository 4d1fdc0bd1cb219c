"""Applies SGD-Mix to a split, on all processes of a launch, and writes a publishable dataset.

    saliency maps (all ranks) -> plan (rank 0) -> shards (all ranks) -> repo/ (rank 0)

A step is skipped if its files exist, so the same command resumes a stopped run. A dry run makes
maps for two minutes and keeps them, but not its plan. A rerun of a published version takes that
version's plan. With `push_to_hub` the finished repo/ is published.

With `--stage`, each step is a program of its own, for machines that share nothing but `output_dir`,
which may be in an object store:

    --stage maps (any number of workers) -> plan (one) -> shards (any number) -> files (any number)
    -> finish (one); maps and files may be left out
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from sgdmix_hub.data.report import report_split, report_unusable
from sgdmix_hub.files import write_sealed
from sgdmix_hub.generation.bank import compute_bank
from sgdmix_hub.generation.dry_run import memory_text
from sgdmix_hub.generation.inputs import Inputs, check_resume, resolve_inputs
from sgdmix_hub.generation.maps_begun import begin_maps
from sgdmix_hub.generation.plan_file import bring_run, has_begun
from sgdmix_hub.generation.published_files import PublishedFiles
from sgdmix_hub.generation.repository import base_licence, build_repository, is_complete
from sgdmix_hub.generation.row_maker import RowMaker
from sgdmix_hub.generation.saliency_maps import compute_map_blocks, compute_maps
from sgdmix_hub.generation.shards import Shards
from sgdmix_hub.generation.stages import (
    check_finished,
    dry_run,
    make_claimed,
    make_unfinished,
    naming_stages,
    place_of,
    plan_shards,
    planned_shards,
)
from sgdmix_hub.hub.licences import licence_line
from sgdmix_hub.hub.manifests import read_manifest
from sgdmix_hub.output_folder import OutputFolder
from sgdmix_hub.publishing.dataset_card import read_prose
from sgdmix_hub.publishing.layout import RepoLayout, check_share_skipped
from sgdmix_hub.publishing.sending_ahead import stage_files
from sgdmix_hub.publishing.versions import (
    announcement,
    check_can_publish,
    check_inputs,
    publish_version,
)
from sgdmix_hub.runtime.launch import launch
from sgdmix_hub.runtime.output import opened_output
from sgdmix_hub.runtime.ranks import Rank, on_rank_zero, say, start_processes
from sgdmix_hub.runtime.stopping import forget_failure, wait_for_file
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.mask_source import masks_line
from sgdmix_hub.settings.presets import apply_preset
from sgdmix_hub.settings.stages import WORKERS
from sgdmix_hub.storage.stores import Store

from .errors import UserError, one_line

AFTER_PLAN = ("shards", "files", "finish")


def main(settings: AugmentSettings) -> None:
    """One generation, or one stage of it. Raises `UserError`, `TooManySkipped`, `Preempted`."""
    settings.validate()
    settings = apply_preset(settings)
    if settings.card is not None:
        read_prose(settings.card)
    rank = start_processes(settings.num_threads)
    by_need = settings.stage in ("shards", "finish")
    is_worker = settings.stage in WORKERS
    with opened_output(settings.output_dir, "shards", rank, is_worker, by_need) as (output, store):
        with naming_stages(settings.stage):
            generate(replace(settings, output_dir=str(output)), output, store, rank)
        if rank.is_main_process and not settings.dry_run:
            forget_failure(output.state, settings.error_name)


def generate(settings: AugmentSettings, output: OutputFolder, store: Store, rank: Rank) -> None:
    """Does the stage that the settings name, or all of them, in the output folder."""
    inputs = begin(settings, output, store, rank)
    if on_rank_zero(lambda: is_complete(output, settings, inputs.pins, store)):
        say(f"augmented dataset: {output.repo} is complete, nothing to do")
        finish(settings, output, store, rank)
    elif settings.stage == "maps":
        compute_map_blocks(settings, inputs.split, inputs.classifier, rank, inputs.segmenter, store)
        say("saliency maps: all blocks are made; --stage plan puts them together")
    elif settings.stage == "files":
        make_files(settings, output, store, rank)
        say("files: all are made; next, once: --stage finish")
    else:
        if settings.dry_run and not on_rank_zero(lambda: has_begun(output.state)):
            dry_run(settings, begin_maps(settings, inputs, store, rank), output, store, rank)
            return
        maker = row_maker(settings, inputs, store, rank)
        do = dry_run if settings.dry_run else make
        do(settings, maker, output, store, rank)


def begin(settings: AugmentSettings, output: OutputFolder, store: Store, rank: Rank) -> Inputs:
    """The pinned inputs, which are those of the run that has begun here. Tells about them.

    Raises `UserError` if this run cannot go on with them, or has no plan for its stage.
    """
    if rank.is_main_process and settings.stage not in WORKERS and not output.repo.exists():
        clear_attempt(output)
    if settings.push_to_hub and not settings.dry_run:
        manifest = output.repo / RepoLayout(settings.config_name).manifest
        on_rank_zero(lambda: check_can_publish(settings, is_made=store.bring(manifest)))
    has_plan = on_rank_zero(lambda: bring_run(output.state, store))
    if settings.stage in AFTER_PLAN and not has_plan:
        raise UserError(f"{output} holds no plan: run the same command with --stage plan first")
    inputs = resolve_inputs(settings, output.state)
    report_split(settings, inputs.split)
    say(masks_line(settings, inputs.metaclass))
    tell_licence(inputs)
    if settings.dry_run and inputs.base is not None:
        base = inputs.base
        say(on_rank_zero(lambda: memory_text(settings, base)))
    if inputs.bank is not None:
        say(one_line(f"backgrounds: {len(inputs.bank.subset)} images of {inputs.bank.pin.name}"))
    if settings.push_to_hub:
        check_inputs(inputs.pins, settings.allow_local_inputs)
    if settings.stage != "maps":
        on_rank_zero(lambda: check_resume(settings, inputs, output.state, store))
    return inputs


def row_maker(settings: AugmentSettings, inputs: Inputs, store: Store, rank: Rank) -> RowMaker:
    """What makes rows, with the saliency maps that it needs. A collective."""
    maps = compute_maps(
        settings,
        inputs.split,
        inputs.classifier,
        rank.index,
        rank.count,
        rank.device,
        inputs.segmenter,
        store,
    )
    report_unusable(inputs.split, maps.unusable)
    bank = None
    if inputs.bank is not None:
        bank = compute_bank(settings, inputs.split, inputs.bank, inputs.segmenter, rank, store)
        report_unusable(bank.split, bank.maps.unusable)
    return RowMaker(settings, inputs, maps, bank=bank)


def make(
    settings: AugmentSettings, maker: RowMaker, output: OutputFolder, store: Store, rank: Rank
) -> None:
    """Plan, shards and `repo/`, or the one of them that is the stage."""
    stage, inputs = settings.stage, maker.inputs
    if stage in ("all", "plan"):
        shards = plan_shards(settings, maker, output, store, rank)
    else:
        shards = planned_shards(settings, output, store)
    if stage == "plan":
        say(f"plan: {shards.num_rows:,} rows in {len(shards):,} shards; next: --stage shards")
        return
    if stage == "all" and store.is_remote:
        on_rank_zero(shards.drop_unfinished)
    if stage == "shards" or (stage == "all" and store.is_remote):
        make_claimed(settings, inputs, maker, shards, rank)
    elif stage == "all":
        make_unfinished(settings, inputs, maker, shards, rank)
    if stage == "shards":
        say("shards: all are made; next, once: --stage finish")
        return
    if rank.is_main_process and (stage == "finish" or store.is_remote):
        check_finished(shards, stage)
    files = files_of_all(settings, shards, output, store, rank)
    if rank.is_main_process:
        if settings.inpainting_method == "diffusion":  # for the contact sheet
            maker.load_refiner(rank.device)
        build_repository(settings, inputs, maker.maps, maker, files, output, store)
    wait_for_file(output.repo)
    finish(settings, output, store, rank)


def make_files(settings: AugmentSettings, output: OutputFolder, store: Store, rank: Rank) -> None:
    """A worker's share of the published files, which go ahead to the Hub with `push_to_hub`. Raises
    `UserError` before all shards are made.
    """
    shards = planned_shards(settings, output, store)
    on_rank_zero(lambda: check_finished(shards, settings.stage))
    files = PublishedFiles(shards, RepoLayout(settings.config_name), output, store)
    place = place_of(settings, rank)
    files.make_claimed(*place)
    if settings.push_to_hub:
        stage_files(settings, files.stored(*place))


def files_of_all(
    settings: AugmentSettings, shards: Shards, output: OutputFolder, store: Store, rank: Rank
) -> PublishedFiles:
    """The published files. If they are many, the ranks of a launch have made and hashed them."""
    if rank.count > 1:
        if rank.is_main_process:
            write_sealed(output.all_made, {})
        wait_for_file(output.all_made)
    files = PublishedFiles(shards, RepoLayout(settings.config_name), output, store)
    if rank.count > 1 and files.are_many:
        files.make_share(rank.index, rank.count)
    return files


def tell_licence(inputs: Inputs) -> None:
    """Prints what the base model's licence says, of outputs too."""
    base = inputs.base
    if base is not None:
        say(licence_line(base, on_rank_zero(lambda: base_licence(inputs))))


def clear_attempt(output: OutputFolder) -> None:
    """Removes the unfinished files of a killed attempt."""
    shutil.rmtree(output.building, ignore_errors=True)
    output.dry_run_plan.unlink(missing_ok=True)
    output.all_made.unlink(missing_ok=True)


def finish(settings: AugmentSettings, output: OutputFolder, store: Store, rank: Rank) -> None:
    """Publishes with `push_to_hub`, and clears error.json of an earlier attempt.

    Raises `UserError`, and `TooManySkipped` before anything is published.
    """
    check_skipped(settings, output.repo)
    if settings.push_to_hub and settings.stage != "files":
        assert settings.tag is not None  # checked by `validate`
        pin = on_rank_zero(
            lambda: publish_version(output.path, settings, settings.max_skipped, store=store)
        )
        say(announcement(pin, settings.tag))


def check_skipped(settings: AugmentSettings, repo: Path) -> None:
    """Raises `TooManySkipped` if more rows were skipped than the settings allow."""
    path = repo / RepoLayout(settings.config_name).manifest
    check_share_skipped(read_manifest(path), settings.max_skipped, path)


if __name__ == "__main__":
    launch(main, AugmentSettings)
