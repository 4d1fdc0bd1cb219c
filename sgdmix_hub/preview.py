"""One page that shows what each choice of the method does to a dataset's own images, and the figures behind it."""

from __future__ import annotations

import math
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
from datasets import Image as ImageFeature
from PIL import Image
from tqdm.auto import tqdm

from .cam import CamSaliency
from .comparison import MEASURED, Comparison, MaskColumn, MixtureColumn, MixtureFigures, TargetColumn, draw_split, recipe
from .config import AugmentSettings
from .contact_sheet import Group, Panel, draw_panels, in_few_colours, outlined_panel, saliency_panel, stacked
from .data import Split
from .errors import UserError
from .files import write_atomically, write_json
from .inputs import Inputs, resolve_inputs
from .metrics.mask_quality import best_fixed_iou, boundary_f, mask_iou, mask_precision, mask_recall
from .metrics.mixture_quality import effective_targets, mean_of_defined
from .pipeline import MaskedImage
from .presets import PRESETS
from .processes import launch, say, start_processes
from .program_settings import PreviewSettings
from .saliency_store import load_cam
from .split_report import report_split, report_unusable
from .targets import NO_TARGET
from .trust import Trust, trust_test

PANEL = 128
FONT_SIZE = 13
HEADING_SIZE = 16
TESTED = 100  # images of the trust test, which looks through the classifier twice
MASK_MEASURES = {"iou": mask_iou, "precision": mask_precision, "recall": mask_recall, "boundary_f": boundary_f}
SPREAD = ("same_class_share", "effective_targets")
MIXING_TITLES = {
    "union": "union\nof both masks",
    "source": "source\nmask alone",
    "inpaint": "inpaint\nthe target first",
}


def main(settings: PreviewSettings) -> None:
    """Writes preview.png and preview.json into the output folder and prints the figures. Raises `UserError`."""
    settings.validate()
    state = start_processes(settings.num_threads)
    if state.num_processes > 1:
        raise UserError("a preview is made by one process: start it with python, without a launcher")
    output = Path(settings.output_dir)
    chosen = recipe(settings)
    inputs = resolve_inputs(chosen, output / "state")
    report_split(settings, inputs.split)
    check_mask_column(settings, inputs.split)
    cam = None if inputs.classifier is None else load_cam(chosen, inputs.split, inputs.classifier, state.device)
    with tqdm(total=min(len(inputs.split.subset), MEASURED), desc="preview", unit="image") as bar:
        split, left_out = draw_split(settings, inputs.split, bar.update)
        comparison = Comparison(settings, split)
        tested = np.random.default_rng(settings.seed).permutation(split.subset)[: 0 if cam is None else TESTED]
        bar.total += comparison.work + len(tested)
        comparison.make(cam, bar.update)
        trust = None if cam is None else trust_test(cam.classifier, cam.size, replace(split, subset=np.sort(tested)), settings.resize)
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
    if settings.mask_column is not None and not isinstance(split.rows.features.get(settings.mask_column), ImageFeature):
        raise UserError(f"{split.pin.name} has no image column {settings.mask_column!r} for its masks")


# ---- figures ----


