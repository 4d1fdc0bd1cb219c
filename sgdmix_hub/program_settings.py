"""Settings of the programs around a generation: publishing it, previewing the method, all stages in a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .config import DataSettings, HubSettings, at_least, multiple_of_eight, required, setting, unit_interval
from .errors import UserError

MOST_PREVIEWED = 24


@dataclass(kw_only=True)
class PublishSettings(HubSettings):
    """A finished generation, published as a version of a dataset."""

    folder: str = required("output folder of a finished generation, or the repo folder in it")
    max_skipped: float = setting(0.01, "share of skipped rows above which nothing is published (exit code 3)")

    def validate(self) -> None:
        self.validate_hub()
        unit_interval(self, "max_skipped")


@dataclass(kw_only=True)
class PreviewSettings(DataSettings):
    """One page of pictures and a table: what each choice of the method does to a data set, without a diffusion model."""

    classifier: str | None = setting(None, "classifier that Grad-CAM looks through; without one its columns are left out")
    saliency_layer: str | None = setting(None, "module whose activations Grad-CAM reads; the last stage by default")
    saliency_input_size: int | None = setting(
        None, "input size of the classifier for saliency; by default its own, or what gives 7x7 cells"
    )
    mask_column: str | None = setting(None, "column with true foreground masks, to show and to measure against")
    num_images: int = setting(6, "images on the page, spread over the classes")
    num_candidates: int = setting(50, "N: candidates that the target is chosen from")
    resolution: int = setting(256, "images are masked and mixed at resolution x resolution")
    resize: Literal["stretch", "center-crop"] = setting("stretch", "how an image becomes square")

    def validate(self) -> None:
        super().validate()
        at_least(self, 1, "num_images", "num_candidates")
        multiple_of_eight(self, "resolution")
        if self.num_images > MOST_PREVIEWED:
            raise UserError(f"num_images is {self.num_images}: give at most {MOST_PREVIEWED}, a page holds no more")
        if self.saliency_input_size is not None:
            at_least(self, 1, "saliency_input_size")
        for name in ("saliency_layer", "saliency_input_size"):
            if self.classifier is None and getattr(self, name) is not None:
                raise UserError(f"{name} is Grad-CAM's, which needs a classifier: give --classifier org/name@revision or a folder")


@dataclass(kw_only=True)
class RunSettings(HubSettings, DataSettings):
    """All stages in a row. What is given here reaches every stage that has a setting of that name; the recipe holds the rest."""

    dataset_split: str | None = setting(None, "split to work on")
    image_column: str | None = setting(None, "column with the images")
    label_column: str | None = setting(None, "column with the labels")
    subset_seed: int | None = setting(None, "seed of the few-shot or long-tail subset")
    seed: int | None = setting(None, "seed of everything that is drawn")
    num_threads: int | None = setting(None, "CPU threads per process")
    metaclass: str = required("what all classes are, in one word the text encoder knows: bird, car, flower ...")
    recipe: str | None = setting(
        None, "a recipe that ships (cub-sgdmix), or a folder with classifier.yaml, adapter.yaml, generate.yaml ..."
    )
    eval_split: str | None = setting(None, "split whose accuracy is measured, without and with the augmented dataset")
    eval_dataset_name: str | None = setting(None, "dataset that eval_split is of, where that is another one")
    model: str | None = setting(None, "classifier to fine-tune")
    pretrained_model_name_or_path: str | None = setting(None, "base diffusion model")
    license: str | None = setting(None, "licence of the augmented dataset, and of the models that are pushed")
    preset: Literal["paper", "recommended"] | None = setting(None, "named set of the method's choices")
    resolution: int | None = setting(None, "size of the images that the adapter learns and the generation makes")
    strength: list[float] | None = setting(None, "S")
    num_candidates: int | None = setting(None, "N")
    num_variants: int | None = setting(None, "images made from each source image")
    synthetic_probability: float | None = setting(None, "share of synthetic images in downstream training")
    bootstrap_saliency: bool = setting(False, "read saliency from a classifier retrained on mixtures of model-free masks")
    max_skipped: float | None = setting(None, "share of skipped rows above which the run ends with exit code 3")
    push_to_hub: bool = setting(False, "publish the finished dataset, with the token of `hf auth login` or HF_TOKEN")
    hub_model_id: str | None = setting(None, "org/name: pushes org/name-classifier and org/name-adapter, and generates from there")

    def validate(self) -> None:
        """Nothing here: the stages' own settings are validated, all of them before the first stage starts."""
