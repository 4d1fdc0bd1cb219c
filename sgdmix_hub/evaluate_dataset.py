"""Scores every row of an augmented dataset with a classifier trained on real images, the judge.

    embeddings of sources and synthetic images -> scores -> evaluation.json, figures -> repo/

repo/ is the dataset again, with the scores as columns. Embeddings are kept in blocks, so the same
command resumes a stopped run. `--keep 0.9` drops the 10 % of the rows whose label the judge finds
least probable.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sgdmix_hub.data.report import report_split
from sgdmix_hub.data.splits import Split, load_split, subset_record
from sgdmix_hub.evaluation.figures import draw_figures
from sgdmix_hub.evaluation.report import class_facts, evaluate, evaluation_text
from sgdmix_hub.evaluation.repository import FILE, Version, build_evaluated
from sgdmix_hub.evaluation.scores import row_scores, rows_to_keep
from sgdmix_hub.evaluation.sources import (
    all_views,
    doubts,
    generation_settings,
    judge_on_real,
    mask_settings,
    origins_of,
    source_pin,
)
from sgdmix_hub.generation.inputs import Inputs
from sgdmix_hub.generation.row_maker import RowMaker
from sgdmix_hub.generation.saliency_maps import compute_maps
from sgdmix_hub.hub.pins import Pin, resolve
from sgdmix_hub.method.saliency.trust import trust_test
from sgdmix_hub.models.classifier import Judge
from sgdmix_hub.publishing.layout import EVALUATION
from sgdmix_hub.publishing.read import PublishedRows, fetch_version, open_version
from sgdmix_hub.runtime.launch import launch
from sgdmix_hub.runtime.ranks import say, start_processes
from sgdmix_hub.runtime.stopping import forget_failure, lock_folder
from sgdmix_hub.settings.evaluation import EvaluationSettings
from sgdmix_hub.settings.generation import AugmentSettings

from .errors import UserError
from .files import read_json, write_json

logger = logging.getLogger("sgdmix_hub.evaluate_dataset")


def main(settings: EvaluationSettings) -> None:
    """One evaluation. Raises `UserError`, `Preempted`."""
    rank = start_processes(settings.num_threads)
    if rank.count > 1:
        raise UserError("an evaluation runs in one process: start it without a launcher")
    output = Path(settings.output_dir)
    with lock_folder(output / "state", finished=output / "repo"):
        name = settings.synthetic
        if (Path(name) / "repo").is_dir():  # the output folder of a generation
            name = str(Path(name) / "repo")
        pin, folder = fetch_version(name, settings.synthetic_config_name)
        rows = open_version(pin, folder, settings.synthetic_config_name)
        if EVALUATION in rows.manifest:
            raise UserError(
                f"{pin.name} has been evaluated already: give the dataset it was made from "
                f"({rows.manifest[EVALUATION]['synthetic']})"
            )
        if "stated" not in rows.manifest:
            raise UserError(
                f"{pin.name} was made by an older version of sgdmix_hub, and its manifest lacks "
                "facts for a new card: remove repo/ and rerun the generation; finished shards are "
                "kept"
            )
        recipe = generation_settings(settings, folder, output)
        masked, classifier, masks = mask_settings(settings, recipe, rows.manifest)
        asked = {
            "synthetic": str(pin),
            "synthetic_config_name": settings.synthetic_config_name,
            "pins": {"judge": str(resolve(settings.judge))},
            "masks": masks,
            "eval_split": settings.eval_split,
            "keep": settings.keep,
        }
        if is_complete(output, asked):
            say(f"evaluation: {output} is complete, nothing to do")
        else:
            evaluate_version(
                settings,
                asked,
                rows,
                Version(folder, rows.manifest, recipe),
                masked,
                classifier,
                rank.device,
            )
        forget_failure(output / "state")


def is_complete(output: Path, asked: dict) -> bool:
    """Whether the folder holds this evaluation. Raises `UserError` if it holds another one."""
    if not (output / "repo").exists():
        return False
    try:
        facts = read_json(output / FILE) if (output / FILE).is_file() else {}
    except ValueError:
        raise UserError(
            f"{output / FILE} is torn or was changed since it was written: remove {output} and "
            "rerun the same command"
        ) from None
    different = [name for name, value in asked.items() if facts.get(name) != value]
    if different:
        raise UserError(
            f"{output} holds another dataset or evaluation ({', '.join(different)} differ): choose "
            "another --output_dir"
        )
    return True


def evaluate_version(
    settings: EvaluationSettings,
    asked: dict,
    rows: PublishedRows,
    version: Version,
    masked: AugmentSettings,
    classifier: Pin | None,
    device: torch.device,
) -> None:
    """Writes all files of an evaluation, `repo/` last. Raises `UserError`.

    `asked`: identity of the evaluation. `masked`: the settings that make the foreground masks.
    """
    output, recipe = Path(settings.output_dir), version.settings
    split = load_split(recipe, source_pin(settings, rows.manifest))
    report_split(recipe, split)
    subset = subset_record(recipe, split)
    rows.check_made_from(split, subset)
    judge = Judge(resolve(settings.judge), split.class_names, device)
    maps = compute_maps(masked, split, classifier, 0, 1, device)
    maker = RowMaker(masked, Inputs(split, None, None, None, classifier), maps)
    trust = trust_test(judge, judge.whole_size, split, recipe.resize)
    warnings = doubts(judge, trust, subset)
    for warning in warnings:
        logger.warning(warning)
    if settings.keep is not None and trust.reads_background:
        logger.warning(
            "this judge reads the background, so --keep also drops rows with good new backgrounds"
        )

    real, synthetic = all_views(rows, split, judge, maker, output / "state" / "views")
    origins = origins_of(rows, split)
    scores = row_scores(synthetic, real, origins)
    kept = (
        np.ones(len(origins.labels), bool)
        if settings.keep is None
        else rows_to_keep(scores["judge_label_probability"], settings.keep)
    )
    accuracy, judged = judge_on_real(settings, recipe, split, judge)
    facts: dict[str, Any] = asked | {
        "dataset": str(split.pin),
        "warnings": warnings,
        "trust": asdict(trust) | {"reads_background": trust.reads_background},
        "judge_accuracy": accuracy,
        "left_out": split.subset[~real.usable].tolist(),
        **in_split(evaluate(scores, synthetic, real, origins, kept), split),
        "by_class": class_facts(scores, origins.labels, kept, split.class_names, judged),
        "dropped": int((~kept).sum()),
    }
    figures = draw_figures(facts, scores, rows, maker, origins.labels, output)
    write_json(output / FILE, facts)
    build_evaluated(version, split.class_names, scores, kept, facts, figures, output)
    say(evaluation_text(facts))
    rows_kept = f"{kept.sum()} of {len(kept)} rows"
    say(f"evaluation: {output / FILE}; {rows_kept}, with their scores: {output / 'repo'}")


def in_split(facts: dict[str, Any], split: Split) -> dict[str, Any]:
    """The facts, with near duplicates' source images as rows of the split, like `source_index`."""
    duplicates = {
        space: near
        | {
            "pairs": [
                [row, int(split.subset[place]), distance] for row, place, distance in near["pairs"]
            ]
        }
        for space, near in facts["duplicates"].items()
    }
    return facts | {"duplicates": duplicates}


if __name__ == "__main__":
    launch(main, EvaluationSettings)
