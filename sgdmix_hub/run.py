"""All stages in a row: classifier -> adapter -> augmented dataset -> classifier trained with it. A stage whose output is there is skipped.

output_dir/classifier       trained on real images; Grad-CAM looks through it
output_dir/adapter          LoRA and learned tokens
output_dir/repo             the augmented dataset, ready to publish
output_dir/downstream       trained on real and synthetic images
"""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path

from . import augment, train_adapter, train_classifier
from .config import AdapterSettings, AugmentSettings, ClassifierSettings, RunSettings, UserError
from .inputs import CLASSIFIER_FACTS
from .parsing import Settings, parse_settings, read_yaml, yaml_text
from .processes import TooManySkipped, launch, lock_folder, read_json, say, start_processes
from .repository import manifest_path

RECIPE_FILES = ("classifier.yaml", "adapter.yaml", "generate.yaml", "downstream.yaml")


def stage_settings(settings: RunSettings, settings_class: type[Settings], recipe_file: str, links: dict[str, str]) -> Settings:
    """One stage's settings: the recipe's file, over it what the run was given, over it the links between stages. Raises `UserError`."""
    values = {}
    if settings.recipe is not None:
        path = Path(settings.recipe) / recipe_file
        values = read_yaml(path) if path.exists() else {}
    known = {field.name for field in dataclasses.fields(settings_class)}
    given = {name: value for name, value in vars(settings).items() if name in known and value is not None}
    values |= given | links
    try:
        return parse_settings(settings_class, [f"--{name}={yaml_text(value)}" for name, value in values.items()])
    except UserError as error:
        raise UserError(f"{recipe_file.removesuffix('.yaml')}: {error}") from None


def all_stages(settings: RunSettings) -> tuple[ClassifierSettings, AdapterSettings, AugmentSettings, ClassifierSettings]:
    """The settings of every stage, checked before the first one starts. Raises `UserError`."""
    if settings.recipe is not None and not any((Path(settings.recipe) / name).is_file() for name in RECIPE_FILES):
        raise UserError(f"recipe {settings.recipe} holds none of {', '.join(RECIPE_FILES)}")
    output = Path(settings.output_dir)
    classifier, adapter, repo = (str(output / name) for name in ("classifier", "adapter", "repo"))
    generation = {"output_dir": str(output), "classifier": classifier, "adapter": adapter}
    card = Path(settings.recipe or "") / "card.md"
    if settings.recipe is not None and card.is_file():
        generation["card"] = str(card)
    first = stage_settings(settings, ClassifierSettings, "classifier.yaml", {"output_dir": classifier})
    # The downstream classifier differs from the first one by its data alone, unless the recipe says more.
    downstream_file = "downstream.yaml"
    if settings.recipe is None or not (Path(settings.recipe) / downstream_file).exists():
        downstream_file = "classifier.yaml"
    downstream = {"output_dir": str(output / "downstream"), "synthetic": repo}
    second = stage_settings(settings, AdapterSettings, "adapter.yaml", {"output_dir": adapter})
    generation["pretrained_model_name_or_path"] = second.pretrained_model_name_or_path
    third = stage_settings(settings, AugmentSettings, "generate.yaml", generation)
    downstream["synthetic_config_name"] = third.config_name
    return first, second, third, stage_settings(settings, ClassifierSettings, downstream_file, downstream)


def main(settings: RunSettings) -> None:
    """The whole story. Raises what its stages raise."""
    state = start_processes(settings.num_threads or 1)
    output = Path(settings.output_dir)
    with lock_folder(output / "state", "run.lock") if state.is_main_process else nullcontext():
        classifier, adapter, generation, downstream = all_stages(settings)
        say("1/4 classifier on real images")
        train_classifier.main(classifier)
        say("2/4 adapter: LoRA and learned tokens")
        train_adapter.main(adapter)
        say("3/4 augmented dataset")
        too_many_skipped = None
        try:
            augment.main(generation)
        except TooManySkipped as error:  # what was made is whole and can be trained on: the run ends with this at its end
            too_many_skipped = error
        say("4/4 classifier on real and synthetic images")
        train_classifier.main(downstream)
        if state.is_main_process:
            print(summary(output, generation), flush=True)
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
        lines.append(f"Accuracy on {split:<7}real images only {without:.3f}, with SGD-Mix {augmented:.3f} (one seed)")
    return "\n".join(lines)


def _accuracy(folder: Path) -> float | None:
    return read_json(folder / CLASSIFIER_FACTS).get("metrics", {}).get("accuracy")


if __name__ == "__main__":
    launch(main, RunSettings)
