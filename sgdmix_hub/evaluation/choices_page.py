"""The preview's page: masks, targets and mixtures of every choice beside each other, and their
table.
"""

from __future__ import annotations

from dataclasses import fields

from PIL import Image

from sgdmix_hub.errors import Unusable
from sgdmix_hub.figures.panels import (
    Group,
    Panel,
    draw_panels,
    outlined_panel,
    saliency_panel,
    stacked,
)
from sgdmix_hub.method.mixer import MaskedImage
from sgdmix_hub.method.saliency.trust import Trust
from sgdmix_hub.metrics.mask_quality import boundary_f, mask_iou, mask_precision, mask_recall
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.method import PRESETS

from .choices import Comparison, MixtureFigures

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
    "source": "source\nmask alone",
    "inpaint": "inpaint\nthe target first",
}


def page(comparison: Comparison, facts: dict, trust: Trust | None) -> Image.Image:
    """Maps and masks in the upper band, targets and mixtures in the lower one; a row of each is an
    image.
    """
    settings = comparison.settings
    heading = [
        f"{facts['dataset'].partition('@')[0]}, split {settings.dataset_split}: {len(comparison.shown)} of {facts['images']} images drawn "
        f"with seed {settings.seed}, at {settings.resolution}x{settings.resolution}; means are over all {facts['images']}.",
        verdict(trust),
    ]
    masks = [
        "What is the foreground? A saliency map, bright where it sees some, is cut into a mask; the dimmed rest counts as background."
    ]
    mixtures = [
        f"What is it mixed with, and how? A rule chooses the target among at most {settings.num_candidates} candidates; the mixture is the "
        "source's foreground on the target's background."
    ]
    if comparison.true_masks is not None:
        mixtures.append(
            "Leak: how much of the target's true foreground shows. Kept: how much of the source's is still there."
        )
    return stacked(
        [heading, masks, mask_band(comparison, facts), mixtures, mixture_band(comparison)],
        HEADING_SIZE,
    )


def verdict(trust: Trust | None) -> str:
    """What the trust test says, or that there is nothing to test."""
    if trust is None:
        return "No classifier was given: Grad-CAM is left out, and the preset paper takes the spectral residual instead."
    found = (
        "it reads the BACKGROUND, which Grad-CAM then finds"
        if trust.reads_background
        else "no sign that it reads the background"
    )
    return f"The classifier is {trust}: {found}."


def mask_band(comparison: Comparison, facts: dict) -> Image.Image:
    titles = []
    for column, of_column in zip(comparison.masks, facts["masks"], strict=True):
        mean = (
            f"mean IoU {of_column['iou']:.2f}"
            if "iou" in of_column
            else f"mean area {of_column['foreground_area']:.0%}"
        )
        name = f"{column.settings.saliency_method}\n+ {cut_by(column.settings)}"
        titles.append("\n".join([name, *preset_line(column.presets), mean]))
    groups = [
        Group("image", ["source"]),
        Group("saliency maps", list(comparison.methods)),
        Group("masks", titles),
    ]
    if comparison.true_masks is not None:
        groups.append(
            Group(
                "truth",
                [
                    f"column\n{comparison.settings.mask_column}\nbest fixed mask:\nIoU {facts['best_fixed_iou']:.2f}"
                ],
            )
        )
    return draw_panels(
        groups, [mask_row(comparison, row) for row in comparison.shown], PANEL, FONT_SIZE
    )


def mask_row(comparison: Comparison, row: int) -> list[Panel]:
    pixels = comparison.pixels[row]
    panels = [Panel(pixels, comparison.split.class_names[comparison.split.labels[row]])]
    panels += [
        Panel(saliency_panel(comparison.maps[method][row], PANEL), " ")
        for method in comparison.methods
    ]
    true = None if comparison.true_masks is None else comparison.true_masks[row]
    for column in comparison.masks:
        mask = column.masks[row]
        caption = (
            f"area {mask.mean():.0%}"
            if true is None
            else f"IoU {mask_iou(mask[None], true[None])[0]:.2f}"
        )
        panels.append(
            Panel(
                outlined_panel(MaskedImage(pixels, mask, 1.0), PANEL),
                caption if mask.any() else "empty",
            )
        )
    if true is not None:
        panels.append(
            Panel(outlined_panel(MaskedImage(pixels, true, 1.0), PANEL), f"area {true.mean():.0%}")
        )
    return panels


