"""All stages in a row that end on the Hub: what is pushed, what is refused before the first stage, and the whole circle."""

import pytest
from generations import digests, manifest_of
from loopback_hub import READ_TOKEN, loopback_hub, run_python
from test_run import run_arguments, write_recipe

from sgdmix_hub.config import RunSettings, UserError
from sgdmix_hub.run import all_stages

DATASET = {"push_to_hub": True, "hub_dataset_id": "me/birds-sgdmix", "tag": "v1.0.0", "license": "mit"}
MODELS = DATASET | {"hub_model_id": "me/birds", "hub_private_repo": True}

SOURCES = """
import sys
from sgdmix_hub.publish import push_folder

push_folder(sys.argv[1], "birds/source", "dataset")
push_folder(sys.argv[2], "birds/base")
"""


def stages(folder, **given):
    """The stages' settings, by their place in the run."""
    given = {"dataset_name": "org/birds", "output_dir": str(folder / "run"), "metaclass": "bird"} | given
    return [stage.settings for stage in all_stages(RunSettings(**given))]


def pushed(settings):
    return settings.hub_model_id if settings.push_to_hub else None


def test_models_are_pushed_before_the_dataset_that_is_made_with_them(tmp_path):
    classifier, adapter, generation, downstream = stages(tmp_path, **MODELS)
    assert [pushed(model) for model in (classifier, adapter, downstream)] == ["me/birds-classifier", "me/birds-adapter", None]
    assert (generation.classifier, generation.adapter) == ("me/birds-classifier", "me/birds-adapter")
    assert generation.push_to_hub and (generation.hub_dataset_id, generation.tag) == ("me/birds-sgdmix", "v1.0.0")
    for settings in (classifier, adapter, generation):
        assert settings.hub_private_repo and settings.license == "mit"


def test_of_two_classifiers_the_one_that_saliency_looks_through_is_pushed(tmp_path):
    first, mixtures, second, adapter, generation, downstream = stages(tmp_path, **MODELS, bootstrap_saliency=True)
    assert [pushed(model) for model in (first, second, adapter, downstream)] == [None, "me/birds-classifier", "me/birds-adapter", None]
    assert generation.classifier == "me/birds-classifier" and generation.push_to_hub and not mixtures.push_to_hub


@pytest.mark.parametrize("given", [{}, {name: value for name, value in MODELS.items() if name != "push_to_hub"}])
def test_nothing_is_pushed_that_was_not_asked_for(tmp_path, given):
    classifier, adapter, generation, downstream = stages(tmp_path, **given)
    assert not any(settings.push_to_hub for settings in (classifier, adapter, generation, downstream))
    assert generation.adapter == adapter.output_dir and generation.classifier == classifier.output_dir


def test_what_nobody_could_make_again_is_refused_before_the_first_stage(tmp_path, birds):
    with pytest.raises(UserError, match="classifier .*run/classifier.*--hub_model_id org/name"):
        stages(tmp_path, **DATASET)
    with pytest.raises(UserError, match=f"local folders .dataset_name {birds}.: "):
        stages(tmp_path, **MODELS, dataset_name=str(birds))
    with pytest.raises(UserError, match="pretrained_model_name_or_path"):
        stages(tmp_path, **MODELS, pretrained_model_name_or_path=str(birds))
    assert stages(tmp_path, **DATASET, dataset_name=str(birds), allow_local_inputs=True)[2].allow_local_inputs
    (tmp_path / "generate.yaml").write_text("strength: 0\npreset: recommended\n")  # no model has a part in it
    assert stages(tmp_path, **DATASET, recipe=str(tmp_path))[2].push_to_hub


@pytest.mark.parametrize(("missing", "named"), [("tag", "--tag"), ("hub_dataset_id", "--hub_dataset_id"), ("license", "--license")])
def test_a_push_that_cannot_end_well_is_refused_before_the_first_stage(tmp_path, missing, named):
    with pytest.raises(UserError, match=named):
        stages(tmp_path, **{name: value for name, value in MODELS.items() if name != missing})


@pytest.mark.slow
def test_one_command_pushes_everything_and_a_colleague_makes_the_same_bytes(birds, tiny_base, classifier, tmp_path):
    """By name alone: source, base, adapter and classifier come from the Hub, as configuration and plan do."""
    words = run_arguments("birds/source", "birds/base", write_recipe(tmp_path / "recipe", classifier), tmp_path / "run")
    words += ["--push_to_hub", "--hub_dataset_id=birds/sgdmix", "--tag=v1.0.0", "--hub_model_id=birds/demo"]
    launched = "import runpy, sys; sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"
    with loopback_hub() as hub:
        assert run_python(hub, SOURCES, birds, tiny_base).returncode == 0
        refused = run_python(hub, launched, *words, token=READ_TOKEN)
        assert refused.returncode == 2 and "may not write to birds/demo-classifier" in refused.stderr and "1/4" not in refused.stdout
        done = run_python(hub, launched, *words)
        assert done.returncode == 0, done.stderr
        heads = {name: hub.repository("model", f"birds/demo-{name}").branches["main"] for name in ("classifier", "adapter")}
        pins = manifest_of(tmp_path / "run")["pins"]
        assert {name: pins[name] for name in heads} == {name: f"birds/demo-{name}@{oid}" for name, oid in heads.items()}
        assert pins["dataset_name"].startswith("birds/source@") and pins["pretrained_model_name_or_path"].startswith("birds/base@")
        assert f"published as birds/sgdmix@v1.0.0, commit {hub.repository('dataset', 'birds/sgdmix').tags['v1.0.0']}" in done.stdout

        config = "hf://datasets/birds/sgdmix@v1.0.0/sgdmix/default/config.yaml"
        again = ["scripts/augment_dataset.py", f"--config={config}", f"--output_dir={tmp_path / 'again'}", "--max_skipped=0.9"]
        made = run_python(hub, launched, *again, token=READ_TOKEN)
        assert made.returncode == 0, made.stderr
    ours, theirs = (digests(tmp_path / name / "repo" / "data") for name in ("run", "again"))
    assert ours == theirs and len(ours) > 1
    files = [manifest_of(tmp_path / name)["files"]["sgdmix/default/plan.parquet"] for name in ("run", "again")]
    assert files[0] == files[1]
