"""Settings of every run: one flat dataclass a run, validated before any model loads (parsing.py reads them).

The fingerprint of a generation. A run that is resumed, and a dataset that is made again, must have the settings that made it.
Every field of `AugmentSettings` is in one of three groups:

| group | settings | on resume |
|---|---|---|
| changes the images | dataset_name, dataset_config_name, dataset_split, image_column, label_column, max_image_pixels, mask_column, examples_per_class, imbalance_factor, subset_seed, allow_other_subset, adapter, pretrained_model_name_or_path, classifier, config_name, preset, saliency_method, saliency_layer, saliency_input_size, saliency_sigma, trust_test, threshold_method, threshold_quantile, largest_component, fill_holes, mask_dilation, mask_refinement, selection_method, target_classes, max_target_reuse, crop_target, mixing_method, inpainting_method, prompt_class, prompt_template, feather, strength, foreground_strength, paste_foreground, num_candidates, num_variants, guidance_scale, num_inference_steps, scheduler, safety_checker, resolution, resize, seed, dtype, image_format, rows_per_shard | another value is refused |
| may move last bits | batch_size, compile, num_threads (and, recorded beside them: device, library versions) | another value warns |
| place and speed | output_dir, saliency_dir, num_workers, dry_run, verify, max_skipped, license, card, config, push_to_hub, hub_dataset_id, tag, hub_private_repo, hub_branch, allow_local_inputs | ignored, never published |

The four inputs (dataset, base model, adapter, classifier) enter as pins: commit hashes, or content hashes of local folders.
"""  # noqa: E501

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from dataclasses import dataclass
from typing import Literal, TypeVar

from .errors import UserError, shown
from .fields import LARGEST_SEED, LONGEST_NAME, LONGEST_PROMPT, Checked, required, setting
from .files import lies_in
from .presets import CAM_METHODS, NAME_PROMPT, PRESETS, SaliencyMethod, ThresholdMethod

MAY_MOVE_LAST_BITS = ("batch_size", "compile", "num_threads")
PUSH = ("push_to_hub", "hub_dataset_id", "tag", "hub_private_repo", "hub_branch", "allow_local_inputs")
PLACE_AND_SPEED = ("output_dir", "saliency_dir", "num_workers", "dry_run", "verify", "max_skipped", "license", "card", "config", *PUSH)
PINNED_INPUTS = ("dataset_name", "pretrained_model_name_or_path", "adapter", "classifier")
FOLDERS = ("data", "sgdmix", "assets")  # of every published repository: no names for a configuration
LONGEST_CONFIG_NAME = 100  # bytes: it names folders


@dataclass(kw_only=True)
class DataSettings(Checked):
    """Which rows of which dataset, at which revision. Shared by every run, so that all of them see the same subset."""

    dataset_name: str = required("Hub dataset as org/name or org/name@revision, or a local folder")
    dataset_config_name: str | None = setting(None, "configuration of the dataset", at_most=LONGEST_NAME)
    dataset_split: str = setting("train", "split to work on", at_most=LONGEST_NAME)
    image_column: str = setting("image", "column with the images", at_most=LONGEST_NAME)
    label_column: str = setting("label", "column with the labels", at_most=LONGEST_NAME)
    max_image_pixels: int | None = setting(
        None, "images with more pixels are not read; 178,956,970 when not given", at_least=1, at_most=10**9
    )
    examples_per_class: int | None = setting(None, "few-shot: rows drawn from each class; all when not given", at_least=1, at_most=10**7)
    imbalance_factor: float | None = setting(
        None, "long tail: size of the rarest class over the most frequent, in (0, 1]", above=0, at_most=1
    )
    subset_seed: int = setting(0, "seed of the few-shot or long-tail subset; the same in every stage", at_least=0, at_most=LARGEST_SEED)
    seed: int = setting(0, "seed of everything that is drawn in this run", at_least=0, at_most=LARGEST_SEED)
    output_dir: str = required("folder that the run writes")
    num_threads: int = setting(1, "CPU threads per process (only used where there is no GPU)", at_least=1, at_most=1024)

    def validate(self) -> None:
        """Raises `UserError` on values that no run could use together."""
        outside_of_dataset(self, "output_dir")


