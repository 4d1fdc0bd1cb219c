"""Scores every row of an augmented dataset with a classifier trained on real images, the judge.

    embeddings of sources and synthetic images -> scores -> evaluation.json, figures -> repo/

repo/ is the dataset again, with the scores as columns. Embeddings are kept in blocks: the same
command resumes a stopped run, and several processes or machines (`--stage views`) share them.
`--keep 0.9` drops the 10 % of every class's rows whose label the judge finds least probable;
`--drop FILE` drops the rows of a list, as `sgdmix studio` writes it.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from sgdmix_hub.data.report import report_split
from sgdmix_hub.data.splits import load_split, subset_record
from sgdmix_hub.evaluation.drop_list import digest_of, read_drop_list, rows_dropped
from sgdmix_hub.evaluation.embeddings import Views
from sgdmix_hub.evaluation.facts import FILE, EvaluationFacts, Request
from sgdmix_hub.evaluation.figures import draw_figures
from sgdmix_hub.evaluation.report import class_facts, evaluate, with_pairs_at
from sgdmix_hub.evaluation.repository import Version, build_evaluated
from sgdmix_hub.evaluation.scores import row_scores, rows_to_keep
from sgdmix_hub.evaluation.sources import (
    all_views,
    doubts,
    generation_settings,
    judge_on_real,
    mask_settings,
    origins_of,
    prompt_numbers,
    prompts_of,
    source_pin,
)
from sgdmix_hub.generation.inputs import Inputs
from sgdmix_hub.generation.row_maker import RowMaker
from sgdmix_hub.generation.saliency_maps import compute_map_blocks, compute_maps
from sgdmix_hub.hub.pins import Pin, resolve
from sgdmix_hub.method.saliency.trust import trust_test
from sgdmix_hub.models.classifier import Judge
from sgdmix_hub.models.loading import SegmenterPins
from sgdmix_hub.output_folder import OutputFolder
from sgdmix_hub.publishing.fetching import fetch_described, fetch_version, manifest_of
from sgdmix_hub.publishing.layout import EVALUATION, RepoLayout
from sgdmix_hub.publishing.read import PublishedRows, open_version
from sgdmix_hub.publishing.rows_by_file import RowsByFile
from sgdmix_hub.publishing.version_files import VersionFiles
from sgdmix_hub.runtime.launch import launch
from sgdmix_hub.runtime.output import opened_output
from sgdmix_hub.runtime.ranks import Rank, on_rank_zero, say, start_processes
from sgdmix_hub.runtime.stopping import forget_failure, wait_for_file
from sgdmix_hub.settings.evaluation import EvaluationSettings
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.storage.stores import Store

from .errors import UserError
from .files import read_json, write_json

logger = logging.getLogger("sgdmix_hub.evaluate_dataset")


def main(settings: EvaluationSettings) -> None:
    """One evaluation, or one stage of it. Raises `UserError`, `Preempted`."""
    rank = start_processes(settings.num_threads)
    is_worker = settings.stage == "views"
    with opened_output(settings.output_dir, "views", rank, is_worker) as (output, store):
        evaluate_in(replace(settings, output_dir=str(output)), output, store, rank)
        if rank.is_main_process:
            forget_failure(output.state, settings.error_name)


def evaluate_in(
    settings: EvaluationSettings, output: OutputFolder, store: Store, rank: Rank
) -> None:
    """The evaluation in an output folder. A collective. Raises `UserError`."""
    config_name = settings.synthetic_config_name
    rows, folder = opened_rows(settings, output)
    pin = rows.pin
    check_can_be_evaluated(rows)
    recipe = generation_settings(settings, folder, output.path)
    masked, network, masks = mask_settings(settings, recipe, rows.manifest)
    request = Request(
        synthetic=str(pin),
        synthetic_config_name=config_name,
        judge=str(resolve(settings.judge)),
        masks=masks,
        eval_split=settings.eval_split,
        keep=settings.keep,
        keep_by=None if settings.keep is None else settings.keep_by,
        keep_difficulty=None if settings.keep is None else settings.keep_difficulty,
        drop=None if settings.drop is None else digest_of(read_drop_list(settings.drop)),
    )
    version = Version(folder, rows.manifest, recipe)
    if on_rank_zero(lambda: is_complete(output, request, version.layout, store)):
        say(f"evaluation: {output} is complete, nothing to do")
        return
    evaluate_version(settings, request, rows, version, masked, network, output, store, rank)


def opened_rows(
    settings: EvaluationSettings, output: OutputFolder
) -> tuple[PublishedRows | RowsByFile, Path]:
    """The dataset, and the folder with the files that tell of it. A worker of the stage `views` has
    one file of it at a time. A collective. Raises `UserError`.
    """
    name, config_name = whole_name(settings.synthetic), settings.synthetic_config_name
    if settings.stage != "views":
        pin, folder = on_rank_zero(lambda: fetch_version(name, config_name))
        return open_version(pin, folder, config_name), folder

    def described() -> tuple[Pin, Path, VersionFiles]:
        pin, folder, files = fetch_described(name, config_name, output.state / "described")
        if os.path.isdir(name):  # whatever else is in it, as the stage `finish` names it
            pin = resolve(name, repo_type="dataset")
        return pin, folder, files

    pin, folder, files = on_rank_zero(described)
    manifest = manifest_of(pin.name, folder, RepoLayout(config_name))
    return RowsByFile(pin, manifest, files, config_name), folder


def whole_name(synthetic: str) -> str:
    """The name of the dataset: `repo/`, if it is the output folder of a generation."""
    repo = OutputFolder(synthetic).repo
    return str(repo) if repo.is_dir() else synthetic


def check_can_be_evaluated(rows: PublishedRows | RowsByFile) -> None:
    """Raises `UserError` for a dataset that has been evaluated, or that states too little."""
    if EVALUATION in rows.manifest:
        raise UserError(
            f"{rows.pin.name} has been evaluated already: give the dataset it was made from "
            f"({rows.manifest[EVALUATION]['synthetic']})"
        )
    if "stated" not in rows.manifest:
        raise UserError(
            f"{rows.pin.name} was made by an older version of sgdmix_hub, and its manifest lacks "
            "facts for a new card: remove repo/ and rerun the generation; finished shards are kept"
        )


def is_complete(output: OutputFolder, request: Request, layout: RepoLayout, store: Store) -> bool:
    """Whether the folder holds this evaluation. Raises `UserError` if it holds another one."""
    if not store.bring(output.repo / layout.manifest) and not output.repo.exists():
        return False
    path = output.path / FILE
    store.bring(path)
    try:
        facts = read_json(path) if path.is_file() else {}
    except ValueError:
        raise UserError(
            f"{path} is torn or was changed since it was written: "
            f"remove {output} and rerun the same command"
        ) from None
    different = [name for name, value in request.record().items() if facts.get(name) != value]
    if different:
        raise UserError(
            f"{output} holds another dataset or evaluation ({', '.join(different)} differ): choose "
            "another --output_dir"
        )
    return True


def evaluate_version(
    settings: EvaluationSettings,
    request: Request,
    rows: PublishedRows | RowsByFile,
    version: Version,
    masked: AugmentSettings,
    network: Pin | SegmenterPins | None,
    output: OutputFolder,
    store: Store,
    rank: Rank,
) -> None:
    """Does the stage that the settings name. All processes show images to the judge; rank 0 writes
    all files of the evaluation, `repo/` last. A collective. Raises `UserError`.

    `masked`: the settings that make the foreground masks; `network`: what they need.
    """
    split = load_split(version.settings, source_pin(settings, rows.manifest))
    report_split(version.settings, split)
    rows.check_made_from(split, subset_record(version.settings, split))
    marked = marked_rows(settings, rows)
    judge = Judge(resolve(settings.judge), split.class_names, rank.device)
    segmenter = network if isinstance(network, SegmenterPins) else None
    classifier = network if isinstance(network, Pin) else None
    if settings.stage == "views":
        masked = replace(masked, rank=settings.rank, world_size=settings.world_size)
        compute_map_blocks(masked, split, classifier, rank, segmenter, store)
    maps = compute_maps(
        masked, split, classifier, rank.index, rank.count, rank.device, segmenter, store
    )
    maker = RowMaker(masked, Inputs(split, None, None, None, classifier, segmenter), maps)
    images = len(split.subset) + rows.manifest["rows"]
    shown = rank.is_main_process
    with tqdm(total=images, desc="views", unit="image", disable=not shown) as bar:
        asked = all_views(rows, split, judge, maker, output.views, bar.update)
        if isinstance(rows, RowsByFile):
            place = settings.rank * rank.count + rank.index
            for views in asked:
                views.compute_blocks(place, settings.world_size * rank.count, store)
            say("views: all are made; next, once: --stage finish")
            return
        real, synthetic = (views.compute(rank, store) for views in asked)
    if rank.is_main_process:
        write_evaluation(
            settings, request, rows, version, marked, judge, maker, real, synthetic, output
        )
        keep_evaluation(output, version.layout, store)
    wait_for_file(output.repo)


def write_evaluation(
    settings: EvaluationSettings,
    request: Request,
    rows: PublishedRows,
    version: Version,
    marked: np.ndarray,
    judge: Judge,
    maker: RowMaker,
    real: Views,
    synthetic: Views,
    output: OutputFolder,
) -> None:
    """Writes all files of an evaluation, `repo/` last. Raises `UserError`.

    `marked`: the rows to drop, bool (n,). `maker`: what masks the sources. `real`, `synthetic`:
    what the judge saw.
    """
    split, recipe = maker.inputs.split, version.settings
    trust = trust_test(judge, judge.whole_size, split, recipe.resize)
    subset, used = subset_record(recipe, split), rows.manifest["pins"]
    warnings = doubts(judge, trust, subset, used.get("judge"), used.get("pilot_classifier"))
    for warning in warnings:
        logger.warning(warning)
    if settings.keep is not None and trust.reads_background:
        logger.warning(
            "this judge reads the background, so --keep also drops rows with good new backgrounds"
        )
    prompts = prompts_of(recipe)
    numbers = None
    if len(prompts) > 1:
        numbers = prompt_numbers(version.folder / version.layout.plan, rows, len(prompts))
    origins = origins_of(rows, split, numbers)
    scores = row_scores(synthetic, real, origins)
    kept = (
        np.ones(len(origins.labels), bool)
        if settings.keep is None
        else rows_to_keep(
            scores["judge_label_probability"],
            settings.keep,
            origins.labels if settings.keep_by == "class" else None,
            settings.keep_difficulty,
        )
    )
    by_hand = kept & marked
    kept &= ~marked
    if not kept.any():
        raise UserError("every row is dropped: no library loads a dataset without rows")
    accuracy, judged = judge_on_real(settings, recipe, split, judge)
    measured = evaluate(scores, synthetic, real, origins, kept, prompts)
    duplicates = {
        space: with_pairs_at(near, split.subset) for space, near in measured.duplicates.items()
    }
    facts = EvaluationFacts(
        request=request,
        dataset=str(split.pin),
        warnings=warnings,
        trust=trust,
        judge_accuracy=accuracy,
        left_out=split.subset[~real.usable].tolist(),
        measured=replace(measured, duplicates=duplicates),
        by_class=class_facts(scores, origins.labels, kept, split.class_names, judged),
        dropped=int((~kept).sum()),
        dropped_by_hand=int(by_hand.sum()),
    )
    figures = draw_figures(facts, scores, rows, maker, origins.labels, output.path)
    write_json(output.path / FILE, facts.record())
    build_evaluated(version, split.class_names, scores, kept, facts, figures, output)
    say(facts.text())
    say(
        f"evaluation: {output.path / FILE}; {kept.sum()} of {len(kept)} rows, with their scores: "
        f"{output.repo}"
    )


def keep_evaluation(output: OutputFolder, layout: RepoLayout, store: Store) -> None:
    """Puts the files of an evaluation into its object store, the manifest last."""
    last = output.repo / layout.manifest
    files = [path for path in sorted(output.repo.rglob("*")) if path.is_file() and path != last]
    for path in (output.path / FILE, *files, last):
        store.keep(path)


def marked_rows(settings: EvaluationSettings, rows: PublishedRows | RowsByFile) -> np.ndarray:
    """bool (n,): the rows on the list of `drop`, which drops nothing in the stage `views`. Raises
    `UserError` if it names others.
    """
    if settings.drop is None or isinstance(rows, RowsByFile):
        return np.zeros(rows.manifest["rows"], bool)
    variants = rows.rows.data.column("variant").to_numpy()
    return rows_dropped(read_drop_list(settings.drop), rows.sources, variants)


if __name__ == "__main__":
    launch(main, EvaluationSettings)
