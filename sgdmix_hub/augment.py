"""Maps SGD-Mix over a split, sharded over the processes of a launch, and writes a publishable dataset.

    saliency maps (all ranks) -> plan (rank 0) -> shards (all ranks) -> repo/ (rank 0)

Every step is skipped when its files are there, so the same command continues a run that was stopped.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path

from accelerate import PartialState
from tqdm.auto import tqdm

from .backgrounds import compute_backgrounds
from .config import AugmentSettings, apply_preset
from .data import Split
from .inputs import Inputs, check_resume, environment, resolve_inputs
from .processes import (
    POLL_SECONDS,
    TooManySkipped,
    launch,
    lock_folder,
    on_rank_zero,
    read_json,
    say,
    start_processes,
    stop_if_requested,
    wait_for_file,
)
from .repository import build_repository, is_complete, manifest_path
from .rows import RowMaker
from .saliency_store import SaliencyMaps, compute_maps
from .shards import Shards, make_plan, shard_features, write_plan
from .targets import Pools


def main(settings: AugmentSettings) -> None:
    """One generation. Raises `UserError`, `TooManySkipped`, `Preempted`."""
    settings = apply_preset(settings)
    state = start_processes(settings.num_threads)
    output = Path(settings.output_dir)
    with lock_folder(output / "state") if state.is_main_process else nullcontext():
        inputs = resolve_inputs(settings, output / "state")
        on_rank_zero(lambda: check_resume(settings, inputs, output / "state"))
        if on_rank_zero(lambda: is_complete(output / "repo", settings, inputs.pins)):
            say(f"augmented dataset: {output / 'repo'} is complete, nothing to do")
            finish(settings, output, state)
            return
        maps = compute_maps(settings, inputs.split, inputs.classifier, state.process_index, state.num_processes, state.device)
        shards = plan_shards(settings, inputs.split, maps, output / "state", state)
        maker = RowMaker(settings, inputs, maps, state.device)
        make_shards(settings, inputs, maker, shards, state)
        if state.is_main_process:
            build_repository(settings, inputs, maker, shards, output)
        wait_for_file(output / "repo")
        finish(settings, output, state)


def plan_shards(settings: AugmentSettings, split: Split, maps: SaliencyMaps, state_folder: Path, state: PartialState) -> Shards:
    """The shards of the plan, which rank 0 makes once and the others read."""
    path = state_folder / "plan.parquet"
    backgrounds = None
    if settings.selection_method == "novel-background" and not path.exists():
        backgrounds = compute_backgrounds(settings, split, maps, state.process_index, state.num_processes)
    if state.is_main_process and not path.exists():
        fewest = Pools(split.labels[split.subset], settings.target_classes).smallest()
        if settings.num_candidates > fewest:
            say(
                f"warning: num_candidates {settings.num_candidates} is more than the {fewest} candidates that some images have: "
                "all of theirs are taken"
            )
        write_plan(path, make_plan(settings, split, maps, backgrounds))
    wait_for_file(path)
    return Shards(state_folder / "shards", path, settings.rows_per_shard)


def make_shards(settings: AugmentSettings, inputs: Inputs, maker: RowMaker, shards: Shards, state: PartialState) -> None:
    """Makes this rank's share of the unfinished shards, then rank 0 waits for the others; its bar counts the rows of all."""
    unfinished = on_rank_zero(shards.unfinished)
    sizes = {number: len(shards.rows(number)) for number in unfinished}
    mine = unfinished[state.process_index :: state.num_processes]
    features = shard_features(inputs.split.class_names)
    if mine:
        maker.load_refiner()
    with tqdm(total=sum(sizes.values()), desc="sgd-mix", unit="image", disable=not state.is_main_process) as bar:

        def show(rows_in_flight: int) -> None:
            if not state.is_main_process:
                return
            finished = sum(size for number, size in sizes.items() if shards.is_recorded(number))
            bar.update(max(finished + rows_in_flight - bar.n, 0))

        for number in mine:
            in_flight = 0

            def advance(rows: int) -> None:
                nonlocal in_flight
                in_flight += rows
                stop_if_requested()
                show(in_flight)

            started = time.monotonic()
            rows, skipped = maker.make(shards.rows(number), advance)
            facts = {"skipped": skipped, "seconds": time.monotonic() - started, "environment": environment(settings)}
            shards.write(number, rows, features, facts)
        while state.is_main_process and not all(shards.is_recorded(number) for number in unfinished):
            stop_if_requested()
            show(0)
            time.sleep(POLL_SECONDS)
        show(0)


def finish(settings: AugmentSettings, output: Path, state: PartialState) -> None:
    """Forgets the failure of an earlier attempt, if that is over. Raises `TooManySkipped`."""
    check_skipped(settings, output / "repo")
    if state.is_main_process:
        (output / "state" / "error.json").unlink(missing_ok=True)


def check_skipped(settings: AugmentSettings, repo: Path) -> None:
    """Raises `TooManySkipped` when more rows were skipped than the settings allow."""
    path = manifest_path(repo, settings)
    manifest = read_json(path)
    skipped, planned = len(manifest["skipped"]), manifest["planned_rows"]
    if skipped > settings.max_skipped * planned:
        raise TooManySkipped(
            f"{skipped} of {planned} rows were skipped, more than max_skipped {settings.max_skipped:g} allows: "
            f"their reasons are in {path}; everything else was written"
        )


if __name__ == "__main__":
    launch(main, AugmentSettings)
