"""All stages in a row that end on the Hub: what is pushed, what is refused before the first stage,
and the whole circle.
"""

import json
import re
import shlex

import pytest
from generations import digests, manifest_of
from loopback_hub import READ_TOKEN, WRITE_TOKEN, loopback_hub, run_python
from run_stages import stages
from test_run import run_arguments, write_recipe

from sgdmix_hub.errors import UserError

DATASET = {
    "push_to_hub": True,
    "hub_dataset_id": "me/birds-sgdmix",
    "tag": "v1.0.0",
    "license": "mit",
}
MODELS = DATASET | {"hub_model_id": "me/birds", "hub_private_repo": True}

# Source and base go to the Hub, then programs of this package run with one token or another, until
# they end well or with a line.
CIRCLE = """
import json, os, sys
from sgdmix_hub import augment, run
from sgdmix_hub.errors import UserError
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.programs import RunSettings
from sgdmix_hub.settings.parsing import parse_settings
from sgdmix_hub.hub.push import push_folder

push_folder(sys.argv[1], "birds/source", "dataset")
push_folder(sys.argv[2], "birds/base")
programs = {"run": (run.main, RunSettings), "augment": (augment.main, AugmentSettings)}
for name, token, words in json.loads(sys.argv[3]):
    os.environ["HF_TOKEN"] = token
    main, settings_class = programs[name]
    try:
        main(parse_settings(settings_class, words))
    except UserError as error:
        print(error)
"""
# Appended to the Python of a published card: looks at its images and runs its last command.
TRAINING = """
mixed = RealAndSynthetic(p=1.0)
rows = [mixed[index] for index in range(len(mixed))]
same_labels = sum(row["label"] == label for row, label in zip(rows, real["label"]))
print(len(rows), same_labels, *{row["image"].size for row in rows}, flush=True)

import sys
from sgdmix_hub import train_classifier
from sgdmix_hub.settings.parsing import parse_settings
from sgdmix_hub.settings.training import ClassifierSettings

train_classifier.main(parse_settings(ClassifierSettings, sys.argv[1:]))
"""


def pushed(settings):
    return settings.hub_model_id if settings.push_to_hub else None


def test_models_are_pushed_before_the_dataset_that_is_made_with_them(tmp_path):
    classifier, adapter, generation, downstream = stages(tmp_path, **MODELS)
    assert [pushed(model) for model in (classifier, adapter, downstream)] == [
        "me/birds-classifier",
        "me/birds-adapter",
        None,
    ]
    assert (generation.classifier, generation.adapter) == (
        "me/birds-classifier",
        "me/birds-adapter",
    )
    assert generation.push_to_hub
    assert (generation.hub_dataset_id, generation.tag) == ("me/birds-sgdmix", "v1.0.0")
    for settings in (classifier, adapter, generation):
        assert settings.hub_private_repo and settings.license == "mit"


def test_of_two_classifiers_the_one_that_saliency_looks_through_is_pushed(tmp_path):
    first, mixtures, second, adapter, generation, downstream = stages(
        tmp_path, **MODELS, bootstrap_saliency=True
    )
    assert [pushed(model) for model in (first, second, adapter, downstream)] == [
        None,
        "me/birds-classifier",
        "me/birds-adapter",
        None,
    ]
    assert generation.classifier == "me/birds-classifier"
    assert generation.push_to_hub
    assert not mixtures.push_to_hub


@pytest.mark.parametrize(
    "given", [{}, {name: value for name, value in MODELS.items() if name != "push_to_hub"}]
)
def test_nothing_is_pushed_that_was_not_asked_for(tmp_path, given):
    classifier, adapter, generation, downstream = stages(tmp_path, **given)
    assert not any(
        settings.push_to_hub for settings in (classifier, adapter, generation, downstream)
    )
    assert generation.adapter == adapter.output_dir
    assert generation.classifier == classifier.output_dir


def test_a_pilot_looks_through_the_runs_own_classifier_unless_the_recipe_names_another(tmp_path):
    classifier, _, generation, _ = stages(tmp_path, strength=["auto"])
    assert generation.pilot_classifier == classifier.output_dir
    assert generation.strength_choice == "auto" and len(generation.strength) > 2
    *_, generation, _ = stages(tmp_path, strength=["auto"], **MODELS)
    assert generation.pilot_classifier == "me/birds-classifier"
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    (recipe / "generate.yaml").write_text("strength: auto\npilot_classifier: me/other\n")
    (recipe / "classifier.yaml").write_text("model: me/model\n")
    *_, generation, _ = stages(tmp_path, recipe=str(recipe))
    assert generation.pilot_classifier == "me/other"
    *_, generation, _ = stages(tmp_path)
    assert generation.pilot_classifier is None


