"""Helpers for tests of recipes: their settings and the stages of their runs."""

from pathlib import Path

from sgdmix_hub.demo import run_demo
from sgdmix_hub.run import all_stages
from sgdmix_hub.settings.parsing import as_arguments, parse_settings, read_yaml
from sgdmix_hub.settings.programs import RunSettings

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path.name for path in (ROOT / "sgdmix_hub" / "recipes").iterdir() if path.is_dir())


def run_settings(recipe: str, *given: str) -> RunSettings:
    """What `sgdmix run` gets: of the demo what `sgdmix demo` writes, else what docs/recipes.md
    says; `given` wins.
    """
    folder = Path("sgdmix_hub/recipes") / recipe
    if recipe == "demo-birds":
        return parse_settings(
            RunSettings, [*as_arguments(run_demo.run_settings(Path("outputs/demo"))), *given]
        )
    adapter, generation = read_yaml(folder / "adapter.yaml"), read_yaml(folder / "generate.yaml")
    words = [
        f"--recipe={recipe}",
        f"--dataset_name={adapter['dataset_name']}",
        f"--metaclass={adapter['metaclass']}",
    ]
    return parse_settings(
        RunSettings, [*words, f"--output_dir={generation['output_dir']}", "--license=other", *given]
    )


def stages_of(settings: RunSettings) -> list:
    return [stage.settings for stage in all_stages(settings)]
