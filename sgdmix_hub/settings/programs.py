"""Settings of the programs around a generation: publishing it, previewing the method, all stages in
a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sgdmix_hub.errors import UserError

from .data import DataSettings, outside_of_dataset
from .fields import LARGEST_SEED, LONGEST_NAME, required, setting
from .hub import HubSettings

MOST_PREVIEWED = 24  # images on a page


@dataclass(kw_only=True)
class PublishSettings(HubSettings):
    """A finished generation, published as a version of a dataset."""

    folder: str = required("output folder of a finished generation, or the repo folder in it")
    max_skipped: float = setting(
        0.01,
        "share of skipped rows above which nothing is published (exit code 3)",
        at_least=0,
        at_most=1,
    )

    def validate(self) -> None:
        self.validate_hub()


@dataclass(kw_only=True)
class PreviewSettings(DataSettings):
    """One page of pictures and a table: what each choice of the method does to a data set, without
    a diffusion model.
    """

    classifier: str | None = setting(
        None, "classifier that Grad-CAM looks through; without one its columns are left out"
    )
    saliency_layer: str | None = setting(
        None,
        "module whose activations Grad-CAM reads; the last stage by default",
        at_most=LONGEST_NAME,
    )
    saliency_input_size: int | None = setting(
        None,
        "input size of the classifier for saliency; by default its own, or what gives 7x7 cells",
        at_least=1,
        at_most=4096,
    )
    mask_column: str | None = setting(
        None,
        "column with true foreground masks, to show and to measure against",
        at_most=LONGEST_NAME,
    )
    num_images: int = setting(
        6, "images on the page, spread over the classes", at_least=1, at_most=MOST_PREVIEWED
    )
    num_candidates: int = setting(
        50, "N: candidates that the target is chosen from", at_least=1, at_most=10**7
    )
    resolution: int = setting(
        256,
        "images are masked and mixed at resolution x resolution",
        at_least=8,
        at_most=4096,
        multiple_of=8,
    )
    resize: Literal["stretch", "center-crop"] = setting("stretch", "how an image becomes square")

    def validate(self) -> None:
        super().validate()
        for name in ("saliency_layer", "saliency_input_size"):
            if self.classifier is None and getattr(self, name) is not None:
                raise UserError(
                    f"{name} is Grad-CAM's, which needs a classifier: give --classifier org/name@revision or a folder"
                )


@dataclass(kw_only=True)
class RunSettings(HubSettings, DataSettings):
    """All stages in a row. What is given here reaches every stage that has a setting of that name;
    the recipe holds the rest.
    """

    dataset_split: str | None = setting(None, "split to work on", at_most=LONGEST_NAME)
    image_column: str | None = setting(None, "column with the images", at_most=LONGEST_NAME)
    label_column: str | None = setting(None, "column with the labels", at_most=LONGEST_NAME)
    subset_seed: int | None = setting(
        None, "seed of the few-shot or long-tail subset", at_least=0, at_most=LARGEST_SEED
    )
    seed: int | None = setting(
        None, "seed of everything that is drawn", at_least=0, at_most=LARGEST_SEED
    )
    num_threads: int | None = setting(None, "CPU threads per process", at_least=1, at_most=1024)
    metaclass: str = required(
        "what all classes are, in one word the text encoder knows: bird, car, flower ...",
        at_most=LONGEST_NAME,
    )
    recipe: str | None = setting(
        None,
        "a recipe that ships (cub-sgdmix), or a folder with classifier.yaml, adapter.yaml, generate.yaml ...",
    )
    eval_split: str | None = setting(
        None,
        "split whose accuracy is measured, without and with the augmented dataset",
        at_most=LONGEST_NAME,
    )
    eval_dataset_name: str | None = setting(
        None, "dataset that eval_split is of, where that is another one"
    )
    model: str | None = setting(None, "classifier to fine-tune")
    pretrained_model_name_or_path: str | None = setting(None, "base diffusion model")
    license: str | None = setting(
        None,
        "licence of the augmented dataset, and of the models that are pushed",
        at_most=LONGEST_NAME,
    )
    preset: Literal["paper", "recommended"] | None = setting(
        None, "named set of the method's choices"
    )
    resolution: int | None = setting(
        None,
        "size of the images that the adapter learns and the generation makes",
        at_least=8,
        at_most=4096,
        multiple_of=8,
    )
    strength: list[float] | None = setting(None, "S", at_least=0, at_most=1)
    num_candidates: int | None = setting(None, "N", at_least=1, at_most=10**7)
    num_variants: int | None = setting(
        None, "images made from each source image", at_least=1, at_most=10**4
    )
    synthetic_probability: float | None = setting(
        None, "share of synthetic images in downstream training", at_least=0, at_most=1
    )
    bootstrap_saliency: bool = setting(
        False, "read saliency from a classifier retrained on mixtures of model-free masks"
    )
    max_skipped: float | None = setting(
        None,
        "share of skipped rows above which the run ends with exit code 3",
        at_least=0,
        at_most=1,
    )
    push_to_hub: bool = setting(
        False, "publish the finished dataset, with the token of `hf auth login` or HF_TOKEN"
    )
    hub_model_id: str | None = setting(
        None,
        "org/name: pushes org/name-classifier and org/name-adapter, and generates from there",
        at_most=LONGEST_NAME,
    )

    def validate(self) -> None:
        """The stages' own settings are validated, all of them before the first stage starts; this
        alone comes before the lock.
        """
        outside_of_dataset(self, "output_dir")