@dataclass(kw_only=True)
class MethodSettings(Checked):
    """SGD-Mix itself: how images are masked, matched, mixed and refined. Fields left at None in the first block take the preset's value."""

    preset: Literal["paper", "recommended"] = setting("paper", "named set of choices for the fields below")
    saliency_method: SaliencyMethod | None = setting(None, "what tells foreground from background, as a map")
    trust_test: Literal["warn", "fall-back"] | None = setting(
        None, "when the classifier reads the background: warn, or use minimum-barrier"
    )
    threshold_method: ThresholdMethod | None = setting(None, "threshold of the saliency map: scikit-image's, or quantile")
    largest_component: bool | None = setting(None, "keep the mask's largest connected part alone")
    fill_holes: bool | None = setting(None, "fill the holes of the mask")
    mask_dilation: float | None = setting(None, "widen the mask by this share of the image size", at_least=0, at_most=0.5)
    mask_refinement: Literal["none", "grabcut"] | None = setting(None, "refinement of the thresholded mask")
    selection_method: Literal["l2", "random", "dissimilar", "novel-background"] | None = setting(
        None, "how the target is chosen among the candidates"
    )
    target_classes: Literal["any", "other", "same"] | None = setting(None, "classes that candidates are drawn from")
    crop_target: bool | None = setting(None, "crop the target to the source's aspect ratio before both become square")
    mixing_method: Literal["union", "source", "inpaint", "none"] | None = setting(
        None, "how source and target are mixed; none refines the source as it is"
    )
    feather: float | None = setting(
        None, "sigma of the mask's soft edge, as a share of the image size; 0 is a hard edge", at_least=0, at_most=0.5
    )
    foreground_strength: float | None = setting(
        None, "another, lower strength for the source's foreground; the paper's is S everywhere", at_least=0, at_most=1
    )
    paste_foreground: bool | None = setting(None, "paste the source's foreground over the refined image")

    saliency_layer: str | None = setting(None, "module whose activations a CAM reads; the last stage by default", at_most=LONGEST_NAME)
    saliency_input_size: int | None = setting(
        None, "input size of the classifier for saliency; by default its own, or what gives 7x7 cells", at_least=1, at_most=4096
    )
    saliency_sigma: float = setting(6.0, "Gaussian of the spectral residual, in pixels of the 64x64 map", above=0, at_most=64)
    threshold_quantile: float = setting(0.8, "for threshold_method quantile: share of the map that is background", at_least=0, at_most=1)
    mask_column: str | None = setting(None, "column with foreground masks, for saliency_method mask-column", at_most=LONGEST_NAME)
    max_target_reuse: int | None = setting(
        None, "how many rows one image may be the target of; no limit when not given", at_least=1, at_most=10**7
    )
    inpainting_method: Literal["opencv", "diffusion"] = setting("opencv", "what fills the target's foreground for mixing_method inpaint")
    prompt_class: Literal["source", "target"] = setting("source", "whose class prompt and label name")

    strength: list[float] = setting(
        [0.7],
        "S: share of the diffusion steps that refine the mixed image; 0 is mixing alone; of several, a source's variants take turns",
        at_least=0,
        at_most=1,
    )
    num_candidates: int = setting(50, "N: candidates that the target is chosen from", at_least=1, at_most=10**7)
    num_variants: int = setting(1, "images made from each source image", at_least=1, at_most=10**4)
    guidance_scale: float = setting(7.5, "classifier-free guidance; off when <= 1", at_least=0, at_most=100)
    num_inference_steps: int = setting(25, "diffusion steps at strength 1", at_least=1, at_most=1000)
    scheduler: Literal["dpmsolver++", "ddim", "euler", "unipc"] = setting("dpmsolver++", "sampler")
    safety_checker: bool = setting(True, "keep the base model's safety checker; the rows it flags are skipped")
    resolution: int = setting(512, "images are made at resolution x resolution", at_least=8, at_most=4096, multiple_of=8)
    resize: Literal["stretch", "center-crop"] = setting("stretch", "how an image becomes square")
    dtype: Literal["float32", "float16", "bfloat16"] = setting("float32", "precision of the diffusion model")
    batch_size: int = setting(8, "images refined at once", at_least=1, at_most=4096)
    compile: bool = setting(False, "compile the diffusion model; on a CPU that needs a C++ compiler")

    def __post_init__(self) -> None:
        """A single strength may be given as a number; the order of several plays no part. Raises `UserError`."""
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
            raise UserError(f"strength names {max(self.strength, key=self.strength.count):g} twice: give every value once")
        if self.foreground_strength is not None and self.foreground_strength > min(self.strength):
            raise UserError(f"foreground_strength is {self.foreground_strength}: give a value in [0, strength {min(self.strength)}]")
        if self.prompt_class == "target" and not min(self.strength) > 0:
            raise UserError("prompt_class target needs strengths above 0: without refinement no prompt is read")
        if self.inpainting_method == "diffusion" and (apply_preset(self).mixing_method != "inpaint" or not self.refines):
            raise UserError(
                "inpainting_method diffusion needs mixing_method inpaint and a strength above 0, which loads the diffusion model"
            )
        if apply_preset(self).mixing_method == "none" and min(self.strength) == 0:
            raise UserError("mixing_method none needs strengths above 0: at 0 it would copy the source")
        if self.inpainting_method == "diffusion" and self.num_inference_steps < 2:
            raise UserError("inpainting_method diffusion needs at least 2 num_inference_steps: it paints at a strength below 1")


