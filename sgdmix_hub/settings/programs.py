"""Settings of the programs around a generation: publish, preview, run all stages."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from sgdmix_hub.errors import UserError
from sgdmix_hub.storage.places import check_url, is_url, refuse_url

from .adapter_training import AdapterSettings
from .data import DataSettings, outside_of_dataset
from .few_step import FewStepMethod
from .fields import (
    LONGEST_NAME,
    LONGEST_PROMPT,
    Checked,
    NumberOrAuto,
    required,
    same,
    setting,
    unset,
)
from .generation import AugmentSettings
from .hub import HubSettings
from .presets import AT_HAND, PRESETS, apply_preset, saliency_source
from .saliency import PREVIEW_FALL_BACK, SALIENCY_SOURCES, RembgModel, SaliencyMethod
from .training import ClassifierSettings

MOST_PREVIEWED = 24  # images on a page


@dataclass(kw_only=True)
class PublishSettings(HubSettings):
    """Publishes a finished generation as a version of a dataset."""

    folder: str = required(
        "output folder of a finished generation, also s3://...; or its repo folder"
    )
    max_skipped: float = setting(
        0.01,
        "publish nothing, and exit with code 3, if a larger share of the rows was skipped",
        at_least=0,
        at_most=1,
    )

    def validate(self) -> None:
        super().validate()
        if is_url(self.folder):
            check_url("folder", self.folder)
        self.validate_hub()


def _prompt_of_metaclass() -> Any:
    return setting(
        None,
        "what the segmenter looks for: words between commas; the metaclass by default",
        at_most=LONGEST_PROMPT,
    )


@dataclass(kw_only=True)
class PreviewSettings(DataSettings):
    """One page of pictures and a table: what each choice of the method does to a dataset, without
    the diffusion model.
    """

    classifier: str | None = setting(
        None, "classifier for Grad-CAM, as org/name[@revision] or folder; no Grad-CAM if not given"
    )
    saliency_layer: str | None = setting(
        None,
        "module whose activations Grad-CAM reads; the last stage by default",
        at_most=LONGEST_NAME,
    )
    saliency_input_size: int | None = setting(
        None,
        "input size of the classifier for saliency; by default its own, or the one with 7x7 cells",
        at_least=1,
        at_most=4096,
    )
    saliency_method: SaliencyMethod | None = setting(
        None, "source of the masks of the preset recommended; by default the best at hand"
    )
    metaclass: str | None = setting(
        None,
        "common name of all classes, which the segmenter looks for: bird, car, flower ...",
        at_most=LONGEST_NAME,
    )
    segmenter: str | None = unset(AugmentSettings, "segmenter")
    detector: str | None = unset(AugmentSettings, "detector")
    segmenter_prompt: str | None = _prompt_of_metaclass()
    segmenter_instances: Literal["union", "largest", "nearest-box"] = same(
        AugmentSettings, "segmenter_instances"
    )
    bbox_column: str | None = unset(AugmentSettings, "bbox_column")
    bbox_format: Literal["xywh", "xyxy"] | None = unset(AugmentSettings, "bbox_format")
    min_mask_confidence: float | None = unset(AugmentSettings, "min_mask_confidence")
    low_confidence: Literal["skip", "keep-unmixed"] = same(AugmentSettings, "low_confidence")
    background_dataset_name: str | None = unset(AugmentSettings, "background_dataset_name")
    background_config_name: str | None = unset(AugmentSettings, "background_config_name")
    background_split: str | None = unset(AugmentSettings, "background_split")
    background_image_column: str | None = unset(AugmentSettings, "background_image_column")
    background_has_foreground: bool | None = unset(AugmentSettings, "background_has_foreground")
    mask_column: str | None = setting(
        None,
        "column of true foreground masks, to show and to measure against; with saliency_method "
        "predicted-column, of the masks to show",
        at_most=LONGEST_NAME,
    )
    rembg_model: RembgModel = same(AugmentSettings, "rembg_model")
    num_images: int = setting(
        6, "images on the page, spread over the classes", at_least=1, at_most=MOST_PREVIEWED
    )
    num_candidates: int = setting(
        50, "N, the number of candidates the target is chosen from", at_least=1, at_most=10**7
    )
    resolution: int = setting(
        256, "width and height of the images, in pixels", at_least=8, at_most=4096, multiple_of=8
    )
    resize: Literal["stretch", "aspect-buckets", "center-crop"] = setting(
        "stretch",
        "how images are resized: to squares, or with aspect-buckets, mixtures to the source's "
        "aspect ratio; masks are measured on squares",
    )

    @property
    def true_mask_column(self) -> str | None:
        """The column of masks that the others are measured against, if it holds true ones."""
        source = SALIENCY_SOURCES.get(self.saliency_method or "")
        return None if source is not None and source.reads_predictions else self.mask_column

    def validate(self) -> None:
        super().validate()
        for name in ("saliency_layer", "saliency_input_size"):
            if self.classifier is None and getattr(self, name) is not None:
                raise UserError(
                    f"{name} is for Grad-CAM, which needs --classifier, as org/name@revision or a "
                    "folder"
                )
        recipe(self, "recommended").validate()


SHARED = {field.name for field in dataclasses.fields(PreviewSettings)} & {
    field.name for field in dataclasses.fields(AugmentSettings)
} - {"mask_column", "saliency_method"}


def recipe(settings: PreviewSettings, preset: str = "paper", **choices: Any) -> AugmentSettings:
    """Settings that mix the preview's data without refining: a preset, overridden by `choices`.

    They name a column of masks only if they read it: else it is there to compare with.
    """
    shared: dict[str, Any] = {name: getattr(settings, name) for name in SHARED}
    shared["segmenter_prompt"] = settings.segmenter_prompt or settings.metaclass
    source = SALIENCY_SOURCES[PRESETS[preset]["saliency_method"]]
    without_labels = settings.classifier is None or settings.background_has_foreground
    if without_labels and source.needs == "classifier":
        shared["saliency_method"] = PREVIEW_FALL_BACK
    if preset == "recommended":
        shared["saliency_method"] = settings.saliency_method
    # nothing is made from a preview, so a classifier trained on other rows leaks nothing here
    shared |= choices | {"preset": preset, "strength": 0.0, "allow_other_subset": True}
    made = apply_preset(AugmentSettings(**shared))
    if saliency_source(made).needs == "column":
        return dataclasses.replace(made, mask_column=settings.mask_column)
    return made


@dataclass(kw_only=True)
class RowOverrides(Checked):
    """Which rows of a dataset, as in `DataSettings`; only settings that are given count."""

    dataset_config_name: str | None = unset(DataSettings, "dataset_config_name")
    dataset_split: str | None = unset(DataSettings, "dataset_split")
    image_column: str | None = unset(DataSettings, "image_column")
    label_column: str | None = unset(DataSettings, "label_column")
    streaming: bool | None = unset(DataSettings, "streaming")
    max_image_pixels: int | None = unset(DataSettings, "max_image_pixels")
    examples_per_class: int | None = unset(DataSettings, "examples_per_class")
    imbalance_factor: float | None = unset(DataSettings, "imbalance_factor")
    subset_seed: int | None = unset(DataSettings, "subset_seed")
    seed: int | None = unset(DataSettings, "seed")
    num_threads: int | None = unset(DataSettings, "num_threads")


@dataclass(kw_only=True)
class DataOverrides(RowOverrides):
    """The settings of `DataSettings`, of which only those that are given reach the stages."""

    dataset_name: str = required("Hub dataset as org/name[@revision], or a local folder")
    output_dir: str = required("output folder of all stages")


@dataclass(kw_only=True)
class RunSettings(HubSettings, DataOverrides):
    """Runs all stages: classifier, adapter, augmented dataset, classifier trained with it.

    A setting given here overrides the recipe in every stage that has it.
    """

    metaclass: str = required(
        "common name of all classes, a word that the text encoder knows: bird, car, flower ...",
        at_most=LONGEST_NAME,
    )
    recipe: str | None = setting(
        None,
        "a recipe that ships (cub-sgdmix), or a folder with classifier.yaml, adapter.yaml, "
        "generate.yaml ...",
    )
    eval_split: str | None = setting(
        None,
        "split for the accuracy without and with the augmented dataset",
        at_most=LONGEST_NAME,
    )
    eval_dataset_name: str | None = unset(ClassifierSettings, "eval_dataset_name")
    model: str | None = unset(ClassifierSettings, "model")
    pretrained_model_name_or_path: str | None = unset(
        AdapterSettings, "pretrained_model_name_or_path"
    )
    license: str | None = setting(
        None,
        "license of the augmented dataset, and of the models if they are pushed",
        at_most=LONGEST_NAME,
    )
    allow_license: str | None = unset(AdapterSettings, "allow_license")
    license_name: str | None = unset(AugmentSettings, "license_name")
    license_link: str | None = unset(AugmentSettings, "license_link")
    preset: Literal["paper", "recommended"] | None = unset(AugmentSettings, "preset")
    resolution: int | None = setting(
        None,
        "width and height of the images that the adapter learns and the generation makes",
        at_least=8,
        at_most=4096,
        multiple_of=8,
    )
    resize: Literal["stretch", "aspect-buckets", "center-crop"] | None = setting(
        None,
        "how images are resized, for the adapter and the generation: to a square, stretched or "
        "cropped, or to the source's aspect ratio",
    )
    total_batch_size: int | None = setting(
        None,
        "samples per optimizer step of every training, classifiers and adapter, over all "
        "processes; a recipe can give each its own",
        at_least=1,
        at_most=10**6,
    )
    dtype: Literal["float32", "float16", "bfloat16"] | None = setting(
        None,
        "precision of the refinement; if neither this nor the recipe gives it, bfloat16 on a GPU "
        "that has it, otherwise float32",
    )
    prompt_template: list[str] | None = setting(
        None,
        "prompt, with {token} and {metaclass}, that the adapter learns and the generation uses; "
        "of several, the adapter learns the first, and each row draws one of all",
        at_most=LONGEST_PROMPT,
    )
    background_prompts: list[str] | None = unset(AugmentSettings, "background_prompts")
    background_prompt_template: str | None = unset(AugmentSettings, "background_prompt_template")
    negative_prompt: str | None = unset(AugmentSettings, "negative_prompt")
    few_step_lora: str | None = unset(AugmentSettings, "few_step_lora")
    few_step_method: FewStepMethod | None = unset(AugmentSettings, "few_step_method")
    few_step_weight_name: str | None = unset(AugmentSettings, "few_step_weight_name")
    strength: list[NumberOrAuto] | None = unset(AugmentSettings, "strength")
    kept_erosion: float | None = unset(AugmentSettings, "kept_erosion")
    num_candidates: int | None = unset(AugmentSettings, "num_candidates")
    image_format: Literal["jpeg", "webp", "png"] | None = unset(AugmentSettings, "image_format")
    image_quality: int | None = unset(AugmentSettings, "image_quality")
    num_variants: int | None = unset(AugmentSettings, "num_variants")
    images_per_class: int | None = unset(AugmentSettings, "images_per_class")
    synthetic_probability: float | None = unset(ClassifierSettings, "synthetic_probability")
    synthetic_weighting: Literal["source", "class-balanced", "inverse-frequency"] | None = setting(
        None,
        "what replaces a real image: a synthetic image made from it; or one of any class, all "
        "classes equally often (the default with images_per_class), or rare ones more often",
    )
    saliency_method: SaliencyMethod | None = unset(AugmentSettings, "saliency_method")
    mask_column: str | None = unset(AugmentSettings, "mask_column")
    segmenter: str | None = unset(AugmentSettings, "segmenter")
    detector: str | None = unset(AugmentSettings, "detector")
    segmenter_prompt: str | None = _prompt_of_metaclass()
    segmenter_instances: Literal["union", "largest", "nearest-box"] | None = unset(
        AugmentSettings, "segmenter_instances"
    )
    bbox_column: str | None = unset(AugmentSettings, "bbox_column")
    bbox_format: Literal["xywh", "xyxy"] | None = unset(AugmentSettings, "bbox_format")
    min_mask_confidence: float | None = unset(AugmentSettings, "min_mask_confidence")
    low_confidence: Literal["skip", "keep-unmixed"] | None = unset(
        AugmentSettings, "low_confidence"
    )
    background_dataset_name: str | None = unset(AugmentSettings, "background_dataset_name")
    background_config_name: str | None = unset(AugmentSettings, "background_config_name")
    background_split: str | None = unset(AugmentSettings, "background_split")
    background_image_column: str | None = unset(AugmentSettings, "background_image_column")
    background_has_foreground: bool | None = unset(AugmentSettings, "background_has_foreground")
    bootstrap_saliency: bool = setting(
        False,
        "read saliency from a classifier retrained on mixtures with classifier-free masks",
    )
    max_skipped: float | None = unset(AugmentSettings, "max_skipped")
    push_to_hub: bool = setting(
        False, "publish the finished dataset, with the token of `hf auth login` or HF_TOKEN"
    )
    hub_model_id: str | None = setting(
        None,
        "org/name: push the models to org/name-classifier and org/name-adapter, and generate from "
        "there",
        at_most=LONGEST_NAME,
    )

    def validate(self) -> None:
        """Checks the output folder. The stages check their own settings, before the first starts.

        Raises `UserError`.
        """
        super().validate()
        refuse_url("output_dir", self.output_dir)
        outside_of_dataset(self, "output_dir")
        given = [name for name in AT_HAND if getattr(self, name) is not None]
        if self.bootstrap_saliency and given:
            raise UserError(
                f"bootstrap_saliency takes the masks from a classifier: leave --{given[0]} out"
            )
