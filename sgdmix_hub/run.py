"""Runs all stages: classifier -> adapter -> augmented dataset -> classifier trained with it.

    output_dir/classifier       trained on real images; gives the CAM
    output_dir/adapter          LoRA and learned tokens, judged by the classifier
    output_dir/repo             the augmented dataset, ready to publish
    output_dir/downstream       classifier trained on real and synthetic images

A finished stage is skipped. With `bootstrap_saliency` the CAM comes from another classifier,
output_dir/bootstrap/classifier: it is trained on mixtures with classifier-free masks
(output_dir/bootstrap/repo), so that it can no longer read the background.

With `push_to_hub` the dataset is published. With `hub_model_id` the adapter and the classifier of
the CAM are pushed first, and the generation takes them from the Hub, so that others can reproduce
the dataset.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgdmix_hub import augment, train_adapter, train_classifier
from sgdmix_hub.hub.formats import CLASSIFIER_FACTS
from sgdmix_hub.hub.licences import check_license, licence_of
from sgdmix_hub.hub.manifests import read_manifest
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.bases.family import Family
from sgdmix_hub.models.bases.supported import check_supported
from sgdmix_hub.output_folder import OutputFolder
from sgdmix_hub.publishing.layout import RepoLayout
from sgdmix_hub.publishing.versions import check_can_publish
from sgdmix_hub.runtime.launch import launch
from sgdmix_hub.runtime.ranks import Rank, on_rank_zero, say, start_processes
from sgdmix_hub.runtime.stopping import lock_folder
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.settings.data import DataSettings
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.hub import HubSettings
from sgdmix_hub.settings.mask_source import masks_line
from sgdmix_hub.settings.parsing import Settings, as_arguments, parse_settings, read_settings
from sgdmix_hub.settings.presets import saliency_source
from sgdmix_hub.settings.programs import RunSettings
from sgdmix_hub.settings.saliency import FALL_BACK
from sgdmix_hub.settings.shipped import recipe_folder
from sgdmix_hub.settings.training import ClassifierSettings, TrainingSettings
from sgdmix_hub.training.precision import has_bf16, precision_of
from sgdmix_hub.training.resume import check_push
from sgdmix_hub.training.share import share_of

from .errors import TooManySkipped, UserError
from .files import read_json

# How the mixtures of `bootstrap_saliency` are made.
BOOTSTRAP = {
    "preset": "recommended",
    "saliency_method": FALL_BACK,
    "strength": 0.0,
    "num_variants": 4,
}
# The masks of the final dataset, from the bootstrapped classifier, unless the recipe sets them.
BOOTSTRAPPED = {"saliency_method": "grad-cam", "mask_refinement": "grabcut"}
PUBLICATION = frozenset(field.name for field in dataclasses.fields(HubSettings))
RECIPE_FILES = ("classifier.yaml", "adapter.yaml", "generate.yaml", "downstream.yaml")


def stage_settings(
    settings: RunSettings,
    settings_class: type[Settings],
    recipe_file: str,
    links: dict[str, Any],
    defaults: dict[str, Any] | None = None,
) -> Settings:
    """One stage's settings: `defaults`, overridden by the recipe's file, by those of the run, and
    by the `links` between stages. Raises `UserError`.
    """
    # the links say what is pushed, and as what
    known = (
        {field.name for field in dataclasses.fields(settings_class)}
        - PUBLICATION
        - {"push_to_hub", "hub_model_id"}
    )
    if settings_class is AugmentSettings:
        known -= {"metaclass"}  # the adapter says it
    else:
        known -= {"license"}  # the dataset's is not the models'
    given = {
        name: value for name, value in vars(settings).items() if name in known and value is not None
    } | links
    recipe = None if settings.recipe is None else recipe_folder(settings.recipe)
    path = None if recipe is None else recipe / recipe_file
    values = read_settings(path, given) if path is not None and path.exists() else {}
    try:
        return parse_settings(settings_class, as_arguments((defaults or {}) | values | given))
    except UserError as error:
        raise UserError(f"{recipe_file.removesuffix('.yaml')}: {error}") from None


def generation_settings(settings: RunSettings, links: dict[str, Any]) -> AugmentSettings:
    """Settings of the augmented dataset. Unless recipe or run say otherwise, a pilot looks at its
    images with the run's classifier, and refinement computes in bfloat16 where the GPU has it.
    Raises `UserError`.
    """
    stage = (settings, AugmentSettings, "generate.yaml", links)
    pilot = {"pilot_classifier": links["classifier"]}
    made = stage_settings(*stage, defaults=pilot)
    defaults: dict[str, Any] = pilot if made.strength_choice is not None else {}
    if made.refines and has_bf16():
        defaults["dtype"] = "bfloat16"
    return stage_settings(*stage, defaults=defaults)


def downstream_settings(
    settings: RunSettings, recipe_file: str, generation: AugmentSettings, output: Path
) -> ClassifierSettings:
    """Settings of the classifier trained with the augmented dataset. If its rare classes got more
    images (`images_per_class`), synthetic images replace real ones class by class equally often,
    unless recipe or run say otherwise. Raises `UserError`.
    """
    links = {
        "output_dir": str(output / "downstream"),
        "synthetic": str(OutputFolder(output).repo),
        "synthetic_config_name": generation.config_name,
    }
    stage = (settings, ClassifierSettings, recipe_file, links)
    made = stage_settings(*stage)
    if generation.images_per_class is None or made.synthetic_mode == "add":
        return made
    return stage_settings(*stage, defaults={"synthetic_weighting": "class-balanced"})


@dataclass(frozen=True)
class Stage:
    """One program of the run with its settings."""

    title: str
    main: Callable[[Any], None]  # takes the class of `settings`
    settings: AugmentSettings | TrainingSettings


def all_stages(settings: RunSettings) -> list[Stage]:
    """Every stage in order, with checked settings. Raises `UserError`."""
    recipe = None if settings.recipe is None else recipe_folder(settings.recipe)
    if recipe is not None and not any(os.path.isfile(recipe / name) for name in RECIPE_FILES):
        raise UserError(f"recipe {settings.recipe} contains none of {', '.join(RECIPE_FILES)}")
    output = Path(settings.output_dir)
    classifier, adapter = (str(output / name) for name in ("classifier", "adapter"))
    generation: dict[str, Any] = {
        "output_dir": str(output),
        "classifier": classifier,
        "adapter": adapter,
    } | publication(settings)
    if recipe is not None and (recipe / "card.md").is_file():
        generation["card"] = str(recipe / "card.md")
    links: dict[str, Any] = {"output_dir": classifier}
    links |= {} if settings.bootstrap_saliency else push_of(settings, "classifier")
    first = stage_settings(settings, ClassifierSettings, "classifier.yaml", links)
    # Without a downstream.yaml, the downstream classifier differs from the first by its data alone.
    downstream_file = "downstream.yaml"
    if recipe is None or not (recipe / downstream_file).exists():
        downstream_file = "classifier.yaml"
    links = {"output_dir": adapter, "judge": classifier} | push_of(settings, "adapter")
    if settings.prompt_template is not None:
        links["prompt_template"] = settings.prompt_template[0]
    second = stage_settings(settings, AdapterSettings, "adapter.yaml", links)
    generation["pretrained_model_name_or_path"] = second.pretrained_model_name_or_path
    third = generation_settings(settings, generation)
    if saliency_source(third).needs == "segmenter" and third.segmenter_prompt is None:
        generation["segmenter_prompt"] = settings.metaclass
        third = generation_settings(settings, generation)
    bootstrap = []
    if settings.bootstrap_saliency:
        mixtures, retrained = bootstrap_settings(settings, third, output / "bootstrap")
        bootstrap = [
            Stage("mixtures with classifier-free masks", augment.main, mixtures),
            Stage(
                "classifier for saliency, on real images and these mixtures",
                train_classifier.main,
                retrained,
            ),
        ]
        links = generation | {
            "classifier": retrained.hub_model_id if retrained.push_to_hub else retrained.output_dir
        }
        links |= {
            name: value for name, value in BOOTSTRAPPED.items() if getattr(third, name) is None
        }
        third = generation_settings(settings, links)
    check_reproducible(third, output)
    last = downstream_settings(settings, downstream_file, third, output)
    return [
        Stage("classifier on real images", train_classifier.main, first),
        *bootstrap,
        Stage("adapter: LoRA and learned tokens", train_adapter.main, second),
        Stage("augmented dataset", augment.main, third),
        Stage("classifier on real and synthetic images", train_classifier.main, last),
    ]


def base_of(adapter: AdapterSettings) -> Family:
    """The family of the run's base model. Raises `UserError`."""
    return check_supported(resolve(adapter.pretrained_model_name_or_path))


