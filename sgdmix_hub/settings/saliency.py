"""Saliency sources: the methods, and what each needs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args

# Class activation maps of pytorch-grad-cam. They need a classifier; the other methods need none.
CamMethod = Literal[
    "grad-cam",
    "grad-cam++",
    "grad-cam-elementwise",
    "xgrad-cam",
    "hires-cam",
    "layer-cam",
    "eigen-cam",
    "eigen-grad-cam",
    "score-cam",
    "ablation-cam",
]
CAM_METHODS: tuple[str, ...] = get_args(CamMethod)
SaliencyMethod = Literal[
    CamMethod,
    "consensus",
    "minimum-barrier",
    "spectral-residual",
    "mask-column",
    "predicted-column",
    "box-column",
    "segmentation",
    "rembg",
    "function",
]


@dataclass(frozen=True)
class SaliencySource:
    """What a saliency method needs, and what its maps depend on besides image and `resize`.

    `key_settings`: name in the key of a map store -> setting.
    """

    needs: Literal["nothing", "classifier", "column", "segmenter", "boxes", "rembg", "function"]
    key_settings: dict[str, str] = dataclasses.field(default_factory=dict)
    has_mask: bool = False  # whether it gives masks that are finer than its maps
    has_confidence: bool = False  # whether it says how far each mask can be trusted
    trusted_from: float = 0.0  # the preset `recommended` mixes no mask of less confidence
    # Raised whenever the package finds other masks or confidences: stores of others are not read.
    edition: int = 1

    @property
    def gives_masks(self) -> bool:
        """Whether its masks are finer than its maps: neither a threshold nor GrabCut makes them."""
        return self.has_mask or self.needs == "column"

    @property
    def reads_predictions(self) -> bool:
        """Whether it reads masks that a model made, which are not true ones."""
        return self.needs == "column" and self.has_confidence


# From which a soft mask that a model predicted is trusted (benchmarks/soft_confidence.py).
PREDICTED_FROM = 0.45
BOXES = {"bbox_column": "bbox_column", "bbox_format": "bbox_format"}
# Every value of `saliency_method`; method/saliency/sources.py loads them.
SALIENCY_SOURCES = {
    **dict.fromkeys(
        CAM_METHODS,
        SaliencySource(
            "classifier", {"layer": "saliency_layer", "input_size": "saliency_input_size"}
        ),
    ),
    "consensus": SaliencySource(
        "nothing", has_mask=True, has_confidence=True, trusted_from=0.45, edition=5
    ),
    "minimum-barrier": SaliencySource("nothing"),
    "spectral-residual": SaliencySource("nothing", {"sigma": "saliency_sigma"}),
    "mask-column": SaliencySource("column", {"mask_column": "mask_column"}),
    # Soft masks in a column that a model predicted; those of `mask-column` are taken as true.
    "predicted-column": SaliencySource(
        "column",
        {"mask_column": "mask_column"},
        has_confidence=True,
        trusted_from=PREDICTED_FROM,
        edition=3,
    ),
    "box-column": SaliencySource("boxes", BOXES, has_mask=True),
    "segmentation": SaliencySource(
        "segmenter",
        {"instances": "segmenter_instances"} | BOXES,
        has_mask=True,
        has_confidence=True,
        trusted_from=0.5,  # where each family's own post-processing begins to count
    ),
    "rembg": SaliencySource(
        "rembg",
        {"model": "rembg_model"},
        has_mask=True,
        has_confidence=True,
        trusted_from=PREDICTED_FROM,
        edition=4,
    ),
    # A function of the user's, in Python alone.
    "function": SaliencySource(
        "function", has_mask=True, has_confidence=True, trusted_from=PREDICTED_FROM, edition=4
    ),
}
# What a source needs -> the setting that names it, and the words for it in errors.
NEEDED_SETTINGS = {
    "classifier": ("classifier", "a classifier"),
    "column": ("mask_column", "a column of foreground masks"),
    "segmenter": ("segmenter", "a segmentation model"),
    "boxes": ("bbox_column", "a column of bounding boxes"),
}
RembgModel = Literal[
    "isnet-general-use",
    "birefnet-general",
    "birefnet-general-lite",
    "u2net",
    "u2netp",
    "silueta",
]
# Used instead of a method that cannot be: after a failed trust test, to evaluate a version whose
# classifier is not at hand, and for the mixtures that train a first classifier. Quicker than
# `consensus`, and it leaves no image out.
FALL_BACK = "minimum-barrier"
# Used for the preset `paper` in a preview without a classifier. FALL_BACK would show the same maps
# as the preset `recommended`.
PREVIEW_FALL_BACK = "spectral-residual"
