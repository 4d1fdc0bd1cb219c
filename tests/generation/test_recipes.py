"""Every recipe that ships, driven up to the plan on a tiny dataset with the columns, class names
and splits of the one it names.
"""

import dataclasses
import re
from pathlib import Path

import pytest
from recipes import RECIPES, run_settings, stages_of

from sgdmix_hub.generation.saliency_maps import LARGEST_SCALE
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.parsing import parse_settings, read_yaml
from sgdmix_hub.settings.presets import PRESETS, apply_preset
from sgdmix_hub.settings.saliency import CAM_METHODS
from sgdmix_hub.settings.training import ClassifierSettings

ROOT = Path(__file__).parents[2]
PUBLISHED = [name for name in RECIPES if name != "demo-birds"]  # whose source is drawn by a program
SOURCES = re.compile(
    r"paper|Diff-Mix|UniDiffDA|DA-Fusion|DiffuseMix|Group DRO|benchmarks/results/\w+\.md"
)


@pytest.fixture(scope="module", autouse=True)
def in_the_checkout():
    """Recipes name files from the root of the checkout, where their commands are run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        yield


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_stages_alone_are_those_of_the_whole_run(recipe):
    """docs/recipes.md: the commands, one by one, and `sgdmix run` make the same thing."""
    folder = Path("sgdmix_hub/recipes") / recipe
    classifier, adapter, generation, downstream = stages_of(run_settings(recipe))
    parsed = {
        name: parse_settings(settings_class, ["--config", f"{recipe}/{name}.yaml", *given])
        for name, settings_class, given in (
            ("classifier", ClassifierSettings, []),
            ("adapter", AdapterSettings, [f"--judge={classifier.output_dir}"]),
            ("generate", AugmentSettings, ["--license=other"]),
        )
    }
    assert parsed["classifier"] == classifier and parsed["adapter"] == adapter
    # The base defaults to the adapter's; `config` only says where a published plan may lie.
    generate = parsed["generate"]
    base = generate.pretrained_model_name_or_path or adapter.pretrained_model_name_or_path
    alone = dataclasses.replace(generate, pretrained_model_name_or_path=base, config=None)
    assert alone == generation
    links = {
        name: getattr(downstream, name)
        for name in ("output_dir", "synthetic", "synthetic_config_name")
    }
    assert links["synthetic"] == str(Path(generation.output_dir) / "repo")
    # Without settings for the second classifier, only the synthetic dataset may differ.
    if not (folder / "downstream.yaml").exists():
        assert downstream == dataclasses.replace(classifier, **links)


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_sizes_and_steps_of_the_stages_go_together(recipe):
    """What `driven` makes smaller, as the recipe says it."""
    classifier, adapter, generation, _ = stages_of(run_settings(recipe))
    assert adapter.resolution == generation.resolution and adapter.resize == generation.resize
    assert (adapter.num_inference_steps, adapter.guidance_scale) == (
        generation.num_inference_steps,
        generation.guidance_scale,
    )
    if apply_preset(generation).saliency_method in CAM_METHODS:
        assert generation.saliency_input_size >= classifier.image_size
        # The last stage of a ResNet-50 has one cell per 32 pixels.
        assert generation.saliency_input_size // 32 >= 7
        assert generation.saliency_input_size <= LARGEST_SCALE * classifier.resize_size


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_every_value_says_where_it_comes_from(recipe):
    folder = ROOT / "sgdmix_hub" / "recipes" / recipe
    wanted = {
        "classifier": (
            "image_size",
            "num_train_epochs",
            "learning_rate",
            "total_batch_size",
            "optim",
            "weight_decay",
            "warmup_ratio",
            "label_smoothing_factor",
        ),
        "adapter": (
            "metaclass",
            "num_train_epochs",
            "rank",
            "learning_rate",
            "token_learning_rate",
            "total_batch_size",
        ),
        "generate": (
            "strength",
            "num_candidates",
            "num_variants",
            "num_inference_steps",
            "guidance_scale",
            "scheduler",
        ),
        "downstream": (),
    }
    wanted["paper"] = ("preset", "saliency_method", *wanted["generate"])
    for path in folder.glob("*.yaml"):
        lines = [
            line for line in path.read_text().splitlines() if line and not line.startswith("#")
        ]
        comments = dict(re.fullmatch(r"(\w+): \S+  # (.+)", line).groups() for line in lines)
        assert comments.keys() == read_yaml(path).keys()
        assert "check on first use" in comments["dataset_name"]
        for name in wanted[path.stem]:
            assert SOURCES.search(comments[name]), (
                f"{path.name}: {name} names no source: {comments[name]!r}"
            )
    prose = (folder / "card.md").read_text()
    assert "paper" in prose and "Diff-Mix" in prose  # what is borrowed is said on the card too


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_recommended_and_has_the_papers_choices_beside_it(recipe):
    folder = Path("sgdmix_hub/recipes") / recipe
    generation, paper = (read_yaml(folder / name) for name in ("generate.yaml", "paper.yaml"))
    assert generation["preset"] == "recommended" and paper["preset"] == "paper"
    differing = {name for name in generation | paper if generation.get(name) != paper.get(name)}
    assert differing <= {"preset", "output_dir", "saliency_method", "saliency_input_size"} | set(
        PRESETS["paper"]
    )
    if recipe in PUBLISHED:
        settings = parse_settings(
            AugmentSettings, ["--config", f"{recipe}/paper.yaml", "--license=other"]
        )
        chosen = apply_preset(settings)
        assert {name: getattr(chosen, name) for name in PRESETS["paper"]} == PRESETS["paper"]
        classifier = read_yaml(folder / "classifier.yaml")
        assert settings.saliency_input_size <= LARGEST_SCALE * classifier["resize_size"]


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_the_table_of_recipes_says_what_they_do(recipe):
    rows = re.findall(
        rf"^\| `{recipe}` \| (.+) \|$", (ROOT / "docs" / "recipes.md").read_text(), re.MULTILINE
    )
    assert len(rows) == 1
    columns, _, metaclass, strength, candidates, variants, _ = rows[0].split(" | ")
    _, adapter, generation, _ = stages_of(run_settings(recipe))
    assert f"`{generation.dataset_name}`" in columns or "the same" in columns
    assert (metaclass, float(strength), int(candidates)) == (
        adapter.metaclass,
        generation.stated_strength,
        generation.num_candidates,
    )
    assert int(variants) == generation.num_variants
    assert (generation.imbalance_factor is None) == ("imbalance_factor" not in columns)