def check_precisions(stages: list[Stage]) -> None:
    """Raises `UserError` for a precision that the base does not compute in, of any stage."""
    for stage in stages:
        if isinstance(stage.settings, AdapterSettings):
            family = base_of(stage.settings)
            family.check_precision("mixed_precision", stage.settings.mixed_precision)
            family.check_precision("dtype", generation_of(stages).dtype)


def bootstrap_settings(
    settings: RunSettings, generation: AugmentSettings, folder: Path
) -> tuple[AugmentSettings, ClassifierSettings]:
    """Settings of mixtures with classifier-free masks, and of the classifier trained on them."""
    names = [field.name for field in dataclasses.fields(DataSettings) if field.name != "output_dir"]
    shared = {
        name: value
        for name in (*names, "resolution", "resize", "image_format")
        if (value := getattr(generation, name)) is not None
    }
    links: dict[str, Any] = BOOTSTRAP | shared | {"output_dir": str(folder)}
    mixtures = stage_settings(settings, AugmentSettings, "bootstrap.yaml", links)
    links = {
        "output_dir": str(folder / "classifier"),
        "synthetic": str(OutputFolder(folder).repo),
        "synthetic_probability": 0.5,
    }
    links |= push_of(settings, "classifier")
    return mixtures, stage_settings(settings, ClassifierSettings, "classifier.yaml", links)


