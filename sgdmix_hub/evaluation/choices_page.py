"""Draws the preview: masks, targets and mixtures of every choice, and tables of their figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
from PIL import Image

from sgdmix_hub.errors import Unusable
from sgdmix_hub.figures.panels import (
    Group,
    Panel,
    draw_panels,
    framed_panel,
    outlined_panel,
    saliency_panel,
    stacked,
)
from sgdmix_hub.method.mixer import MaskedImage
from sgdmix_hub.method.saliency.trust import Trust
from sgdmix_hub.metrics.mask_quality import boundary_f, mask_iou, mask_precision, mask_recall
from sgdmix_hub.settings.presets import PRESETS
from sgdmix_hub.settings.reasons import cause_of, is_low_confidence, most_common
from sgdmix_hub.settings.saliency import SALIENCY_SOURCES

from .choices import UNMIXED, Comparison, MaskColumn, MixtureFigures

PANEL = 128
FONT_SIZE = 13
HEADING_SIZE = 16
MASK_MEASURES = {
    "iou": mask_iou,
    "precision": mask_precision,
    "recall": mask_recall,
    "boundary_f": boundary_f,
}
SPREAD = ("same_class_share", "effective_targets")
MIXING_TITLES = {
    "union": "union\nof both masks",
    "source": "source\nmask only",
    "inpaint": "inpaint\nthe target first",
}


def page(comparison: Comparison, facts: dict, trust: Trust | None) -> Image.Image:
    """Maps and masks in the upper band, targets and mixtures in the lower; one row per image."""
    settings = comparison.settings
    heading = [
        f"{facts['dataset'].partition('@')[0]}, split {settings.dataset_split}: "
        f"{len(comparison.shown)} of {facts['images']} images drawn with seed {settings.seed}, "
        f"at {settings.resolution}x{settings.resolution}; means are over all {facts['images']}.",
        verdict(trust),
        source_line(comparison, facts),
    ]
    masks = [
        "What is the foreground? A saliency map, bright on the foreground, is thresholded to a "
        "mask, or the source makes a mask itself. The rest, shown dimmed, counts as background."
    ]
    if any(column.untrusted for column in comparison.masks):
        masks.append(
            "A red frame: the mask's confidence is below the source's floor. Words instead of a "
            "mask: there is none. Such an image is neither mixed nor a target."
        )
    mixtures = [
        "What is it mixed with, and how? A rule chooses the target among at most "
        f"{settings.num_candidates} candidates. The mixture shows the source's foreground on the "
        "target's background."
    ]
    if comparison.true_masks is not None:
        mixtures.append(
            "Leak: share of the target's true foreground that is visible. "
            "Kept: share of the source's true foreground that is left."
        )
    return stacked(
        [heading, masks, mask_band(comparison, facts), mixtures, mixture_band(comparison)],
        HEADING_SIZE,
    )


def verdict(trust: Trust | None) -> str:
    """The result of the trust test in words."""
    if trust is None:
        return (
            "No classifier was given: Grad-CAM is left out, and the preset paper uses the spectral "
            "residual instead."
        )
    result = "no sign that it reads the background"
    if trust.reads_background:
        result = "it reads the BACKGROUND, so Grad-CAM finds backgrounds"
    return f"The classifier is {trust}: {result}."


def source_line(comparison: Comparison, facts: dict) -> str:
    """Which source the preset `recommended` takes, and how many of its masks are not trusted."""
    share, number = comparison.recommended.untrusted_share, len(comparison.recommended.untrusted)
    taken = facts["recommended"].removeprefix("masks: ")
    line = f"The preset recommended takes its masks from {taken}. "
    if share is None:
        return line + "It states no confidence: every mask is used."
    if not number:
        return line + f"All {facts['images']} masks are trusted."
    why = most_common(map(cause_of, comparison.recommended.untrusted.values()))
    line += f"{number} of {facts['images']} images ({share:.0%}) have no trusted mask"
    return f"{line} ({why})."


def mask_band(comparison: Comparison, facts: dict) -> Image.Image:
    titles = []
    for column, measured in zip(comparison.masks, facts["masks"], strict=True):
        mean = f"mean area {measured['foreground_area']:.0%}"
        if "iou" in measured:
            mean = f"mean IoU {measured['iou']:.2f}"
        name = f"{column.settings.saliency_method}\n+ {cut_by(column)}"
        lines = [name, *preset_line(column.presets), mean]
        if measured["untrusted"] is not None:
            lines.append(f"not trusted: {measured['untrusted']:.0%}")
        titles.append("\n".join(lines))
    groups = [
        Group("image", ["source"]),
        Group("saliency maps", mapped(comparison)),
        Group("masks", titles),
    ]
    if comparison.true_masks is not None:
        best = f"best fixed mask:\nIoU {facts['best_fixed_iou']:.2f}"
        groups.append(
            Group("truth", [f"column\n{comparison.settings.mask_column}\n(compared with)\n{best}"])
        )
    rows = [mask_row(comparison, row) for row in comparison.shown]
    return draw_panels(groups, rows, PANEL, FONT_SIZE)


def mapped(comparison: Comparison) -> list[str]:
    """The methods whose masks are cut from their maps, which are shown."""
    return [name for name in comparison.methods if not SALIENCY_SOURCES[name].gives_masks]


def mask_row(comparison: Comparison, row: int) -> list[Panel]:
    pixels = comparison.pixels[row]
    panels = [Panel(pixels, comparison.split.class_names[comparison.split.labels[row]])]
    panels += [
        Panel(saliency_panel(comparison.maps[method][row], PANEL), " ")
        for method in mapped(comparison)
    ]
    true = None if comparison.true_masks is None else comparison.true_masks[row]
    for column in comparison.masks:
        panels.append(mask_panel_of(column, row, pixels, true))
    if true is not None:
        picture = outlined_panel(MaskedImage(pixels, true, (1, 1)), PANEL)
        panels.append(Panel(picture, f"area {true.mean():.0%}"))
    return panels


def mask_panel_of(
    column: MaskColumn, row: int, pixels: np.ndarray, true: np.ndarray | None
) -> Panel:
    """A row's mask, in a red frame if it is not trusted; the reason if there is none."""
    mask = column.masks[row]
    if not mask.any():
        return Panel(Unusable(cause_of(column.untrusted.get(row, "empty"))), " ")
    picture = outlined_panel(MaskedImage(pixels, mask, (1, 1)), PANEL)
    if row in column.untrusted:
        picture = framed_panel(picture)
    return Panel(picture, mask_caption(column, row, true))