@dataclass(kw_only=True)
class HubSettings(Checked):
    """Where a dataset is published, and as which version."""

    # There is no setting for the token: `accelerate launch` prints the whole command line of a program that fails.

    hub_dataset_id: str | None = setting(None, "dataset repository that is published to, as org/name", at_most=LONGEST_NAME)
    tag: str | None = setting(None, "version that is published, for example v1.0.0: a tag, which is never moved", at_most=LONGEST_NAME)
    hub_private_repo: bool = setting(False, "make the repository private when it is created")
    hub_branch: str = setting("main", "branch that the version is committed to", at_most=LONGEST_NAME)
    allow_local_inputs: bool = setting(False, "publish what was made from local folders too, though nobody else can make it again")

    def validate_hub(self) -> None:
        """Raises `UserError` on what nothing can be published as."""
        if self.hub_dataset_id is None or self.tag is None:
            raise UserError("publishing needs --hub_dataset_id org/name and --tag, a version like v1.0.0")
        for name in ("tag", "hub_branch"):
            value = getattr(self, name)
            if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", value, re.ASCII) or ".." in value or value.endswith((".", ".lock")):
                raise UserError(f"{name} {value!r}: use letters, digits, '.', '-' and '_'")
        if self.tag in ("main", "HEAD", self.hub_branch) or re.fullmatch(r"[0-9a-f]{40}", self.tag):
            raise UserError(f"tag {self.tag!r} is another thing's name: give a version like v1.0.0")


@dataclass(kw_only=True)
class AugmentSettings(HubSettings, MethodSettings, DataSettings):
    """One generation: SGD-Mix mapped over a split."""

    config: str | None = setting(None, "YAML file with settings, or hf://...; the command line wins; a published one brings its plan")
    adapter: str | None = setting(None, "trained adapter as org/name[@revision] or folder; without one the base is told class names")
    pretrained_model_name_or_path: str | None = setting(None, "base model; the one the adapter was trained on by default")
    prompt_template: str = setting(NAME_PROMPT, "prompt of a base model without an adapter", at_most=LONGEST_PROMPT)
    classifier: str | None = setting(None, "classifier that a CAM looks through, as org/name[@revision] or folder")
    allow_other_subset: bool = setting(False, "accept an adapter or classifier that was trained on another subset")
    config_name: str = setting("default", "configuration of the published dataset", at_most=LONGEST_CONFIG_NAME)
    card: str | None = setting(None, "Markdown file with prose for the dataset card")
    license: str | None = setting(None, "licence of the augmented dataset; publishing without one is refused", at_most=LONGEST_NAME)
    saliency_dir: str | None = setting(None, "folder of saliency maps shared between runs; inside state/ by default")
    image_format: Literal["png", "jpeg", "webp"] = setting("png", "format of the published images")
    rows_per_shard: int = setting(128, "rows in one parquet file, the unit of resuming", at_least=1, at_most=10**5)
    num_workers: int = setting(
        2, "threads that mix images ahead of the diffusion model, and processes that encode them; each per process", at_least=1, at_most=256
    )
    dry_run: bool = setting(False, "say what the run would make, how long it would take and how big it would be, and make nothing")
    verify: bool = setting(False, "read a finished repo/ whole and compare it with its manifest, which a rerun does not do otherwise")
    max_skipped: float = setting(0.01, "share of skipped rows above which the run ends with exit code 3", at_least=0, at_most=1)
    push_to_hub: bool = setting(False, "publish the finished dataset, with the token of `hf auth login` or HF_TOKEN")

    def validate(self) -> None:
        DataSettings.validate(self)
        MethodSettings.validate(self)
        outside_of_dataset(self, "saliency_dir")
        if self.push_to_hub:
            self.validate_hub()
            if self.license is None:
                raise UserError("push_to_hub needs --license: say under which one others may use the dataset")
        if self.refines and self.adapter is None:
            self._validate_without_adapter()
        method = apply_preset(self).saliency_method
        if method in CAM_METHODS and self.classifier is None:
            raise UserError(f"{method} needs a classifier: give --classifier org/name@revision or a folder")
        if method == "mask-column" and self.mask_column is None:
            raise UserError("saliency_method mask-column needs --mask_column")
        if self.card is not None and not os.path.isfile(self.card):
            raise UserError(f"card {self.card}: no such file")
        check_config_name(self.config_name)

    def _validate_without_adapter(self) -> None:
        if self.pretrained_model_name_or_path is None:
            raise UserError(
                "strength > 0 needs --adapter org/name@revision or a folder (--strength 0 mixes without one), or "
                "--pretrained_model_name_or_path alone, which is then told the names of the classes"
            )
        if self.prompt_template.count("{class_name}") != 1:
            raise UserError(f"prompt_template must hold {{class_name}} exactly once: {self.prompt_template!r}")
        if self.inpainting_method == "diffusion":
            raise UserError("inpainting_method diffusion needs an adapter, which knows the metaclass that a hole must not show")