def test_what_nobody_could_make_again_is_refused_before_the_first_stage(tmp_path, birds):
    with pytest.raises(UserError, match="local folders .*adapter.*--hub_model_id org/name"):
        stages(tmp_path, **DATASET)
    with pytest.raises(UserError, match="local folders .dataset_name.: "):
        stages(tmp_path, **MODELS, dataset_name=str(birds))
    with pytest.raises(UserError, match="local folders .segmenter.: "):
        stages(tmp_path, **MODELS, segmenter=str(birds))
    with pytest.raises(UserError, match="pretrained_model_name_or_path"):
        stages(tmp_path, **MODELS, pretrained_model_name_or_path=str(birds))
    allowed = stages(tmp_path, **DATASET, dataset_name=str(birds), allow_local_inputs=True)
    assert allowed[2].allow_local_inputs
    # At strength 0 no diffusion model is loaded.
    (tmp_path / "generate.yaml").write_text("strength: 0\npreset: recommended\n")
    assert stages(tmp_path, **DATASET, recipe=str(tmp_path))[2].push_to_hub


@pytest.mark.parametrize(
    ("missing", "named"),
    [("tag", "--tag"), ("hub_dataset_id", "--hub_dataset_id"), ("license", "--license")],
)
def test_a_push_that_cannot_end_well_is_refused_before_the_first_stage(tmp_path, missing, named):
    with pytest.raises(UserError, match=named):
        stages(tmp_path, **{name: value for name, value in MODELS.items() if name != missing})


@pytest.mark.slow
def test_one_command_pushes_everything_and_a_colleague_makes_the_same_bytes(
    few_birds, tiny_base, classifier, tmp_path
):
    """By name alone: source, base, adapter and classifier come from the Hub, as configuration and
    plan do. The card's Python and its training command run as they stand.
    """
    words = run_arguments(
        "birds/source",
        "birds/base",
        write_recipe(tmp_path / "recipe", classifier),
        tmp_path / "run",
    )[1:]
    words += [
        "--push_to_hub",
        "--hub_dataset_id=birds/sgdmix",
        "--tag=v1.0.0",
        "--hub_model_id=birds/demo",
    ]
    config = "hf://datasets/birds/sgdmix@v1.0.0/sgdmix/default/config.yaml"
    again = ["--config", config, f"--output_dir={tmp_path / 'again'}", "--max_skipped=0.9"]
    with loopback_hub() as hub:
        launches = [
            ["run", READ_TOKEN, words],
            ["run", WRITE_TOKEN, words],
            ["augment", READ_TOKEN, again],
        ]
        done = run_python(hub, CIRCLE, few_birds, tiny_base, json.dumps(launches))
        assert done.returncode == 0 and READ_TOKEN not in done.stdout + done.stderr, done.stderr
        lines = done.stdout.splitlines()
        assert "may not write to birds/demo-classifier" in lines[0] and lines[2].startswith("1/4 ")
        models = {
            name: hub.repository("model", f"birds/demo-{name}").branches["main"]
            for name in ("classifier", "adapter")
        }
        tag = hub.repository("dataset", "birds/sgdmix").tags["v1.0.0"]
        card = hub.content("dataset", "birds/sgdmix")["README.md"].decode()
        python = "\n".join(re.findall(r"```python\n(.*?)```", card, re.DOTALL))
        (line,) = re.findall(
            r"^accelerate launch -m sgdmix_hub.train_classifier (.*)$", card, re.MULTILINE
        )
        more = [
            f"--model={classifier}",
            "--num_train_epochs=1",
            f"--output_dir={tmp_path / 'downstream'}",
        ]
        trained = run_python(hub, python + TRAINING, *shlex.split(line), *more, token=READ_TOKEN)
        assert trained.returncode == 0 and trained.stdout.splitlines()[0] == "8 8 (32, 32)", (
            trained.stderr
        )
    pins = manifest_of(tmp_path / "run")["pins"]
    assert {name: pins[name] for name in models} == {
        name: f"birds/demo-{name}@{oid}" for name, oid in models.items()
    }
    assert pins["dataset_name"].startswith("birds/source@")
    assert pins["pretrained_model_name_or_path"].startswith("birds/base@")
    assert f"published as birds/sgdmix@v1.0.0, commit {tag}" in lines
    assert [line for line in lines if line.startswith("the plan is that of")]
    assert (
        json.loads((tmp_path / "downstream" / "classifier.json").read_text())["synthetic"]
        == f"birds/sgdmix@{tag}"
    )
    ours, theirs = (digests(tmp_path / name / "repo") for name in ("run", "again"))
    shards = {name for name in ours if name.startswith("data/")}
    assert len(shards) > 1
    assert all(ours[name] == theirs[name] for name in (*shards, "sgdmix/default/plan.parquet"))