def publication(settings: RunSettings) -> dict[str, Any]:
    """Settings that make the generation publish its dataset, using the models pushed earlier; empty
    without `push_to_hub`.
    """
    if not settings.push_to_hub:
        return {}
    links = {"push_to_hub": True} | {
        name: value
        for name in sorted(PUBLICATION)
        if (value := getattr(settings, name)) is not None
    }
    models = {
        name: pushed["hub_model_id"]
        for name in ("classifier", "adapter")
        if (pushed := push_of(settings, name))
    }
    return links | models


def push_of(settings: RunSettings, model: str) -> dict[str, Any]:
    """Settings that make a training push its model; empty without `hub_model_id`."""
    if not settings.push_to_hub or settings.hub_model_id is None:
        return {}
    links = {
        "push_to_hub": True,
        "hub_model_id": f"{settings.hub_model_id}-{model}",
        "hub_private_repo": settings.hub_private_repo,
    }
    return links | ({} if settings.license is None else {"license": settings.license})


def check_reproducible(generation: AugmentSettings, output: Path) -> None:
    """Raises `UserError` if a dataset would be published that nobody else could reproduce."""
    if not generation.push_to_hub or generation.allow_local_inputs:
        return
    inputs = ["dataset_name"]
    inputs += ["adapter", "pretrained_model_name_or_path"] if generation.refines else []
    inputs += ["few_step_lora"] if generation.refines and generation.few_step_lora else []
    needs = saliency_source(generation).needs
    inputs += ["classifier"] if needs == "classifier" else []
    inputs += ["segmenter"] if needs == "segmenter" else []
    inputs += ["detector"] if needs == "segmenter" and generation.detector is not None else []
    inputs += ["background_dataset_name"] if generation.background_dataset_name else []
    inputs += ["pilot_classifier"] if generation.strength_choice is not None else []
    paths = {name: Path(getattr(generation, name)) for name in inputs}
    local = [
        name for name, path in paths.items() if os.path.isdir(path) or path.is_relative_to(output)
    ]
    if local:
        raise UserError(
            f"nobody else could reproduce a dataset made from local folders ({', '.join(local)}): "
            "give --hub_model_id org/name, which pushes classifier and adapter first, and take "
            "everything else from the Hub; or publish anyway with --allow_local_inputs"
        )