def check_config_name(name: str) -> None:
    """Raises `UserError` on what no configuration of a published dataset can be called: it is the name of its folders."""
    if not re.fullmatch(r"(?=.*[^\W_])[\w-]+", name) or len(name.encode()) > LONGEST_CONFIG_NAME:
        raise UserError(f"config_name {shown(name)!r}: use letters, digits, - and _, at most {LONGEST_CONFIG_NAME} of them")
    if name in FOLDERS:
        raise UserError(f"config_name {name} is the name of a folder of every published dataset: choose another")


def outside_of_dataset(settings, *names: str) -> None:
    """Raises `UserError` when a folder that is written to lies inside the folder of a local dataset: a run would change its own input."""
    dataset = settings.dataset_name
    for name in names:
        folder = getattr(settings, name)
        if folder and dataset and os.path.isdir(dataset) and lies_in(folder, dataset):
            raise UserError(f"{name} {shown(folder)} lies inside the dataset's folder {shown(dataset)}: choose one outside of it")


def num_steps(settings: MethodSettings, strength: float) -> int:
    """How many diffusion steps a strength runs: truncated, as diffusers does."""
    return int(settings.num_inference_steps * strength)


def effective_strength(settings: MethodSettings, strength: float) -> float:
    """The strength that is really run."""
    return num_steps(settings, strength) / settings.num_inference_steps


def smallest_strength(num_inference_steps: int) -> float:
    """The smallest S, in hundredths, that runs a step: `int(steps * S)` is taken in floating point, as diffusers does."""
    return next(s / 100 for s in range(1, 101) if int(num_inference_steps * (s / 100)) > 0)


Method = TypeVar("Method", bound=MethodSettings)


def apply_preset(settings: Method) -> Method:
    """A copy in which every field left at None has the preset's value."""
    chosen = {name: value for name, value in PRESETS[settings.preset].items() if getattr(settings, name) is None}
    return dataclasses.replace(settings, **chosen)


def preset_deviations(settings: MethodSettings) -> dict:
    """The settings that differ from what their preset says."""
    preset = PRESETS[settings.preset]
    return {name: getattr(settings, name) for name in preset if getattr(settings, name) not in (None, preset[name])}


def published_settings(settings: AugmentSettings, pins: dict[str, str]) -> dict:
    """What goes into the published config.yaml: the first two groups, inputs replaced by their pins, nothing about places."""
    values = dataclasses.asdict(settings) | dict.fromkeys(PINNED_INPUTS) | pins
    values["strength"] = settings.stated_strength
    return {name: value for name, value in values.items() if name not in PLACE_AND_SPEED and value is not None}


def fingerprint(settings: AugmentSettings, pins: dict[str, str]) -> str:
    """sha256 over the settings that change the images, with the inputs' pins."""
    values = {k: v for k, v in published_settings(settings, pins).items() if k not in MAY_MOVE_LAST_BITS}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