def mask_caption(column: MaskColumn, row: int, true: np.ndarray | None) -> str:
    """A mask's IoU, or its area if the true one is unknown, and its confidence."""
    mask = column.masks[row]
    words = f"area {mask.mean():.0%}"
    if true is not None:
        words = f"IoU {mask_iou(mask[None], true[None])[0]:.2f}"
    confidence = column.confidences.get(row)
    return words if confidence is None else f"{words}, conf. {confidence:.2f}"


def mixture_band(comparison: Comparison) -> Image.Image:
    targets = []
    for column in comparison.targets:
        rule = f"{column.settings.selection_method}\n{column.settings.target_classes} class"
        targets.append("\n".join([rule, *preset_line(column.presets)]))
    plain = [
        MIXING_TITLES[column.name] for column in comparison.mixtures if column.name in MIXING_TITLES
    ]
    whole = [
        f"{column.name}\nwith its target"
        for column in comparison.mixtures
        if column.name not in MIXING_TITLES
    ]
    groups = [
        Group("image", ["source"]),
        Group("targets", targets),
        Group("mixtures with recommended's target", plain),
        Group("whole presets", whole),
    ]
    rows = [mixture_row(comparison, row) for row in comparison.shown]
    return draw_panels(groups, rows, PANEL, FONT_SIZE)


def mixture_row(comparison: Comparison, row: int) -> list[Panel]:
    split = comparison.split
    panels = [Panel(comparison.pixels[row], split.class_names[split.labels[row]])]
    for column in comparison.targets:
        planned = column.plan[row]
        if planned.skip is not None:
            panels.append(no_picture(planned.skip))
        elif planned.is_unmixed:
            panels.append(no_picture(UNMIXED))
        else:
            panels.append(Panel(*comparison.target(planned.target_index)))
    for column in comparison.mixtures:
        if row in column.skipped:
            panels.append(no_picture(column.skipped[row]))
        else:
            panels.append(Panel(column.mixtures[row].mixed, figures_line(column.figures.get(row))))
    return panels


def no_picture(reason: str) -> Panel:
    return Panel(Unusable("mask not trusted" if is_low_confidence(reason) else reason))


def figures_line(figures: MixtureFigures | None) -> str:
    if figures is None:
        return " "
    return f"leak {figures.leak:.0%}, kept {figures.foreground_kept:.0%}"


def preset_line(presets: list[str]) -> list[str]:
    return [f"({', '.join(presets)})"] if presets else []


def cut_by(column: MaskColumn) -> str:
    """What makes the mask: the source itself, or a threshold or refinement from its map."""
    settings = column.settings
    if column.has_own_masks:
        return "own mask"
    if settings.mask_refinement == "none":
        return str(settings.threshold_method)
    return str(settings.mask_refinement)


def tables(comparison: Comparison, facts: dict, trust: Trust | None) -> str:
    """The figures as text."""
    title = f"masks of {facts['images']} images"
    columns = ("foreground_area", "empty", "confidence", "untrusted", *MASK_MEASURES)
    parts = [
        verdict(trust),
        source_line(comparison, facts),
        text_table(title, facts["masks"], columns),
    ]
    if facts["best_fixed_iou"] is not None:
        parts.append(
            "The best fixed mask, the same for all images, has an IoU of "
            f"{facts['best_fixed_iou']:.2f}."
        )
    parts.append(text_table("targets", facts["targets"], SPREAD))
    if facts["mixtures"]:
        names = [figure.name for figure in fields(MixtureFigures)]
        parts.append(text_table("mixtures", facts["mixtures"], (*names, *SPREAD)))
    return "\n\n".join(parts)


def text_table(title: str, recipes: list[dict], columns: Sequence[str]) -> str:
    """One line per recipe, with those of the columns that the recipes have."""
    columns = [column for column in columns if column in recipes[0]]
    labels = []
    for recipe in recipes:
        marks = [] if recipe["name"] in PRESETS else preset_line(recipe["presets"])
        labels.append(" ".join([recipe["name"], *marks]))
    width = max(map(len, [title, *labels]))
    lines = [title.ljust(width) + "".join(f"  {column.replace('_', ' ')}" for column in columns)]
    for label, recipe in zip(labels, recipes, strict=True):
        cells = [f"  {_cell(recipe[column]):>{len(column)}}" for column in columns]
        lines.append(label.ljust(width) + "".join(cells))
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
