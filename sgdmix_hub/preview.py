"""One page of a dataset's own images under each choice of the method, and the figures behind it."""

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
    Comparison,
    MaskColumn,
    MixtureColumn,
    MixtureFigures,
    TargetColumn,
)
from sgdmix_hub.evaluation.choices_page import MASK_MEASURES, cut_by, page, tables
from sgdmix_hub.evaluation.drawn_split import MEASURED, draw_split
from sgdmix_hub.figures.panels import in_few_colours
from sgdmix_hub.generation.inputs import Inputs, check_columns, resolve_inputs
from sgdmix_hub.generation.saliency_maps import load_network
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.method.saliency.cam import CamSaliency
from sgdmix_hub.method.saliency.sources import Network, load_cam
from sgdmix_hub.method.saliency.trust import Trust, trust_test
from sgdmix_hub.method.targets import NO_TARGET
from sgdmix_hub.metrics.mask_quality import best_fixed_iou
from sgdmix_hub.metrics.mixture_quality import effective_targets, mean_of_defined
from sgdmix_hub.models.loading import SegmenterPins, load_classifier
from sgdmix_hub.output_folder import OutputFolder
from sgdmix_hub.runtime.launch import launch
from sgdmix_hub.runtime.ranks import say, start_processes
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.mask_source import masks_line
from sgdmix_hub.settings.method import sought_words
from sgdmix_hub.settings.presets import PRESETS, saliency_source
from sgdmix_hub.settings.programs import PreviewSettings, recipe
from sgdmix_hub.settings.saliency import FALL_BACK

from .errors import UserError
from .files import write_atomically, write_json

RECORDED = (
    "resolution",
    "resize",
    "num_candidates",
    "seed",
    "saliency_method",
    "mask_column",
    "segmenter_instances",
    "bbox_column",
    "bbox_format",
    "min_mask_confidence",
    "low_confidence",
)
TESTED = 100  # images of the trust test, which runs the classifier twice on each


def main(settings: PreviewSettings) -> None:
    """Writes preview.png and preview.json, and prints the figures. Raises `UserError`."""
    settings.validate()
    recommended = recipe(settings, "recommended")
    rank = start_processes(settings.num_threads)
    if rank.count > 1:
        raise UserError("a preview runs in one process: start it without a launcher")
    output = Path(settings.output_dir)
    chosen = recipe(settings)
    inputs = resolve_inputs(chosen, OutputFolder(output).state)
    report_split(settings, inputs.split)
    say(masks_line(recommended))
    check_columns(recommended, inputs.split)
    check_mask_column(settings, inputs.split)
    if inputs.bank is not None and settings.background_has_foreground:
        check_columns(recommended, inputs.bank)
    networks: dict[str, Network] = {}
    cam = None
    if inputs.classifier is not None:
        classifier = load_classifier(inputs.classifier, inputs.split.class_names, rank.device)
        cam = load_cam(chosen, classifier)
        networks["classifier"] = classifier
    segmenter = pin_segmenter(recommended)
    if segmenter is not None:
        segmenting = recipe(settings, "recommended", saliency_method="segmentation")
        networks["segmenter"] = load_network(segmenting, inputs.split, None, segmenter, rank.device)
    with tqdm(total=min(len(inputs.split.subset), MEASURED), desc="preview", unit="image") as bar:
        split, left_out = draw_split(settings, inputs.split, bar.update)
        bank = None
        if inputs.bank is not None:  # true masks are the dataset's alone
            bank, _ = draw_split(
                replace(settings, mask_column=None), inputs.bank, lambda rows: None
            )
        trust = None
        if cam is not None:
            shuffled = np.random.default_rng(settings.seed).permutation(split.subset)
            tested = replace(split, subset=np.sort(shuffled[:TESTED]))
            trust = trust_test(cam.classifier, cam.size, tested, settings.resize)
        comparison = Comparison(after_trust_test(settings, recommended, trust), split, bank)
        bar.total += comparison.work
        comparison.make(networks, bar.update)
    facts = all_facts(comparison, inputs, segmenter, left_out, cam, trust)
    picture = in_few_colours(page(comparison, facts, trust))
    write_atomically(output / "preview.png", lambda path: picture.save(path, "PNG", optimize=True))
    write_json(output / "preview.json", facts)
    OutputFolder(output).error.unlink(missing_ok=True)
    say(tables(comparison, facts, trust))
    report_unusable(inputs.split, left_out)
    say(f"preview: {output / 'preview.png'}, figures: {output / 'preview.json'}")


def after_trust_test(
    settings: PreviewSettings, recommended: AugmentSettings, trust: Trust | None
) -> PreviewSettings:
    """The settings with the source that a generation takes for the preset `recommended`."""
    reads_background = trust is not None and trust.reads_background
    uses_classifier = saliency_source(recommended).needs == "classifier"
    if not (reads_background and uses_classifier and recommended.trust_test == "fall-back"):
        return settings
    say(f"the classifier reads the background: recommended uses {FALL_BACK} instead")
    return replace(settings, saliency_method=FALL_BACK)