def all_facts(comparison: Comparison, inputs: Inputs, left_out: dict[int, str], cam: CamSaliency | None, trust: Trust | None) -> dict:
    """What preview.json holds."""
    settings = comparison.settings
    true = None if comparison.true_masks is None else comparison.true_masks.values
    return {
        "dataset": str(inputs.split.pin),
        "classifier": None if inputs.classifier is None else str(inputs.classifier),
        "settings": {name: getattr(settings, name) for name in ("resolution", "resize", "num_candidates", "seed", "mask_column")},
        "images": len(comparison.rows),
        "left_out": {str(row): reason for row, reason in left_out.items()},
        "shown": comparison.shown,
        "cam": None if cam is None else {"layer": cam.layer_name, "input_size": cam.size, "cells": list(cam.grid)},
        "trust": None if trust is None else asdict(trust) | {"reads_background": trust.reads_background},
        "masks": [mask_facts(column, true) for column in comparison.masks],
        "best_fixed_iou": None if true is None else best_fixed_iou(true),
        "targets": [target_facts(column, comparison.split.labels) for column in comparison.targets],
        "mixtures": [] if true is None else [mixture_facts(column, comparison.split.labels) for column in comparison.mixtures],
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
        facts |= {name: float(measure(masks, true).mean()) for name, measure in MASK_MEASURES.items()}
    return facts


def target_facts(column: TargetColumn, labels: np.ndarray) -> dict:
    return {
        "name": f"{column.settings.selection_method}, {column.settings.target_classes} class",
        "saliency_method": column.settings.saliency_method,
        "selection_method": column.settings.selection_method,
        "target_classes": column.settings.target_classes,
        "presets": column.presets,
        **spread_of_targets([(row.source_index, row.target_index) for row in column.plan.values()], labels),
    }


def mixture_facts(column: MixtureColumn, labels: np.ndarray) -> dict:
    mixed = [(row, column.plan[row].target_index) for row in column.figures]
    names = [figure.name for figure in fields(MixtureFigures)]
    values = {name: mean_of_defined(np.array([getattr(of_row, name) for of_row in column.figures.values()])) for name in names}
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
    """Share of (source, target) pairs of one class, and how many targets they draw on; None where no source has a target."""
    pairs = np.array([pair for pair in pairs if pair[1] != NO_TARGET], dtype=np.int64).reshape(-1, 2)
    if not len(pairs):
        return {"same_class_share": None, "effective_targets": None}
    sources, targets = pairs.T
    return {"same_class_share": float(np.mean(labels[sources] == labels[targets])), "effective_targets": effective_targets(targets)}


# ---- the page ----


def page(comparison: Comparison, facts: dict, trust: Trust | None) -> Image.Image:
    """Maps and masks in the upper band, targets and mixtures in the lower one; a row of each is an image."""
    settings = comparison.settings
    heading = [
        f"{facts['dataset'].partition('@')[0]}, split {settings.dataset_split}: {len(comparison.shown)} of {facts['images']} images drawn "
        f"with seed {settings.seed}, at {settings.resolution}x{settings.resolution}; means are over all {facts['images']}.",
        verdict(trust),
    ]
    masks = ["What is the foreground? A saliency map, bright where it sees some, is cut into a mask; the dimmed rest counts as background."]
    mixtures = [
        f"What is it mixed with, and how? A rule chooses the target among at most {settings.num_candidates} candidates; the mixture is the "
        "source's foreground on the target's background."
    ]
    if comparison.true_masks is not None:
        mixtures.append("Leak: how much of the target's true foreground shows. Kept: how much of the source's is still there.")
    return stacked(
        [heading, masks, mask_band(comparison, facts), mixtures, mixture_band(comparison)],
        HEADING_SIZE,
    )


def verdict(trust: Trust | None) -> str:
    """What the trust test says, or that there is nothing to test."""
    if trust is None:
        return "No classifier was given: Grad-CAM is left out, and the preset paper takes the spectral residual instead."
    found = "it reads the BACKGROUND, which Grad-CAM then finds" if trust.reads_background else "no sign that it reads the background"
    return f"The classifier is {trust}: {found}."


def mask_band(comparison: Comparison, facts: dict) -> Image.Image:
    titles = []
    for column, of_column in zip(comparison.masks, facts["masks"], strict=True):
        mean = f"mean IoU {of_column['iou']:.2f}" if "iou" in of_column else f"mean area {of_column['foreground_area']:.0%}"
        name = f"{column.settings.saliency_method}\n+ {cut_by(column.settings)}"
        titles.append("\n".join([name, *preset_line(column.presets), mean]))
    groups = [Group("image", ["source"]), Group("saliency maps", list(comparison.methods)), Group("masks", titles)]
    if comparison.true_masks is not None:
        groups.append(Group("truth", [f"column\n{comparison.settings.mask_column}\nbest fixed mask:\nIoU {facts['best_fixed_iou']:.2f}"]))
    return draw_panels(groups, [mask_row(comparison, row) for row in comparison.shown], PANEL, FONT_SIZE)


def mask_row(comparison: Comparison, row: int) -> list[Panel]:
    pixels = comparison.pixels[row]
    panels = [Panel(pixels, comparison.split.class_names[comparison.split.labels[row]])]
    panels += [Panel(saliency_panel(comparison.maps[method][row], PANEL), " ") for method in comparison.methods]
    true = None if comparison.true_masks is None else comparison.true_masks[row]
    for column in comparison.masks:
        mask = column.masks[row]
        caption = f"area {mask.mean():.0%}" if true is None else f"IoU {mask_iou(mask[None], true[None])[0]:.2f}"
        panels.append(Panel(outlined_panel(MaskedImage(pixels, mask, 1.0), PANEL), caption if mask.any() else "empty"))
    if true is not None:
        panels.append(Panel(outlined_panel(MaskedImage(pixels, true, 1.0), PANEL), f"area {true.mean():.0%}"))
    return panels


def mixture_band(comparison: Comparison) -> Image.Image:
    targets = []
    for column in comparison.targets:
        rule = [column.settings.selection_method, f"{column.settings.target_classes} class", *preset_line(column.presets)]
        targets.append("\n".join(rule))
    plain = [MIXING_TITLES[column.name] for column in comparison.mixtures if column.name in MIXING_TITLES]
    whole = [f"{column.name}\nwith its target" for column in comparison.mixtures if column.name not in MIXING_TITLES]
    groups = [
        Group("image", ["source"]),
        Group("targets", targets),
        Group("mixtures with recommended's target", plain),
        Group("whole presets", whole),
    ]
    return draw_panels(groups, [mixture_row(comparison, row) for row in comparison.shown], PANEL, FONT_SIZE)


def mixture_row(comparison: Comparison, row: int) -> list[Panel]:
    split = comparison.split
    panels = [Panel(comparison.pixels[row], split.class_names[split.labels[row]])]
    for column in comparison.targets:
        planned = column.plan[row]
        if planned.skip is not None:
            panels.append(Panel(planned.skip))
        else:
            panels.append(Panel(comparison.pixels[planned.target_index], split.class_names[split.labels[planned.target_index]]))
    for column in comparison.mixtures:
        if row in column.skipped:
            panels.append(Panel(column.skipped[row]))
        else:
            panels.append(Panel(column.mixtures[row].mixed, figures_line(column.figures.get(row))))
    return panels


def figures_line(figures: MixtureFigures | None) -> str:
    return " " if figures is None else f"leak {figures.leak:.0%}, kept {figures.foreground_kept:.0%}"


def preset_line(presets: list[str]) -> list[str]:
    return [f"({', '.join(presets)})"] if presets else []


def cut_by(settings: AugmentSettings) -> str:
    """What makes a mask of the map."""
    return settings.threshold_method if settings.mask_refinement == "none" else settings.mask_refinement


# ---- the printed tables ----


def tables(facts: dict, trust: Trust | None) -> str:
    """The figures as text."""
    parts = [verdict(trust), text_table(f"masks of {facts['images']} images", facts["masks"], ("foreground_area", "empty", *MASK_MEASURES))]
    if facts["best_fixed_iou"] is not None:
        parts.append(f"The best fixed mask, which looks at no image, has an IoU of {facts['best_fixed_iou']:.2f}.")
    parts.append(text_table("targets", facts["targets"], SPREAD))
    if facts["mixtures"]:
        names = [figure.name for figure in fields(MixtureFigures)]
        parts.append(text_table("mixtures", facts["mixtures"], (*names, *SPREAD)))
    return "\n\n".join(parts)


def text_table(title: str, recipes: list[dict], columns: tuple[str, ...]) -> str:
    """A line for each recipe, with those of the columns that it has."""
    columns = [column for column in columns if column in recipes[0]]
    marks = [[] if of_recipe["name"] in PRESETS else preset_line(of_recipe["presets"]) for of_recipe in recipes]
    labels = [" ".join([of_recipe["name"], *mark]) for of_recipe, mark in zip(recipes, marks, strict=True)]
    width = max(map(len, [title, *labels]))
    lines = [title.ljust(width) + "".join(f"  {column.replace('_', ' ')}" for column in columns)]
    for label, of_recipe in zip(labels, recipes, strict=True):
        values = ["-" if of_recipe[column] is None else f"{of_recipe[column]:.2f}" for column in columns]
        lines.append(label.ljust(width) + "".join(f"  {value:>{len(column)}}" for value, column in zip(values, columns, strict=True)))
    return "\n".join(lines)


if __name__ == "__main__":
    launch(main, PreviewSettings)
