"""One page that shows what each choice of the method does to a dataset's own images, and the
figures behind it.
"""

from __future__ import annotations

import math
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
from datasets import Image as ImageFeature
from tqdm.auto import tqdm

from sgdmix_hub.data.report import report_split, report_unusable
from sgdmix_hub.data.splits import Split
from sgdmix_hub.evaluation.choices import (
    MEASURED,
    Comparison,
    MaskColumn,
    MixtureColumn,
    MixtureFigures,
    TargetColumn,
    draw_split,
    recipe,
)
from sgdmix_hub.evaluation.choices_page import MASK_MEASURES, cut_by, page, tables
from sgdmix_hub.figures.panels import in_few_colours
from sgdmix_hub.generation.inputs import Inputs, resolve_inputs
from sgdmix_hub.method.saliency.cam import CamSaliency
from sgdmix_hub.method.saliency.sources import load_cam
from sgdmix_hub.method.saliency.trust import Trust, trust_test
from sgdmix_hub.method.targets import NO_TARGET
from sgdmix_hub.metrics.mask_quality import best_fixed_iou
from sgdmix_hub.metrics.mixture_quality import effective_targets, mean_of_defined
from sgdmix_hub.models.loading import load_classifier
from sgdmix_hub.runtime.launch import launch
from sgdmix_hub.runtime.ranks import say, start_processes
from sgdmix_hub.settings.method import PRESETS
from sgdmix_hub.settings.programs import PreviewSettings

from .errors import UserError
from .files import write_atomically, write_json

TESTED = 100  # images of the trust test, which looks through the classifier twice


def main(settings: PreviewSettings) -> None:
    """Writes preview.png and preview.json into the output folder and prints the figures. Raises
    `UserError`.
    """
    settings.validate()
    state = start_processes(settings.num_threads)
    if state.num_processes > 1:
        raise UserError(
            "a preview is made by one process: start it with python, without a launcher"
        )
    output = Path(settings.output_dir)
    chosen = recipe(settings)
    inputs = resolve_inputs(chosen, output / "state")
    report_split(settings, inputs.split)
    check_mask_column(settings, inputs.split)
    cam = (
        None
        if inputs.classifier is None
        else load_cam(
            chosen, load_classifier(inputs.classifier, inputs.split.class_names, state.device)
        )
    )
    with tqdm(total=min(len(inputs.split.subset), MEASURED), desc="preview", unit="image") as bar:
        split, left_out = draw_split(settings, inputs.split, bar.update)
        comparison = Comparison(settings, split)
        tested = np.random.default_rng(settings.seed).permutation(split.subset)[
            : 0 if cam is None else TESTED
        ]
        bar.total += comparison.work + len(tested)
        comparison.make(None if cam is None else cam.classifier, bar.update)
        trust = (
            None
            if cam is None
            else trust_test(
                cam.classifier, cam.size, replace(split, subset=np.sort(tested)), settings.resize
            )
        )
        bar.update(len(tested))
    facts = all_facts(comparison, inputs, left_out, cam, trust)
    picture = in_few_colours(page(comparison, facts, trust))
    write_atomically(output / "preview.png", lambda path: picture.save(path, "PNG", optimize=True))
    write_json(output / "preview.json", facts)
    (output / "state" / "error.json").unlink(missing_ok=True)
    say(tables(facts, trust))
    report_unusable(inputs.split, left_out)
    say(f"preview: {output / 'preview.png'}, figures: {output / 'preview.json'}")


def check_mask_column(settings: PreviewSettings, split: Split) -> None:
    """Raises `UserError` when the column that should hold true masks holds no images."""
    if settings.mask_column is not None and not isinstance(
        split.rows.features.get(settings.mask_column), ImageFeature
    ):
        raise UserError(
            f"{split.pin.name} has no image column {settings.mask_column!r} for its masks"
        )


def all_facts(
    comparison: Comparison,
    inputs: Inputs,
    left_out: dict[int, str],
    cam: CamSaliency | None,
    trust: Trust | None,
) -> dict:
    """What preview.json holds."""
    settings = comparison.settings
    true = None if comparison.true_masks is None else comparison.true_masks.values
    return {
        "dataset": str(inputs.split.pin),
        "classifier": None if inputs.classifier is None else str(inputs.classifier),
        "settings": {
            name: getattr(settings, name)
            for name in ("resolution", "resize", "num_candidates", "seed", "mask_column")
        },
        "images": len(comparison.rows),
        "left_out": {str(row): reason for row, reason in left_out.items()},
        "shown": comparison.shown,
        "cam": None
        if cam is None
        else {"layer": cam.layer_name, "input_size": cam.size, "cells": list(cam.grid)},
        "trust": None
        if trust is None
        else asdict(trust) | {"reads_background": trust.reads_background},
        "masks": [mask_facts(column, true) for column in comparison.masks],
        "best_fixed_iou": None if true is None else best_fixed_iou(true),
        "targets": [target_facts(column, comparison.split.labels) for column in comparison.targets],
        "mixtures": []
        if true is None
        else [mixture_facts(column, comparison.split.labels) for column in comparison.mixtures],
    }


def mask_facts(column: MaskColumn, true: np.ndarray | None) -> dict:
    masks = column.masks.values
    facts = {
        "name": f"{column.settings.saliency_method} + {cut_by(column.settings)}",
        "saliency_method": column.settings.saliency_method,
        "mask_refinement": column.settings.mask_refinement,
        "presets": column.presets,
        "foreground_area": float(masks.mean()),
        "empty": float(np.mean(~masks.any(axis=(1, 2)))),
    }
    if true is not None:
        facts |= {
            name: float(measure(masks, true).mean()) for name, measure in MASK_MEASURES.items()
        }
    return facts


def target_facts(column: TargetColumn, labels: np.ndarray) -> dict:
    return {
        "name": f"{column.settings.selection_method}, {column.settings.target_classes} class",
        "saliency_method": column.settings.saliency_method,
        "selection_method": column.settings.selection_method,
        "target_classes": column.settings.target_classes,
        "presets": column.presets,
        **spread_of_targets(
            [(row.source_index, row.target_index) for row in column.plan.values()], labels
        ),
    }


def mixture_facts(column: MixtureColumn, labels: np.ndarray) -> dict:
    mixed = [(row, column.plan[row].target_index) for row in column.figures]
    names = [figure.name for figure in fields(MixtureFigures)]
    values = {
        name: mean_of_defined(
            np.array([getattr(of_row, name) for of_row in column.figures.values()])
        )
        for name in names
    }
    return {
        "name": column.name,
        "presets": [column.name] if column.name in PRESETS else [],
        "mixing_method": column.settings.mixing_method,
        "feather": column.settings.feather,
        "mixtures": len(mixed),
        **{name: None if math.isnan(value) else value for name, value in values.items()},
        **spread_of_targets(mixed, labels),
    }


def spread_of_targets(pairs: list[tuple[int, int]], labels: np.ndarray) -> dict:
    """Share of (source, target) pairs of one class, and how many targets they draw on; None where
    no source has a target.
    """
    pairs = np.array([pair for pair in pairs if pair[1] != NO_TARGET], dtype=np.int64).reshape(
        -1, 2
    )
    if not len(pairs):
        return {"same_class_share": None, "effective_targets": None}
    sources, targets = pairs.T
    return {
        "same_class_share": float(np.mean(labels[sources] == labels[targets])),
        "effective_targets": effective_targets(targets),
    }


if __name__ == "__main__":
    launch(main, PreviewSettings)
