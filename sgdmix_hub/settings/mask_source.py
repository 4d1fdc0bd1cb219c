"""Which source the masks of a run come from, in one line."""

from __future__ import annotations

from .generation import AugmentSettings
from .method import sought_words
from .presets import apply_preset, saliency_method, saliency_source


def masks_line(settings: AugmentSettings, metaclass: str | None = None) -> str:
    """The source of the masks, and what happens to a row whose mask is not trusted.

    `metaclass`: what a segmenter looks for if the settings do not say it.
    """
    line = f"masks: {_origin(settings, metaclass)}"
    floor = apply_preset(settings).min_mask_confidence
    if floor and saliency_source(settings).has_confidence:
        line += f"; below confidence {floor:g}: {settings.low_confidence}"
    return line


def _origin(settings: AugmentSettings, metaclass: str | None) -> str:
    method = saliency_method(settings)
    match saliency_source(settings).needs:
        case "classifier":
            return f"{method} of {settings.classifier}"
        case "column":
            held = "predicted masks in " if method == "predicted-column" else ""
            return f"{held}column {settings.mask_column} of the dataset"
        case "boxes":
            return f"GrabCut in the boxes of column {settings.bbox_column}"
        case "segmenter":
            return f"segmentation by {settings.segmenter}{_asked(settings, metaclass)}"
        case "rembg":
            return f"{settings.rembg_model} of rembg"
    return f"{method}, without a model"


def _asked(settings: AugmentSettings, metaclass: str | None) -> str:
    """What the segmenter is asked for: boxes, words or both."""
    words = " or ".join(sought_words(settings, metaclass))
    looking = f", looking for {words}" if words else ""
    if settings.detector is not None:
        return f" in the boxes of {settings.detector}{looking}"
    if settings.bbox_column is None:
        return looking
    boxes = f"the boxes of column {settings.bbox_column}"
    if settings.segmenter_instances == "nearest-box":
        return f"{looking}, nearest to {boxes}"
    return f" with {boxes}{looking if settings.segmenter_prompt else ''}"
