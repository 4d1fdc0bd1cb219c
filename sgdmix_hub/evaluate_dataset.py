"""Measures an augmented dataset with a classifier trained on real images, and writes it anew with
its rows' scores.

    views of sources and synthetic images -> scores -> evaluation.json, figures -> repo/

Views are kept, in blocks: the same command goes on after a stop. `--keep 0.9` drops the rows whose
label the judge finds least probable.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from sgdmix_hub.data.report import report_split
from sgdmix_hub.data.splits import load_split, subset_record
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
from sgdmix_hub.models.loading import SegmenterPins
from sgdmix_hub.publishing.layout import EVALUATION
from sgdmix_hub.publishing.read import PublishedRows, fetch_version, open_version
from sgdmix_hub.runtime.launch import launch
from sgdmix_hub.runtime.ranks import say, start_processes
from sgdmix_hub.runtime.stopping import forget_failure, lock_folder
from sgdmix_hub.settings.evaluation import EvaluationSettings
from sgdmix_hub.settings.generation import AugmentSettings

from .errors import UserError
from .files import read_json, write_json


def main(settings: EvaluationSettings) -> None:
    """One evaluation. Raises `UserError`, `Preempted`."""
    state = start_processes(settings.num_threads)
    if state.num_processes > 1:
        raise UserError(
            "an evaluation is made by one process: start it with python, without a launcher"
        )
    output = Path(settings.output_dir)
    with lock_folder(output / "state", finished=output / "repo"):
        name = settings.synthetic
        if (Path(name) / "repo").is_dir():  # the output folder of a generation
            name = str(Path(name) / "repo")
        pin, folder = fetch_version(name, settings.synthetic_config_name)
        rows = open_version(pin, folder, settings.synthetic_config_name)
        if EVALUATION in rows.manifest:
            raise UserError(
                f"{pin.name} has been evaluated already: give the dataset that it was made from ({rows.manifest[EVALUATION]['synthetic']})"
            )
        if "stated" not in rows.manifest:
            raise UserError(
                f"{pin.name} was made by an older version of sgdmix_hub, its manifest lacks what a new card needs: remove repo/ and run "
                "the generation again, finished shards are kept"
            )
        recipe = generation_settings(settings, folder, output)
        masked, network, masks = mask_settings(settings, recipe, rows.manifest)
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
                network,
                state.device,
            )
        forget_failure(output / "state")


def is_complete(output: Path, asked: dict) -> bool:
    """Whether the folder holds this very evaluation. Raises `UserError` when it holds something
    else.
    """
    if not (output / "repo").exists():
        return False
    try:
        facts = read_json(output / FILE) if (output / FILE).is_file() else {}
    except ValueError:
        raise UserError(
            f"{output / FILE} is torn or was changed since it was written: remove {output} and run again"
        ) from None
    different = [name for name, value in asked.items() if facts.get(name) != value]
    if different:
        raise UserError(
            f"{output} holds another dataset or evaluation ({', '.join(different)} differ): choose another --output_dir"
        )
    return True


def evaluate_version(
    settings: EvaluationSettings,
    asked: dict,
    rows: PublishedRows,
    version: Version,
    masked: AugmentSettings,
    network: Pin | SegmenterPins | None,
    device: torch.device,
) -> None:
    """Everything that an evaluation leaves, `repo/` last. `masked`: the settings that find the
    foregrounds. Raises `UserError`.
    """
    output, recipe = Path(settings.output_dir), version.settings
    split = load_split(recipe, source_pin(settings, rows.manifest))
    report_split(recipe, split)
    subset = subset_record(recipe, split)
    rows.check_made_from(split, subset)
    judge = Judge(resolve(settings.judge), split.class_names, device)
    segmenter = network if isinstance(network, SegmenterPins) else None
    classifier = network if isinstance(network, Pin) else None
    maps = compute_maps(masked, split, classifier, 0, 1, device, segmenter)
    maker = RowMaker(masked, Inputs(split, None, None, None, classifier, segmenter), maps)
    trust = trust_test(judge, judge.whole_size, split, recipe.resize)
    warnings = doubts(judge, trust, subset)
    for warning in warnings:
        say(f"warning: {warning}")
    if settings.keep is not None and trust.reads_background:
        say(
            "warning: --keep drops rows by what this judge reads, their background: good changes of background among them"
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
    facts = asked | {
        "dataset": str(split.pin),
        "warnings": warnings,
        "trust": asdict(trust) | {"reads_background": trust.reads_background},
        "judge_accuracy": accuracy,
        "left_out": split.subset[~real.usable].tolist(),
        **evaluate(scores, synthetic, real, origins, kept),
        "by_class": class_facts(scores, origins.labels, kept, split.class_names, judged),
        "dropped": int((~kept).sum()),
    }
    for of_space in facts[
        "duplicates"
    ].values():  # rows of the split, as `source_index` counts them
        of_space["pairs"] = [
            [row, int(split.subset[place]), distance] for row, place, distance in of_space["pairs"]
        ]
    figures = draw_figures(facts, scores, rows, maker, origins.labels, output)
    write_json(output / FILE, facts)
    build_evaluated(version, split.class_names, scores, kept, facts, figures, output)
    say(evaluation_text(facts))
    say(
        f"evaluation: {output / FILE}; {kept.sum()} of {len(kept)} rows, with their scores: {output / 'repo'}"
    )


if __name__ == "__main__":
    launch(main, EvaluationSettings)