def pin_segmenter(settings: AugmentSettings) -> SegmenterPins | None:
    """The segmentation model of the settings, its detector and its words. Raises `UserError`."""
    if settings.segmenter is None:
        return None
    detector = None if settings.detector is None else resolve(settings.detector)
    return SegmenterPins(resolve(settings.segmenter), detector, sought_words(settings, None))


def check_mask_column(settings: PreviewSettings, split: Split) -> None:
    """Raises `UserError` if the column of true masks is not a column of images."""
    name = settings.mask_column
    if name is not None and not isinstance(split.rows.features.get(name), ImageFeature):
        raise UserError(f"{split.pin.name} has no image column {name!r}: choose another one")


def all_facts(
    comparison: Comparison,
    inputs: Inputs,
    segmenter: SegmenterPins | None,
    left_out: dict[int, str],
    cam: CamSaliency | None,
    trust: Trust | None,
) -> dict:
    """The content of preview.json."""
    settings = comparison.settings
    true = None if comparison.true_masks is None else comparison.true_masks.values
    return {
        "dataset": str(inputs.split.pin),
        "classifier": None if inputs.classifier is None else str(inputs.classifier),
        "background_dataset": None if inputs.bank is None else str(inputs.bank.pin),
        "segmenter": None
        if segmenter is None
        else {
            "segmenter": str(segmenter.segmenter),
            "detector": None if segmenter.detector is None else str(segmenter.detector),
            "words": list(segmenter.words),
        },
        "settings": {name: getattr(settings, name) for name in RECORDED},
        "images": len(comparison.rows),
        "left_out": {str(row): reason for row, reason in left_out.items()},
        "shown": comparison.shown,
        "cam": None
        if cam is None
        else {"layer": cam.layer_name, "input_size": cam.size, "cells": list(cam.grid)},
        "trust": None
        if trust is None
        else asdict(trust) | {"reads_background": trust.reads_background},
        "recommended": masks_line(comparison.presets["recommended"]),
        "masks": [mask_facts(column, true) for column in comparison.masks],
        "best_fixed_iou": None if true is None else best_fixed_iou(true),
        "targets": [target_facts(column, comparison.labels) for column in comparison.targets],
        "mixtures": []
        if true is None
        else [mixture_facts(column, comparison.labels) for column in comparison.mixtures],
    }


def mask_facts(column: MaskColumn, true: np.ndarray | None) -> dict:
    """The entry of a mask column. `true`: the true masks, if known."""
    masks = column.masks.values
    facts = {
        "name": f"{column.settings.saliency_method} + {cut_by(column)}",
        "saliency_method": column.settings.saliency_method,
        "mask_refinement": None if column.has_own_masks else column.settings.mask_refinement,
        "min_mask_confidence": column.settings.min_mask_confidence,
        "presets": column.presets,
        "foreground_area": float(masks.mean()),
        "empty": float(np.mean(~masks.any(axis=(1, 2)))),
        "confidence": float(np.mean(list(column.confidences.values())))
        if column.confidences
        else None,
        "untrusted": column.untrusted_share,
        "untrusted_rows": {str(row): reason for row, reason in sorted(column.untrusted.items())},
    }
    if true is not None:
        facts |= {
            name: float(measure(masks, true).mean()) for name, measure in MASK_MEASURES.items()
        }
    return facts


def target_facts(column: TargetColumn, labels: np.ndarray) -> dict:
    """The entry of a selection method. `labels`: of the split's rows."""
    return {
        "name": f"{column.settings.selection_method}, {column.settings.target_classes} class",
        "saliency_method": column.settings.saliency_method,
        "selection_method": column.settings.selection_method,
        "target_classes": column.settings.target_classes,
        "presets": column.presets,
        **spread_of_targets(
            [
                (row.source_index, row.target_index)
                for row in column.plan.values()
                if not row.is_unmixed
            ],
            labels,
        ),
    }


def mixture_facts(column: MixtureColumn, labels: np.ndarray) -> dict:
    """The entry of a mixing method, means over its mixtures. `labels`: of the split's rows."""
    mixed = [(row, column.plan[row].target_index) for row in column.figures]
    means = {
        figure.name: mean_of_defined(
            np.array([getattr(figures, figure.name) for figures in column.figures.values()])
        )
        for figure in fields(MixtureFigures)
    }
    return {
        "name": column.name,
        "presets": [column.name] if column.name in PRESETS else [],
        "mixing_method": column.settings.mixing_method,
        "feather": column.settings.feather,
        "mixtures": len(mixed),
        **{name: None if math.isnan(value) else value for name, value in means.items()},
        **spread_of_targets(mixed, labels),
    }


def spread_of_targets(pairs: list[tuple[int, int]], labels: np.ndarray) -> dict:
    """Share of (source, target) pairs of one class, and effective number of targets; None for both
    if no source has a target.
    """
    with_target = [pair for pair in pairs if pair[1] != NO_TARGET]
    if not with_target:
        return {"same_class_share": None, "effective_targets": None}
    sources, targets = np.array(with_target, dtype=np.int64).T
    return {
        "same_class_share": float(np.mean(labels[sources] == labels[targets])),
        "effective_targets": effective_targets(targets),
    }


if __name__ == "__main__":
    launch(main, PreviewSettings)
