"""All stages in a row: classifier -> adapter -> augmented dataset -> classifier trained with it. A
stage whose output is there is skipped.

output_dir/classifier       trained on real images; a CAM looks through it
output_dir/adapter          LoRA and learned tokens, judged by the classifier
output_dir/repo             the augmented dataset, ready to publish
output_dir/downstream       trained on real and synthetic images

With `bootstrap_saliency` the CAM looks through another classifier, output_dir/bootstrap/classifier:
one that was retrained on mixtures with model-free masks (output_dir/bootstrap/repo), and so can no
longer read the background.

With `push_to_hub` the dataset is published. With `hub_model_id` the classifier that saliency looks
through and the adapter are pushed before, and the generation takes them from the Hub, so that
others can make the dataset again.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from sgdmix_hub import augment, train_adapter, train_classifier
from sgdmix_hub.hub.formats import CLASSIFIER_FACTS
from sgdmix_hub.publishing.layout import manifest_path
from sgdmix_hub.publishing.versions import check_can_publish
from sgdmix_hub.runtime.launch import launch
from sgdmix_hub.runtime.ranks import on_rank_zero, say, start_processes
from sgdmix_hub.runtime.stopping import lock_folder
from sgdmix_hub.settings.data import DataSettings
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.hub import HubSettings
from sgdmix_hub.settings.method import FALL_BACK, saliency_source
from sgdmix_hub.settings.parsing import Settings, as_arguments, parse_settings, read_settings
from sgdmix_hub.settings.programs import RunSettings
from sgdmix_hub.settings.shipped import recipe_folder
from sgdmix_hub.settings.training import AdapterSettings, ClassifierSettings
from sgdmix_hub.training.resume import check_push

from .errors import TooManySkipped, UserError
from .files import read_json

# What the mixtures for a bootstrapped classifier are made with, and what looks through it unless
# the recipe says more.
BOOTSTRAP = {
    "preset": "recommended",
    "saliency_method": FALL_BACK,
    "strength": 0.0,
    "num_variants": 4,
}
SEEN_AGAIN = {"saliency_method": "grad-cam", "mask_refinement": "grabcut"}
PUBLICATION = frozenset(field.name for field in dataclasses.fields(HubSettings))
RECIPE_FILES = ("classifier.yaml", "adapter.yaml", "generate.yaml", "downstream.yaml")


def stage_settings(
    settings: RunSettings, settings_class: type[Settings], recipe_file: str, links: dict[str, str]
) -> Settings:
    """One stage's settings: the recipe's file, over it what the run was given, over it the links
    between stages. Raises `UserError`.
    """
    # what is pushed, and as what, is said by the links
    known = (
        {field.name for field in dataclasses.fields(settings_class)}
        - PUBLICATION
        - {"push_to_hub", "hub_model_id"}
    )
    if settings_class is not AugmentSettings:
        known -= {"license"}  # the dataset's is not the models'
    given = {
        name: value for name, value in vars(settings).items() if name in known and value is not None
    } | links
    path = None if settings.recipe is None else recipe_folder(settings.recipe) / recipe_file
    values = read_settings(path, given) if path is not None and path.exists() else {}
    try:
        return parse_settings(settings_class, as_arguments(values | given))
    except UserError as error:
        raise UserError(f"{recipe_file.removesuffix('.yaml')}: {error}") from None


@dataclass(frozen=True)
class Stage:
    """One program of the run with its settings."""

    title: str
    main: Callable[[DataSettings], None]
    settings: DataSettings


def all_stages(settings: RunSettings) -> list[Stage]:
    """Every stage in order, its settings checked before the first one starts. Raises `UserError`."""
    recipe = None if settings.recipe is None else recipe_folder(settings.recipe)
    if recipe is not None and not any(os.path.isfile(recipe / name) for name in RECIPE_FILES):
        raise UserError(f"recipe {settings.recipe} holds none of {', '.join(RECIPE_FILES)}")
    output = Path(settings.output_dir)
    classifier, adapter, repo = (str(output / name) for name in ("classifier", "adapter", "repo"))
    generation = {
        "output_dir": str(output),
        "classifier": classifier,
        "adapter": adapter,
    } | publication(settings)
    if recipe is not None and (recipe / "card.md").is_file():
        generation["card"] = str(recipe / "card.md")
    seen = {"output_dir": classifier} | (
        {} if settings.bootstrap_saliency else push_of(settings, "classifier")
    )
    first = stage_settings(settings, ClassifierSettings, "classifier.yaml", seen)
    # The downstream classifier differs from the first one by its data alone, unless the recipe says
    # more.
    downstream_file = "downstream.yaml"
    if recipe is None or not (recipe / downstream_file).exists():
        downstream_file = "classifier.yaml"
    learned = {"output_dir": adapter, "judge": classifier} | push_of(settings, "adapter")
    second = stage_settings(settings, AdapterSettings, "adapter.yaml", learned)
    generation["pretrained_model_name_or_path"] = second.pretrained_model_name_or_path
    third = stage_settings(settings, AugmentSettings, "generate.yaml", generation)
    bootstrap = []
    if settings.bootstrap_saliency:
        bootstrap = bootstrap_stages(settings, third, output / "bootstrap")
        seen = bootstrap[-1].settings
        links = generation | {
            "classifier": seen.hub_model_id if seen.push_to_hub else seen.output_dir
        }
        links |= {name: value for name, value in SEEN_AGAIN.items() if getattr(third, name) is None}
        third = stage_settings(settings, AugmentSettings, "generate.yaml", links)
    check_others_have(third, output)
    downstream = {
        "output_dir": str(output / "downstream"),
        "synthetic": repo,
        "synthetic_config_name": third.config_name,
    }
    last = stage_settings(settings, ClassifierSettings, downstream_file, downstream)
    return [
        Stage("classifier on real images", train_classifier.main, first),
        *bootstrap,
        Stage("adapter: LoRA and learned tokens", train_adapter.main, second),
        Stage("augmented dataset", augment.main, third),
        Stage("classifier on real and synthetic images", train_classifier.main, last),
    ]


def bootstrap_stages(
    settings: RunSettings, generation: AugmentSettings, folder: Path
) -> list[Stage]:
    """Mixtures with model-free masks, and the classifier that is trained on them for a CAM to look
    through.
    """
    shared = [
        field.name for field in dataclasses.fields(DataSettings) if field.name != "output_dir"
    ]
    shared = {
        name: getattr(generation, name)
        for name in (*shared, "resolution", "resize", "image_format")
    }
    given = {name: value for name, value in shared.items() if value is not None}
    mixtures = stage_settings(
        settings,
        AugmentSettings,
        "bootstrap.yaml",
        BOOTSTRAP | given | {"output_dir": str(folder)},
    )
    links = {
        "output_dir": str(folder / "classifier"),
        "synthetic": str(folder / "repo"),
        "synthetic_probability": 0.5,
    }
    links |= push_of(settings, "classifier")
    classifier = stage_settings(settings, ClassifierSettings, "classifier.yaml", links)
    return [
        Stage("mixtures with model-free masks", augment.main, mixtures),
        Stage(
            "classifier for saliency, on real images and these mixtures",
            train_classifier.main,
            classifier,
        ),
    ]


def publication(settings: RunSettings) -> dict:
    """What has the generation publish its dataset, made with the models that were pushed before;
    nothing where no push is asked for.
    """
    if not settings.push_to_hub:
        return {}
    links = {"push_to_hub": True} | {
        name: getattr(settings, name)
        for name in sorted(PUBLICATION)
        if getattr(settings, name) is not None
    }
    models = {
        name: pushed["hub_model_id"]
        for name in ("classifier", "adapter")
        if (pushed := push_of(settings, name))
    }
    return links | models


def push_of(settings: RunSettings, model: str) -> dict:
    """What has a training push its model; nothing where the run names no models."""
    if not settings.push_to_hub or settings.hub_model_id is None:
        return {}
    links = {
        "push_to_hub": True,
        "hub_model_id": f"{settings.hub_model_id}-{model}",
        "hub_private_repo": settings.hub_private_repo,
    }
    return links | ({} if settings.license is None else {"license": settings.license})


def check_others_have(generation: AugmentSettings, output: Path) -> None:
    """Raises `UserError` when a dataset would be published that nobody else could make again:
    before the first stage, not after it.
    """
    if not generation.push_to_hub or generation.allow_local_inputs:
        return
    inputs = ["dataset_name"] + (
        ["adapter", "pretrained_model_name_or_path"] if generation.refines else []
    )
    inputs += ["classifier"] if saliency_source(generation).needs == "classifier" else []
    paths = {name: Path(getattr(generation, name)) for name in inputs}
    local = [
        name for name, path in paths.items() if os.path.isdir(path) or path.is_relative_to(output)
    ]
    if local:
        raise UserError(
            f"nobody else could make again what is made from local folders ({', '.join(local)}): --hub_model_id org/name pushes classifier "
            "and adapter first, source and base have to be on the Hub; or publish it nevertheless with --allow_local_inputs"
        )


def check_pushes(stages: list[Stage], is_made: bool) -> None:
    """Raises `UserError` in the first second where a stage's push would be refused. `is_made`:
    whether the generation is finished.
    """
    for stage in stages:
        if isinstance(stage.settings, AugmentSettings):
            if stage.settings.push_to_hub:
                check_can_publish(stage.settings, is_made)
        else:
            check_push(stage.settings)


def main(settings: RunSettings) -> None:
    """The whole story. Raises what its stages raise."""
    state = start_processes(settings.num_threads or 1)
    output = Path(settings.output_dir)
    with (
        lock_folder(output / "state", "run.lock", finished=output / "repo")
        if state.is_main_process
        else nullcontext()
    ):
        stages = all_stages(settings)
        on_rank_zero(lambda: check_pushes(stages, is_made=(output / "repo").exists()))
        too_many_skipped = None
        for number, stage in enumerate(stages, start=1):
            say(f"{number}/{len(stages)} {stage.title}")
            try:
                stage.main(stage.settings)
            except TooManySkipped as error:  # what was made is whole and can be trained on: the run ends with this at its end
                too_many_skipped = error
        if state.is_main_process:
            print(summary(output, stages[-2].settings), flush=True)
        if too_many_skipped is not None:
            raise too_many_skipped


def summary(output: Path, generation: AugmentSettings) -> str:
    """What there is now and how to use it."""
    repo = output / "repo"
    manifest = read_json(manifest_path(repo, generation))
    config = "" if generation.config_name == "default" else f', "{generation.config_name}"'
    lines = [
        "",
        f"Augmented dataset  {repo}  ({manifest['rows']} images, {len(manifest['skipped'])} skipped)",
        f'Load it            load_dataset("{repo.resolve()}"{config}, split="train")',
        f"See it             {repo / 'assets' / 'contact_sheet.png'}",
    ]
    accuracies = [_accuracy(output / name) for name in ("classifier", "downstream")]
    if None not in accuracies:
        split = read_json(output / "downstream" / CLASSIFIER_FACTS)["settings"]["eval_split"]
        without, augmented = accuracies
        lines.append(
            f"Accuracy on {split:<7}real images only {without:.3f}, with SGD-Mix {augmented:.3f} (one seed)"
        )
    return "\n".join(lines)


def _accuracy(folder: Path) -> float | None:
    return read_json(folder / CLASSIFIER_FACTS).get("metrics", {}).get("accuracy")


if __name__ == "__main__":
    launch(main, RunSettings)
