"""SGD-Mix's own settings: the method's choices by name, and the presets that name whole sets of
them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

from sgdmix_hub.errors import UserError

from .fields import LONGEST_NAME, Checked, setting

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
    CamMethod, "consensus", "minimum-barrier", "spectral-residual", "mask-column"
]
ThresholdMethod = Literal["otsu", "isodata", "li", "mean", "minimum", "triangle", "yen", "quantile"]


@dataclass(frozen=True)
class SaliencySource:
    """What a saliency method needs, and what its maps depend on besides image and `resize`.

    `key_settings`: name in the key of a map store -> setting.
    """

    needs: Literal["nothing", "classifier", "column"]
    key_settings: dict[str, str] = dataclasses.field(default_factory=dict)


# Every value of `saliency_method`; method/saliency/sources.py loads them.
SALIENCY_SOURCES = {
    **dict.fromkeys(
        CAM_METHODS,
        SaliencySource(
            "classifier", {"layer": "saliency_layer", "input_size": "saliency_input_size"}
        ),
    ),
    "consensus": SaliencySource("nothing"),
    "minimum-barrier": SaliencySource("nothing"),
    "spectral-residual": SaliencySource("nothing", {"sigma": "saliency_sigma"}),
    "mask-column": SaliencySource("column", {"mask_column": "mask_column"}),
}
# What a source needs -> the setting that names it, and the words for it in errors.
NEEDED_SETTINGS = {
    "classifier": ("classifier", "a classifier"),
    "column": ("mask_column", "a column of foreground masks"),
}
# Used instead of a method that cannot be: after a failed trust test, to evaluate a version whose
# classifier is not at hand, and for the mixtures that train a first classifier. Of the methods that
# need nothing it has the best masks (benchmarks/method.py).
FALL_BACK = "minimum-barrier"
# Used for the preset `paper` in a preview without a classifier. FALL_BACK would show the same maps
# as the preset `recommended`.
PREVIEW_FALL_BACK = "spectral-residual"


@dataclass(kw_only=True)
class MethodSettings(Checked):
    """SGD-Mix itself: how images are masked, matched, mixed and refined. Fields left at None in the
    first block take the preset's value.
    """

    preset: Literal["paper", "recommended"] = setting(
        "paper", "named set of choices for the fields below"
    )
    saliency_method: SaliencyMethod | None = setting(
        None, "what tells foreground from background, as a map"
    )
    trust_test: Literal["warn", "fall-back"] | None = setting(
        None, "when the classifier reads the background: warn, or use minimum-barrier"
    )
    threshold_method: ThresholdMethod | None = setting(
        None, "threshold of the saliency map: scikit-image's, or quantile"
    )
    largest_component: bool | None = setting(None, "keep the mask's largest connected part alone")
    fill_holes: bool | None = setting(None, "fill the holes of the mask")
    mask_dilation: float | None = setting(
        None, "widen the mask by this share of the image size", at_least=0, at_most=0.5
    )
    mask_refinement: Literal["none", "grabcut"] | None = setting(
        None, "refinement of the thresholded mask"
    )
    selection_method: Literal["l2", "random", "dissimilar", "novel-background"] | None = setting(
        None, "how the target is chosen among the candidates"
    )
    target_classes: Literal["any", "other", "same"] | None = setting(
        None, "classes that candidates are drawn from"
    )
    crop_target: bool | None = setting(
        None, "crop the target to the source's aspect ratio before both become square"
    )
    mixing_method: Literal["union", "source", "inpaint", "none"] | None = setting(
        None, "how source and target are mixed; none refines the source as it is"
    )
    feather: float | None = setting(
        None,
        "sigma of the mask's soft edge, as a share of the image size; 0 is a hard edge",
        at_least=0,
        at_most=0.5,
    )
    foreground_strength: float | None = setting(
        None,
        "another, lower strength for the source's foreground; the paper's is S everywhere",
        at_least=0,
        at_most=1,
    )
    paste_foreground: bool | None = setting(
        None, "paste the source's foreground over the refined image"
    )

    saliency_layer: str | None = setting(
        None,
        "module whose activations a CAM reads; the last stage by default",
        at_most=LONGEST_NAME,
    )
    saliency_input_size: int | None = setting(
        None,
        "input size of the classifier for saliency; by default its own, or what gives 7x7 cells",
        at_least=1,
        at_most=4096,
    )
    saliency_sigma: float = setting(
        6.0, "Gaussian of the spectral residual, in pixels of the 64x64 map", above=0, at_most=64
    )
    threshold_quantile: float = setting(
        0.8,
        "for threshold_method quantile: share of the map that is background",
        at_least=0,
        at_most=1,
    )
    mask_column: str | None = setting(
        None, "column with foreground masks, for saliency_method mask-column", at_most=LONGEST_NAME
    )
    max_target_reuse: int | None = setting(
        None,
        "how many rows one image may be the target of; no limit when not given",
        at_least=1,
        at_most=10**7,
    )
    inpainting_method: Literal["opencv", "diffusion"] = setting(
        "opencv", "what fills the target's foreground for mixing_method inpaint"
    )
    prompt_class: Literal["source", "target"] = setting(
        "source", "whose class prompt and label name"
    )

    strength: list[float] = setting(
        [0.7],
        "S: share of the diffusion steps that refine the mixed image; 0 is mixing alone; of several, a source's variants take turns",
        at_least=0,
        at_most=1,
    )
    num_candidates: int = setting(
        50, "N: candidates that the target is chosen from", at_least=1, at_most=10**7
    )
    num_variants: int = setting(1, "images made from each source image", at_least=1, at_most=10**4)
    guidance_scale: float = setting(
        7.5, "classifier-free guidance; off when <= 1", at_least=0, at_most=100
    )
    num_inference_steps: int = setting(
        25, "diffusion steps at strength 1", at_least=1, at_most=1000
    )
    scheduler: Literal["dpmsolver++", "ddim", "euler", "unipc"] = setting("dpmsolver++", "sampler")
    safety_checker: bool = setting(
        True, "keep the base model's safety checker; the rows it flags are skipped"
    )
    resolution: int = setting(
        512, "images are made at resolution x resolution", at_least=8, at_most=4096, multiple_of=8
    )
    resize: Literal["stretch", "center-crop"] = setting("stretch", "how an image becomes square")
    dtype: Literal["float32", "float16", "bfloat16"] = setting(
        "float32", "precision of the diffusion model"
    )
    batch_size: int = setting(8, "images refined at once", at_least=1, at_most=4096)
    compile: bool = setting(
        False, "compile the diffusion model; on a CPU that needs a C++ compiler"
    )

    def __post_init__(self) -> None:
        """A single strength may be given as a number; the order of several plays no part. Raises
        `UserError`.
        """
        super().__post_init__()
        self.strength = sorted(self.strength)

    @property
    def stated_strength(self) -> float | list[float]:
        """S as a recipe states it: a number where there is one."""
        return self.strength[0] if len(self.strength) == 1 else self.strength

    @property
    def refines(self) -> bool:
        """Whether any strength needs the diffusion model."""
        return max(self.strength) > 0

    def validate(self) -> None:
        """Raises `UserError` on values that no generation could use together."""
        for strength in self.strength:
            if strength > 0 and num_steps(self, strength) == 0:
                smallest = smallest_strength(self.num_inference_steps)
                raise UserError(
                    f"strength {strength} at {self.num_inference_steps} steps runs no diffusion step: "
                    f"give strength 0 (mixing alone) or at least {smallest:g}"
                )
        if len(set(self.strength)) < len(self.strength):
            raise UserError(
                f"strength names {max(self.strength, key=self.strength.count):g} twice: give every value once"
            )
        if self.foreground_strength is not None and self.foreground_strength > min(self.strength):
            raise UserError(
                f"foreground_strength is {self.foreground_strength}: give a value in [0, strength {min(self.strength)}]"
            )
        if self.prompt_class == "target" and not min(self.strength) > 0:
            raise UserError(
                "prompt_class target needs strengths above 0: without refinement no prompt is read"
            )
        if self.inpainting_method == "diffusion" and (
            apply_preset(self).mixing_method != "inpaint" or not self.refines
        ):
            raise UserError(
                "inpainting_method diffusion needs mixing_method inpaint and a strength above 0, which loads the diffusion model"
            )
        if apply_preset(self).mixing_method == "none" and min(self.strength) == 0:
            raise UserError(
                "mixing_method none needs strengths above 0: at 0 it would copy the source"
            )
        if self.inpainting_method == "diffusion" and self.num_inference_steps < 2:
            raise UserError(
                "inpainting_method diffusion needs at least 2 num_inference_steps: it paints at a strength below 1"
            )


Method = TypeVar("Method", bound=MethodSettings)

# The settings a preset names. `paper` is Eq. 7-10; `recommended` is what measured better in
# benchmarks/ (README shows by how much).
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


def num_steps(settings: MethodSettings, strength: float) -> int:
    """How many diffusion steps a strength runs: truncated, as diffusers does."""
    return int(settings.num_inference_steps * strength)


def effective_strength(settings: MethodSettings, strength: float) -> float:
    """The strength that is really run."""
    return num_steps(settings, strength) / settings.num_inference_steps


def smallest_strength(num_inference_steps: int) -> float:
    """The smallest S, in hundredths, that runs a step: `int(steps * S)` is taken in floating point,
    as diffusers does.
    """
    return next(s / 100 for s in range(1, 101) if int(num_inference_steps * (s / 100)) > 0)


def saliency_method(settings: MethodSettings) -> str:
    """The saliency method that the settings name, or else their preset."""
    method = apply_preset(settings).saliency_method
    assert method is not None, "every preset names a saliency method"
    return method


def saliency_source(settings: MethodSettings) -> SaliencySource:
    """The record of the settings' saliency method. Raises `KeyError` for an unknown one."""
    return SALIENCY_SOURCES[saliency_method(settings)]


def apply_preset(settings: Method) -> Method:
    """A copy in which every field left at None has the preset's value."""
    chosen = {
        name: value
        for name, value in PRESETS[settings.preset].items()
        if getattr(settings, name) is None
    }
    return dataclasses.replace(settings, **chosen)


def preset_deviations(settings: MethodSettings) -> dict:
    """The settings that differ from what their preset says."""
    preset = PRESETS[settings.preset]
    return {
        name: getattr(settings, name)
        for name in preset
        if getattr(settings, name) not in (None, preset[name])
    }