def mixture_band(comparison: Comparison) -> Image.Image:
    targets = []
    for column in comparison.targets:
        rule = [
            column.settings.selection_method,
            f"{column.settings.target_classes} class",
            *preset_line(column.presets),
        ]
        targets.append("\n".join(rule))
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
    return draw_panels(
        groups, [mixture_row(comparison, row) for row in comparison.shown], PANEL, FONT_SIZE
    )


def mixture_row(comparison: Comparison, row: int) -> list[Panel]:
    split = comparison.split
    panels = [Panel(comparison.pixels[row], split.class_names[split.labels[row]])]
    for column in comparison.targets:
        planned = column.plan[row]
        if planned.skip is not None:
            panels.append(Panel(Unusable(planned.skip)))
        else:
            panels.append(
                Panel(
                    comparison.pixels[planned.target_index],
                    split.class_names[split.labels[planned.target_index]],
                )
            )
    for column in comparison.mixtures:
        if row in column.skipped:
            panels.append(Panel(Unusable(column.skipped[row])))
        else:
            panels.append(Panel(column.mixtures[row].mixed, figures_line(column.figures.get(row))))
    return panels


def figures_line(figures: MixtureFigures | None) -> str:
    return (
        " " if figures is None else f"leak {figures.leak:.0%}, kept {figures.foreground_kept:.0%}"
    )


def preset_line(presets: list[str]) -> list[str]:
    return [f"({', '.join(presets)})"] if presets else []


def cut_by(settings: AugmentSettings) -> str:
    """What makes a mask of the map."""
    return (
        settings.threshold_method
        if settings.mask_refinement == "none"
        else settings.mask_refinement
    )


def tables(facts: dict, trust: Trust | None) -> str:
    """The figures as text."""
    parts = [
        verdict(trust),
        text_table(
            f"masks of {facts['images']} images",
            facts["masks"],
            ("foreground_area", "empty", *MASK_MEASURES),
        ),
    ]
    if facts["best_fixed_iou"] is not None:
        parts.append(
            f"The best fixed mask, which looks at no image, has an IoU of {facts['best_fixed_iou']:.2f}."
        )
    parts.append(text_table("targets", facts["targets"], SPREAD))
    if facts["mixtures"]:
        names = [figure.name for figure in fields(MixtureFigures)]
        parts.append(text_table("mixtures", facts["mixtures"], (*names, *SPREAD)))
    return "\n\n".join(parts)


def text_table(title: str, recipes: list[dict], columns: tuple[str, ...]) -> str:
    """A line for each recipe, with those of the columns that it has."""
    columns = [column for column in columns if column in recipes[0]]
    marks = [
        [] if of_recipe["name"] in PRESETS else preset_line(of_recipe["presets"])
        for of_recipe in recipes
    ]
    labels = [
        " ".join([of_recipe["name"], *mark]) for of_recipe, mark in zip(recipes, marks, strict=True)
    ]
    width = max(map(len, [title, *labels]))
    lines = [title.ljust(width) + "".join(f"  {column.replace('_', ' ')}" for column in columns)]
    for label, of_recipe in zip(labels, recipes, strict=True):
        values = [
            "-" if of_recipe[column] is None else f"{of_recipe[column]:.2f}" for column in columns
        ]
        lines.append(
            label.ljust(width)
            + "".join(
                f"  {value:>{len(column)}}" for value, column in zip(values, columns, strict=True)
            )
        )
    return "\n".join(lines)
