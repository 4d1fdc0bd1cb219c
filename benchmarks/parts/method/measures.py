"""What benchmarks/method.py measures besides accuracy: masks, mixtures, and labels."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PILImage

from sgdmix_hub.data.images import square
from sgdmix_hub.data.splits import decode_image
from sgdmix_hub.errors import UnusableRow
from sgdmix_hub.generation.background_features import compute_backgrounds
from sgdmix_hub.generation.inputs import resolve_inputs
from sgdmix_hub.generation.plan import make_plan
from sgdmix_hub.generation.row_maker import RowMaker
from sgdmix_hub.generation.saliency_maps import compute_maps
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.metrics.mask_quality import (
    best_fixed_iou,
    boundary_f,
    mask_iou,
    mask_precision,
    mask_recall,
)
from sgdmix_hub.metrics.mixture_quality import MixtureQuality
from sgdmix_hub.models.classifier import Classifier
from sgdmix_hub.publishing.read import load_published
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.presets import apply_preset

CPU = torch.device("cpu")
PREDICTED_AT_ONCE = 32
GRABCUT = {"mask_refinement": "grabcut"}
SPECTRAL, BARRIER = {"saliency_method": "spectral-residual"}, {"saliency_method": "minimum-barrier"}
MASKS = {
    "spectral residual, sigma 2.5": {**SPECTRAL, "saliency_sigma": 2.5},
    "spectral residual, sigma 6": SPECTRAL,
    "spectral residual, sigma 6, GrabCut": {**SPECTRAL, **GRABCUT},
    "Grad-CAM, 4x4 cells (input 32)": {"saliency_input_size": 32},
    "Grad-CAM, 8x8 cells (input 64)": {"saliency_input_size": 64},
    "Grad-CAM (`paper`)": {},
    "Grad-CAM, GrabCut": GRABCUT,
    "Grad-CAM++": {"saliency_method": "grad-cam++"},
    "LayerCAM": {"saliency_method": "layer-cam"},
    "HiResCAM": {"saliency_method": "hires-cam"},
    "Eigen-CAM": {"saliency_method": "eigen-cam"},
    "Grad-CAM bootstrapped": {"classifier": "bootstrapped"},
    "Grad-CAM bootstrapped, GrabCut": {"classifier": "bootstrapped", **GRABCUT},
    "minimum barrier": BARRIER,
    "minimum barrier, Li": {**BARRIER, "threshold_method": "li"},
    "minimum barrier, top 20 %": {**BARRIER, "threshold_method": "quantile"},
    "minimum barrier, GrabCut (`recommended`)": {**BARRIER, **GRABCUT},
    "minimum barrier, GrabCut, largest component, holes filled": {
        **BARRIER,
        **GRABCUT,
        "largest_component": True,
        "fill_holes": True,
    },
}
PAPER_MASKS, GOOD_MASKS = {}, {**BARRIER, **GRABCUT, "target_classes": "other"}
MIXTURES = {
    "`paper`: Grad-CAM, union, l2, N = 50": PAPER_MASKS,
    "the same, N = 10": {**PAPER_MASKS, "num_candidates": 10},
    "the same, random": {**PAPER_MASKS, "selection_method": "random"},
    "the same, dissimilar": {**PAPER_MASKS, "selection_method": "dissimilar"},
    "the same, l2, other classes": {**PAPER_MASKS, "target_classes": "other"},
    "minimum barrier + GrabCut, union, l2, other classes": GOOD_MASKS,
    "the same, source": {**GOOD_MASKS, "mixing_method": "source"},
    "the same, inpaint (`recommended`)": {**GOOD_MASKS, "mixing_method": "inpaint"},
    "the same, inpaint, random": {
        **GOOD_MASKS,
        "mixing_method": "inpaint",
        "selection_method": "random",
    },
    "the same, inpaint, novel-background, at most 8 times": {
        **GOOD_MASKS,
        "mixing_method": "inpaint",
        "selection_method": "novel-background",
        "max_target_reuse": 8,
    },
}


def prepared(run, changes: dict) -> tuple[AugmentSettings, RowMaker]:
    """The settings of a variant and what makes its rows."""
    settings = apply_preset(run.generation("measures", **changes))
    inputs = resolve_inputs(settings, Path(settings.output_dir) / "state")
    maps = compute_maps(settings, inputs.split, inputs.classifier, 0, 1, CPU)
    return settings, RowMaker(settings, inputs, maps)


def true_masks(maker: RowMaker) -> dict[int, np.ndarray]:
    """Row -> true foreground, bool (size, size)."""
    settings, split = maker.settings, maker.inputs.split
    masks = {int(row): decode_image(split.rows[int(row)]["mask"]) for row in split.subset}
    return {
        row: np.asarray(square(mask, settings.resolution, settings.resize)) > 127
        for row, mask in masks.items()
    }


def mask_scores(run) -> dict[str, dict[str, list[float]]]:
    """Mask recipe -> scores of every training image; without a usable map the mask is empty."""
    scores = {}
    for name, changes in MASKS.items():
        _, maker = prepared(run, changes)
        true = true_masks(maker)
        found = np.stack([maker.masked_image(row).mask for row in true])
        true = np.stack(list(true.values()))
        measures = {
            "iou": mask_iou,
            "precision": mask_precision,
            "recall": mask_recall,
            "boundary_f": boundary_f,
        }
        scores[name] = {
            measure: function(found, true).round(4).tolist()
            for measure, function in measures.items()
        }
    return scores | {"best fixed mask": {"iou": [best_fixed_iou(true)]}}


def mixture_scores(run) -> dict[str, dict[str, float]]:
    """Per recipe what its mixtures keep and leak, measured with the true masks."""
    scores = {}
    for name, changes in MIXTURES.items():
        settings, maker = prepared(run, changes)
        split, true = maker.inputs.split, true_masks(maker)
        backgrounds = None
        if settings.selection_method == "novel-background":
            backgrounds = compute_backgrounds(settings, split, maker.maps, 0, 1)
        metric = MixtureQuality()
        for row in make_plan(settings, split, maker.maps, backgrounds):
            try:
                mixture = maker.mixture(row)
            except UnusableRow:
                continue
            metric.add(
                kept=mixture.kept.astype(np.uint8),
                shown=mixture.shown.astype(np.uint8),
                source_mask=true[row.source_index].astype(np.uint8),
                target_mask=true[row.target_index].astype(np.uint8),
                source_label=int(split.labels[row.source_index]),
                target_label=int(split.labels[row.target_index]),
                target_index=row.target_index,
            )
        scores[name] = metric.compute()
    return scores


def predicted_labels(classifier: Path, images: Iterable[PILImage.Image]) -> np.ndarray:
    """What a trained classifier makes of images of any size, int64 (n,)."""
    model = Classifier(resolve(str(classifier)), torch.device("cpu"))
    remaining, predicted = iter(images), []
    while batch := list(islice(remaining, PREDICTED_AT_ONCE)):
        predicted += model.predict(batch).tolist()
    return np.array(predicted)


def label_kept(judge: Path, repo: Path) -> float:
    """Share of an augmented dataset's images to which a judge gives their label."""
    rows = load_published(str(repo))
    predicted = predicted_labels(
        judge, (rows.image(position) for position in range(len(rows.labels)))
    )
    return float((predicted == rows.labels).mean())