def check_pushes(stages: list[Stage], is_made: bool) -> None:
    """Raises `UserError` if a stage's push would be refused. `is_made`: whether the generation is
    finished.
    """
    for stage in stages:
        if isinstance(stage.settings, AugmentSettings):
            if stage.settings.push_to_hub:
                check_can_publish(stage.settings, is_made)
        else:
            check_push(stage.settings)
            if isinstance(stage.settings, AdapterSettings) and stage.settings.push_to_hub:
                base = resolve(stage.settings.pretrained_model_name_or_path)
                check_license(
                    licence_of(base), stage.settings.license, stage.settings.allow_license
                )


def main(settings: RunSettings) -> None:
    """Runs the stages. Raises what they raise."""
    rank = start_processes(settings.num_threads or 1)
    output = OutputFolder(settings.output_dir)
    with lock_folder(output.state, "run.lock", finished=output.repo):
        stages = all_stages(settings)
        for stage in stages:
            if isinstance(stage.settings, TrainingSettings):
                check_training(stage.settings, rank)
        on_rank_zero(lambda: check_precisions(stages))
        on_rank_zero(lambda: check_pushes(stages, is_made=output.repo.exists()))
        say(masks_line(generation_of(stages)))
        too_many_skipped = None
        for number, stage in enumerate(stages, start=1):
            say(f"{number}/{len(stages)} {stage.title}")
            try:
                stage.main(stage.settings)
            except TooManySkipped as error:
                too_many_skipped = error  # raised at the end: the dataset is whole, train on it
        if rank.is_main_process:
            print(summary(output.path, generation_of(stages)), flush=True)
        if too_many_skipped is not None:
            raise too_many_skipped


def check_training(settings: TrainingSettings, rank: Rank) -> None:
    """Raises `UserError` for a training that these processes, or this machine, cannot run."""
    share_of(settings, rank)
    precision_of(settings)


def generation_of(stages: list[Stage]) -> AugmentSettings:
    """The settings of the last generation, which makes the augmented dataset."""
    settings = [stage.settings for stage in stages]
    return next(each for each in reversed(settings) if isinstance(each, AugmentSettings))


def summary(output: Path, generation: AugmentSettings) -> str:
    """The results and how to use them, as text."""
    repo, layout = OutputFolder(output).repo, RepoLayout(generation.config_name)
    manifest = read_manifest(repo / layout.manifest)
    counts = f"{manifest['rows']} images, {len(manifest['skipped'])} skipped"
    config = "" if generation.config_name == "default" else f', "{generation.config_name}"'
    lines = [
        "",
        f"Augmented dataset  {repo}  ({counts})",
        f'Load it            load_dataset("{repo.resolve()}"{config}, split="train")',
        f"See it             {repo / layout.contact_sheet}",
    ]
    accuracies = [_accuracy(output / name) for name in ("classifier", "downstream")]
    if None not in accuracies:
        split = read_json(output / "downstream" / CLASSIFIER_FACTS)["settings"]["eval_split"]
        without, augmented = accuracies
        lines.append(
            f"Accuracy on {split:<7}real images only {without:.3f}, with SGD-Mix {augmented:.3f} "
            "(one seed)"
        )
    return "\n".join(lines)


def _accuracy(folder: Path) -> float | None:
    return read_json(folder / CLASSIFIER_FACTS).get("metrics", {}).get("accuracy")


if __name__ == "__main__":
    launch(main, RunSettings)
