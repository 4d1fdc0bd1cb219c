"""Settings of SGD-Mix itself."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from sgdmix_hub.errors import UserError

from .few_step import FewStepMethod, Spacing, sampling_of
from .fields import LONGEST_NAME, LONGEST_PROMPT, names_where, setting
from .kept import KeptSettings, check_kept_foreground
from .memory import MemorySettings
from .presets import apply_preset, saliency_source
from .prompts import NO_FIELDS, check_templates
from .saliency import RembgModel, SaliencyMethod
from .strengths import check_strengths

ThresholdMethod = Literal["otsu", "isodata", "li", "mean", "minimum", "triangle", "yen", "quantile"]


MOST_WORDS = 16  # that a segmenter looks for


@dataclass(kw_only=True)
class MethodSettings(KeptSettings, MemorySettings):
    """How images are masked, matched, mixed and refined.

    Those from `saliency_method` to `paste_foreground` take the preset's value if not given.
    """

    preset: Literal["paper", "recommended"] = setting(
        "recommended",
        "named set of defaults, for the settings from saliency_method to paste_foreground",
    )
    saliency_method: SaliencyMethod | None = setting(
        None, "saliency map that separates foreground from background"
    )
    trust_test: Literal["warn", "fall-back"] | None = setting(
        None, "if the classifier reads the background: warn, or use minimum-barrier instead"
    )
    threshold_method: ThresholdMethod | None = setting(
        None, "threshold of the saliency map: one of scikit-image's, or quantile", makes_masks=True
    )
    largest_component: bool | None = setting(
        None, "keep only the largest connected component of the mask", makes_masks=True
    )
    fill_holes: bool | None = setting(None, "fill holes in the mask", makes_masks=True)
    mask_dilation: float | None = setting(
        None,
        "dilate the mask by this share of the image size",
        makes_masks=True,
        at_least=0,
        at_most=0.5,
    )
    min_mask_confidence: float | None = setting(
        None, "images whose mask has a lower confidence are not mixed", at_least=0, at_most=1
    )
    mask_refinement: Literal["none", "grabcut"] | None = setting(
        None, "refinement of the thresholded mask", makes_masks=True
    )
    selection_method: Literal["l2", "random", "dissimilar", "novel-background"] | None = setting(
        None, "how the target is chosen from the candidates"
    )
    target_classes: Literal["any", "other", "same"] | None = setting(
        None, "classes to draw candidates from, relative to the source's class"
    )
    crop_target: bool | None = setting(
        None, "crop the target to the source's aspect ratio before both are made square"
    )
    mixing_method: Literal["union", "source", "inpaint", "none"] | None = setting(
        None, "how source and target are mixed; none refines the source alone"
    )
    feather: float | None = setting(
        None,
        "sigma of the mask's soft edge, as a share of the image size; 0 is a hard edge",
        at_least=0,
        at_most=0.5,
    )
    foreground_strength: float | None = setting(
        None,
        "strength for the source's foreground, at most S; S if not given (the paper)",
        at_least=0,
        at_most=1,
    )
    paste_foreground: bool | None = setting(
        None, "paste the source's foreground onto the refined image"
    )

    saliency_layer: str | None = setting(
        None,
        "module whose activations the CAM reads; the last stage by default",
        at_most=LONGEST_NAME,
    )
    saliency_input_size: int | None = setting(
        None,
        "input size of the classifier for saliency; by default its own, or the one with 7x7 cells",
        at_least=1,
        at_most=4096,
    )
    saliency_sigma: float = setting(
        6.0,
        "sigma of spectral-residual's Gaussian, in pixels of the 64x64 map",
        above=0,
        at_most=64,
    )
    threshold_quantile: float = setting(
        0.8,
        "share of the map that becomes background, for threshold_method quantile",
        makes_masks=True,
        at_least=0,
        at_most=1,
    )
    grabcut_radius: float = setting(
        0.02,
        "for mask_refinement grabcut: width of the band around the mask that counts as probable "
        "foreground, as a share of the image size",
        makes_masks=True,
        at_least=0,
        at_most=0.5,
    )
    grabcut_background_radius: float = setting(
        0.1,
        "for mask_refinement grabcut: distance from the mask beyond which every pixel is "
        "background, as a share of the image size",
        makes_masks=True,
        at_least=0,
        at_most=1,
    )
    mask_column: str | None = setting(
        None,
        "column of foreground masks, for saliency_method mask-column (true masks) or "
        "predicted-column (a model's soft masks)",
        at_most=LONGEST_NAME,
    )
    segmenter_prompt: str | None = setting(
        None,
        "what the segmenter looks for: words between commas; by default the adapter's metaclass",
        at_most=LONGEST_PROMPT,
    )
    segmenter_instances: Literal["union", "largest", "nearest-box"] = setting(
        "union", "foreground of an image in which the segmenter finds several instances"
    )
    bbox_column: str | None = setting(
        None,
        "column with one box an image, for saliency_method box-column or a SAM 2 segmenter",
        at_most=LONGEST_NAME,
    )
    bbox_format: Literal["xywh", "xyxy"] | None = setting(
        None, "boxes as left, top, width, height (COCO) or left, top, right, bottom; in pixels"
    )
    rembg_model: RembgModel = setting(
        "isnet-general-use", "model of the package rembg, for saliency_method rembg"
    )
    low_confidence: Literal["skip", "keep-unmixed"] = setting(
        "skip", "rows whose mask is below min_mask_confidence: skip, or keep the source as it is"
    )
    max_target_reuse: int | None = setting(
        None,
        "maximum number of rows with the same target image; unlimited if not given",
        at_least=1,
        at_most=10**7,
    )
    inpainting_method: Literal["opencv", "diffusion"] = setting(
        "opencv", "how mixing_method inpaint fills the target's foreground"
    )
    prompt_class: Literal["source", "target"] = setting(
        "source", "class that gives the prompt and the label"
    )
    prompt_template: list[str] | None = setting(
        None,
        "prompt, or several of which each row draws one; with {token} and {metaclass} (by default "
        "the adapter's own), or with {class_name} for a base model alone or with an adapter of "
        "another program",
        at_most=LONGEST_PROMPT,
    )
    metaclass: str | None = setting(
        None,
        "common name of all classes (bird, car ...), for {metaclass} in prompt_template and for a "
        "segmenter; by default that of the adapter",
        at_most=LONGEST_NAME,
    )
    background_prompts: list[str] | None = setting(
        None,
        "texts such as 'in the snow'; each row appends one of them, drawn at random, to its prompt",
        at_most=LONGEST_PROMPT,
    )
    background_prompt_template: str | None = setting(
        None,
        "prompt, with {background}, for as long as the foreground is kept (foreground_strength)",
        at_most=LONGEST_PROMPT,
    )
    negative_prompt: str | None = setting(
        None, "prompt that guidance steers the image away from", at_most=LONGEST_PROMPT
    )

    strength: list[float] = setting(
        [0.7],
        "S, the share of the diffusion steps that refine the mixed image; 0 only mixes; "
        "with several values, the variants of a source take turns",
        at_least=0,
        at_most=1,
    )
    strength_unit: Literal["noise-level"] | None = setting(
        None,
        "noise-level: strength and foreground_strength are the noise levels to start from, in "
        "[0, 1], rounded to the nearest step; if not given, they are shares of the steps",
    )
    num_candidates: int = setting(
        50, "N, the number of candidates the target is chosen from", at_least=1, at_most=10**7
    )
    num_variants: int = setting(
        1,
        "images to make from each source; 0 only with images_per_class",
        at_least=0,
        at_most=10**4,
    )
    few_step_method: FewStepMethod | None = setting(
        None,
        "how the base or few_step_lora was distilled to few steps; sets guidance_scale, "
        "num_inference_steps, scheduler and timestep_spacing where they are not given",
    )
    few_step_weight_name: str | None = setting(
        None,
        "file of few_step_lora, if its repository has several",
        at_most=LONGEST_NAME,
    )
    adapter_weight_name: str | None = setting(
        None,
        "file of an adapter of another program, if its repository has several",
        at_most=LONGEST_NAME,
    )
    # None until `__post_init__`: what few_step_method gives
    guidance_scale: float = setting(
        None,
        "classifier-free guidance scale; off if <= 1 (default: 7.5, or few_step_method's)",
        at_least=0,
        at_most=100,
    )
    num_inference_steps: int = setting(
        None,
        "number of diffusion steps at strength 1 (default: 25, or few_step_method's)",
        at_least=1,
        at_most=1000,
    )
    scheduler: Literal["dpmsolver++", "ddim", "euler", "unipc", "lcm", "tcd"] = setting(
        None, "noise scheduler (default: dpmsolver++, or few_step_method's)"
    )
    timestep_spacing: Spacing | None = setting(
        None,
        "how the steps are spread over the noise schedule, as in diffusers; by default as the base "
        "or few_step_method says",
    )
    safety_checker: bool = setting(
        True, "run the base model's safety checker and skip the rows that it flags"
    )
    resolution: int = setting(
        512,
        "width and height of the images, in pixels; with aspect-buckets the root of their area",
        at_least=8,
        at_most=4096,
        multiple_of=8,
    )
    resize: Literal["stretch", "aspect-buckets", "center-crop"] = setting(
        "stretch",
        "how images are resized: to a square, stretched or cropped, or to the source's aspect "
        "ratio, in steps of 64 pixels",
    )
    dtype: Literal["float32", "float16", "bfloat16"] = setting(
        "float32", "precision of the diffusion model"
    )
    batch_size: int = setting(
        8, "images to refine at once", changes="last_bits", at_least=1, at_most=4096
    )
    compile: bool = setting(
        False, "torch.compile the diffusion model; a CPU needs a C++ compiler", changes="last_bits"
    )

    def __post_init__(self) -> None:
        """Fills in the sampling, and sorts the strengths: their order has no meaning.

        Raises `UserError`.
        """
        for name, value in dataclasses.asdict(sampling_of(self.few_step_method)).items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        super().__post_init__()
        self.strength = sorted(self.strength)

    @property
    def stated_strength(self) -> float | list[float]:
        """S as a configuration states it: one number, or a list of several."""
        return self.strength[0] if len(self.strength) == 1 else self.strength

    @property
    def refines(self) -> bool:
        """Whether any strength needs the diffusion model."""
        return max(self.strength) > 0

    def validate(self) -> None:
        super().validate()
        if self.num_variants == 0 and getattr(self, "images_per_class", None) is None:
            raise UserError("num_variants is 0: give at least 1, or images_per_class")
        check_strengths(self)
        if self.kept_erosion is not None:
            check_kept_foreground(self, "kept_erosion")
        self._validate_masks()
        self._validate_prompts()
        self._validate_memory()
        mixing_method = apply_preset(self).mixing_method
        if self.prompt_class == "target" and min(self.strength) == 0:
            raise UserError(
                "prompt_class target needs every strength above 0: without refinement no prompt is "
                "used"
            )
        if mixing_method == "none" and min(self.strength) == 0:
            raise UserError(
                "mixing_method none needs every strength above 0: strength 0 would copy the source"
            )
        if self.inpainting_method == "diffusion":
            if mixing_method != "inpaint" or not self.refines:
                raise UserError(
                    "inpainting_method diffusion needs mixing_method inpaint, and a strength above "
                    "0, which loads the diffusion model"
                )
            if self.num_inference_steps < 2:
                raise UserError(
                    "inpainting_method diffusion needs num_inference_steps of at least 2: it "
                    "inpaints at a strength below 1"
                )

    def _validate_memory(self) -> None:
        if self.compile and self.cpu_offload:
            raise UserError("compile does not go with cpu_offload: leave one of them out")
        if self.quantization is not None and self.inpainting_method == "diffusion":
            raise UserError(
                "inpainting_method diffusion does not go with quantization: leave one of them out"
            )
        if self.quantization == "torchao-int8" and self.dtype != "bfloat16":
            raise UserError("quantization torchao-int8 computes in bfloat16: give --dtype bfloat16")
        if self.regional_compile and not self.compile:
            raise UserError("regional_compile says how to compile: give --compile too")

    def _validate_prompts(self) -> None:
        backgrounds, template = self.background_prompts, self.background_prompt_template
        check_templates("background_prompts", backgrounds or [], NO_FIELDS)
        if self.negative_prompt is not None:
            check_templates("negative_prompt", [self.negative_prompt], NO_FIELDS)
            if self.refines and self.guidance_scale <= 1:
                raise UserError(
                    "negative_prompt needs guidance_scale above 1: without guidance it is not read"
                )
        if template is None:
            return
        if backgrounds is None and "{background}" in template:
            raise UserError("background_prompt_template with {background} needs background_prompts")
        fields = NO_FIELDS if backgrounds is None else {"background": (1, 1)}
        check_templates("background_prompt_template", [template], fields)
        check_kept_foreground(self, "background_prompt_template")

    def _validate_masks(self) -> None:
        if (self.bbox_column is None) != (self.bbox_format is None):
            raise UserError(
                "bbox_column and bbox_format belong together: xywh is left, top, width, height "
                "(COCO), xyxy is left, top, right, bottom"
            )
        if len(sought_words(self, None)) > MOST_WORDS:
            raise UserError(
                f"segmenter_prompt has more than {MOST_WORDS} words between commas: the segmenter "
                "looks for each of them in every image"
            )
        if self.segmenter_instances == "nearest-box" and self.bbox_column is None:
            raise UserError("segmenter_instances nearest-box needs --bbox_column")
        if self.grabcut_background_radius < self.grabcut_radius:
            raise UserError(
                f"grabcut_background_radius {self.grabcut_background_radius:g} is below "
                f"grabcut_radius {self.grabcut_radius:g}: what is rather foreground cannot be "
                "certain background"
            )
        if self.min_mask_confidence and not saliency_source(self).has_confidence:
            raise UserError(
                f"min_mask_confidence {self.min_mask_confidence:g} needs a saliency_method that "
                f"gives confidences, which {apply_preset(self).saliency_method} does not"
            )


def sought_words(settings: MethodSettings, metaclass: str | None) -> tuple[str, ...]:
    """What a segmenter looks for: the words of `segmenter_prompt`, or the adapter's metaclass, or
    the settings'.
    """
    words = settings.segmenter_prompt or metaclass or settings.metaclass or ""
    return tuple(word.strip() for word in words.split(",") if word.strip())


# The settings that turn a saliency map into a mask.
MASK_SETTINGS = names_where(MethodSettings, makes_masks=True)
COMPARE_MAPS = ("l2", "dissimilar")  # selection methods that need a foreground in every target
