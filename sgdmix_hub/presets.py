"""The method's choices by name, and the presets that name whole sets of them."""

from typing import Literal

# The settings a preset names. `paper` is Eq. 7-10; `recommended` is what measured better in benchmarks/ (README shows by how much).
PRESETS = {
    "paper": {
        "saliency_method": "grad-cam",
        "trust_test": "warn",
        "threshold_method": "otsu",
        "largest_component": False,
        "fill_holes": False,
        "mask_dilation": 0.0,
        "mask_refinement": "none",
        "selection_method": "l2",
        "target_classes": "any",
        "crop_target": False,
        "mixing_method": "union",
        "feather": 0.0,
        "foreground_strength": None,  # S everywhere
        "paste_foreground": False,
    },
    "recommended": {
        "saliency_method": "minimum-barrier",
        "trust_test": "fall-back",
        "threshold_method": "otsu",
        "largest_component": False,
        "fill_holes": False,
        "mask_dilation": 0.0,
        "mask_refinement": "grabcut",
        "selection_method": "l2",
        "target_classes": "other",
        "crop_target": True,
        "mixing_method": "inpaint",
        "feather": 0.01,
        "foreground_strength": 0.0,
        "paste_foreground": True,
    },
}

NAME_PROMPT = "a photo of a {class_name}"  # of a base model without an adapter

# Class activation maps of pytorch-grad-cam look through a classifier; the model-free methods look at the image alone.
CAM_METHODS = (
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
)
SaliencyMethod = Literal[CAM_METHODS + ("minimum-barrier", "spectral-residual", "mask-column")]
ThresholdMethod = Literal["otsu", "isodata", "li", "mean", "minimum", "triangle", "yen", "quantile"]
