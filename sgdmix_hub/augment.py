"""Maps SGD-Mix over a split, sharded over the processes of a launch, and writes a publishable
dataset.

    saliency maps (all ranks) -> plan (rank 0) -> shards (all ranks) -> repo/ (rank 0)

Every step is skipped when its files are there, so the same command continues a run that was
stopped. A dry run makes the maps, which are kept, and a plan, which is not. A rerun of a published
version takes its plan. With `push_to_hub` the finished repo/ is published.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from accelerate import PartialState

from sgdmix_hub.data.report import report_split, report_unusable
from sgdmix_hub.data.splits import Split
from sgdmix_hub.generation.dry_run import check_can_be_made, estimate_text, try_rows
from sgdmix_hub.generation.inputs import Inputs, check_resume, environment, resolve_inputs
from sgdmix_hub.generation.plan import make_plan, write_plan
from sgdmix_hub.generation.plan_file import PlanFile
from sgdmix_hub.generation.progress import Progress
from sgdmix_hub.generation.repository import BUILDING, build_repository, is_complete
from sgdmix_hub.generation.rerun import published_plan
from sgdmix_hub.generation.row_maker import RowMaker
from sgdmix_hub.generation.saliency_maps import SaliencyMaps, compute_backgrounds, compute_maps
from sgdmix_hub.generation.shards import Shards
from sgdmix_hub.generation.worker import make_shards
from sgdmix_hub.method.targets import Pools
from sgdmix_hub.publishing.dataset_card import read_prose
from sgdmix_hub.publishing.layout import check_share_skipped, manifest_path, shard_features
from sgdmix_hub.publishing.versions import (
    announcement,
    check_can_publish,
    check_inputs,
    publish_version,
)
from sgdmix_hub.runtime.launch import launch
from sgdmix_hub.runtime.ranks import on_rank_zero, say, start_processes
from sgdmix_hub.runtime.stopping import (
    POLL_SECONDS,
    forget_failure,
    lock_folder,
    stop_if_requested,
    wait_for_file,
)
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.method import apply_preset

from .files import read_json

DRY_RUN = "dry_run.parquet"  # a plan for a dry run, which removes it
PutPlan = Callable[[Callable[[Path], None]], None]


def main(settings: AugmentSettings) -> None:
    """One generation. Raises `UserError`, `TooManySkipped`, `Preempted`."""
    settings.validate()
    settings = apply_preset(settings)
    if settings.card is not None:
        read_prose(settings.card)
    state = start_processes(settings.num_threads)
    output = Path(settings.output_dir)
    with (
        lock_folder(output / "state", finished=output / "repo")
        if state.is_main_process
        else nullcontext()
    ):
        if state.is_main_process and not (output / "repo").exists():
            clear_attempt(output / "state")
        if settings.push_to_hub and not settings.dry_run:
            on_rank_zero(lambda: check_can_publish(settings, is_made=(output / "repo").exists()))
        inputs = resolve_inputs(settings, output / "state")
        report_split(settings, inputs.split)
        if settings.push_to_hub:
            check_inputs(inputs.pins, settings.allow_local_inputs)
        on_rank_zero(lambda: check_resume(settings, inputs, output / "state"))
        if on_rank_zero(lambda: is_complete(output / "repo", settings, inputs.pins)):
            say(f"augmented dataset: {output / 'repo'} is complete, nothing to do")
            finish(settings, output, state)
            return
        maps = compute_maps(
            settings,
            inputs.split,
            inputs.classifier,
            state.process_index,
            state.num_processes,
            state.device,
            inputs.segmenter,
        )
        report_unusable(inputs.split, maps.unusable)
        maker = RowMaker(settings, inputs, maps)
        if settings.dry_run:
            dry_run(settings, inputs.split, maker, output / "state", state)
            return
        shards = plan_shards(settings, inputs, maps, PlanFile(output / "state"), state)
        make_unfinished(settings, inputs, maker, shards, state)
        if state.is_main_process:
            if settings.inpainting_method == "diffusion":  # whose fillings the contact sheet shows
                maker.load_refiner(state.device)
            build_repository(settings, inputs, maker, shards, output)
        wait_for_file(output / "repo")
        finish(settings, output, state)


def clear_attempt(state_folder: Path) -> None:
    """Removes what a killed attempt was at."""
    shutil.rmtree(state_folder / BUILDING, ignore_errors=True)
    (state_folder / DRY_RUN).unlink(missing_ok=True)


def plan_shards(
    settings: AugmentSettings,
    inputs: Inputs,
    maps: SaliencyMaps,
    plan: PlanFile,
    state: PartialState,
) -> Shards:
    """The shards of the plan, which rank 0 takes from a published version or makes, once, and the
    others read.
    """
    if not on_rank_zero(plan.settle):
        published = on_rank_zero(lambda: published_plan(settings, inputs.pins, inputs.split))
        if published is None:
            make_plan_file(settings, inputs.split, maps, plan.put, state)
        elif state.is_main_process:
            plan.put(lambda temporary: shutil.copyfile(published, temporary))
    wait_for_file(plan.path)
    return Shards(plan.path.parent / "shards", plan.path, settings.rows_per_shard)


def make_plan_file(
    settings: AugmentSettings, split: Split, maps: SaliencyMaps, put: PutPlan, state: PartialState
) -> None:
    """The plan, which rank 0 puts in place; what all ranks have a part in is done before."""
    backgrounds = None
    if settings.selection_method == "novel-background":
        backgrounds = compute_backgrounds(
            settings, split, maps, state.process_index, state.num_processes
        )
    if not state.is_main_process:
        return
    fewest = Pools(split.labels[split.subset], settings.target_classes).smallest()
    if settings.num_candidates > fewest:
        say(
            f"warning: num_candidates {settings.num_candidates} is more than the {fewest} candidates that some images have: "
            "all of theirs are taken"
        )
    put(lambda path: write_plan(path, make_plan(settings, split, maps, backgrounds)))


def dry_run(
    settings: AugmentSettings,
    split: Split,
    maker: RowMaker,
    state_folder: Path,
    state: PartialState,
) -> None:
    """Says what a run would make of the settings; where one has begun, what is left of it."""
    plan, tried = PlanFile(state_folder), state_folder / DRY_RUN
    whole = on_rank_zero(plan.is_whole)
    if not whole:
        make_plan_file(settings, split, maker.maps, lambda write: write(tried), state)
    if state.is_main_process:
        shards = Shards(
            state_folder / "shards", plan.path if whole else tried, settings.rows_per_shard
        )
        unfinished = shards.unfinished()
        maker.load_refiner(state.device)
        trial = try_rows(maker, shards, unfinished)
        say(estimate_text(shards, unfinished, trial, maker, state.num_processes))
        tried.unlink(missing_ok=True)
        check_can_be_made(shards, unfinished, trial)


def make_unfinished(
    settings: AugmentSettings, inputs: Inputs, maker: RowMaker, shards: Shards, state: PartialState
) -> None:
    """Makes this rank's share of the unfinished shards, then rank 0 waits for the others; its bar
    counts the rows of all.
    """
    unfinished = on_rank_zero(shards.drop_unfinished)
    mine = unfinished[state.process_index :: state.num_processes]
    features = shard_features(inputs.split.class_names)
    if mine:
        maker.load_refiner(state.device)

    def write(number: int, rows: list[dict], skipped: list[dict], seconds: float) -> None:
        shards.write(
            number,
            rows,
            features,
            {"skipped": skipped, "seconds": seconds, "environment": environment(settings)},
        )

    with Progress(shards, unfinished, mine, shown=state.is_main_process) as progress:
        make_shards(
            maker,
            ((number, shards.rows(number)) for number in mine),
            settings.num_workers,
            write,
            progress.advance,
        )
        while state.is_main_process and not progress.all_recorded():
            stop_if_requested()
            time.sleep(POLL_SECONDS)


def finish(settings: AugmentSettings, output: Path, state: PartialState) -> None:
    """Publishes where that is asked for, and forgets the failure of an earlier attempt, if that is
    over. Raises `TooManySkipped`, with nothing published, and `UserError`.
    """
    check_skipped(settings, output / "repo")
    if settings.push_to_hub:
        pin = on_rank_zero(lambda: publish_version(output, settings, settings.max_skipped))
        say(announcement(pin, settings.tag))
    if state.is_main_process:
        forget_failure(output / "state")


def check_skipped(settings: AugmentSettings, repo: Path) -> None:
    """Raises `TooManySkipped` when more rows were skipped than the settings allow."""
    path = manifest_path(repo, settings)
    check_share_skipped(read_json(path), settings.max_skipped, path)


if __name__ == "__main__":
    launch(main, AugmentSettings)
