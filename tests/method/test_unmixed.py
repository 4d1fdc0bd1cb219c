"""Generations as the peers make them: the source unmixed, with or without an adapter, prompted for
its own class or the target's.
"""

import numpy as np
import pytest
from generations import ROWS, arguments, published_rows, run_script

from sgdmix_hub import load_published
from sgdmix_hub.data.splits import load_split, subset_record
from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.prompts import name_prompt
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.parsing import as_arguments, parse_settings, read_yaml

UNMIXED = {
    "mixing_method": "none",
    "saliency_method": "spectral-residual",
    "selection_method": "random",
    "num_variants": 1,
}


def generate(settings, folder):
    ended = run_script(
        arguments(settings | UNMIXED | {"output_dir": folder / "run"}), folder / "logs"
    )
    assert ended.returncode == 0, ended.stderr
    return folder / "run"


@pytest.fixture(scope="module")
def prompted_for_target(generation_settings, tmp_path_factory):
    """Diff-Mix's way: the source is refined towards the class of another image."""
    return generate(
        generation_settings | {"prompt_class": "target", "target_classes": "other"},
        tmp_path_factory.mktemp("target"),
    )


@pytest.fixture(scope="module")
def without_adapter(generation_settings, tmp_path_factory):
    """Real-Guidance's way: the base model as it is, told the class's name."""
    settings = {name: value for name, value in generation_settings.items() if name != "adapter"}
    return generate(
        settings | {"prompt_template": "a picture of a {class_name}"},
        tmp_path_factory.mktemp("base"),
    )


@pytest.mark.slow
def test_label_and_prompt_are_the_targets_where_it_is_prompted_for(prompted_for_target, birds):
    rows = published_rows(prompted_for_target)
    assert len(rows) == ROWS
    config = read_yaml(prompted_for_target / "repo" / "sgdmix" / "default" / "config.yaml")
    settings = parse_settings(
        AugmentSettings, as_arguments(config | {"dataset_name": str(birds), "output_dir": "o"})
    )
    split = load_split(settings, resolve(str(birds), repo_type="dataset"))
    for row in rows:
        assert (
            row["label"]
            == row["target_label"]
            == split.labels[row["target_index"]]
            != split.labels[row["source_index"]]
        )
        assert row["prompt"] == f"a photo of a <class_{row['label']}> bird"
        assert row["foreground_area"] == 1.0
    load_published(str(prompted_for_target / "repo")).check_made_from(
        split, subset_record(settings, split)
    )
    card = (prompted_for_target / "repo" / "README.md").read_text()
    assert "its `label` are of the TARGET's class" in card
    assert "keeps the source's label" not in card
    assert "| class of prompt and label | target |" in card


@pytest.mark.slow
def test_a_base_model_alone_is_told_the_class_names(without_adapter, class_names):
    rows = published_rows(without_adapter)
    assert len(rows) == ROWS and {row["strength"] for row in rows} == {0.6}
    for row in rows:
        assert row["prompt"] == name_prompt(
            class_names[row["label"]], "a picture of a {class_name}"
        )
    card = (without_adapter / "repo" / "README.md").read_text()
    assert "is its source, not mixed" in card and "| adapter |" not in card


def test_the_adapter_and_the_prompted_class_change_the_images(prompted_for_target, without_adapter):
    first, second = (
        load_published(str(folder / "repo")) for folder in (prompted_for_target, without_adapter)
    )
    assert first.rows["source_index"] == second.rows["source_index"]
    for position in range(3):
        assert not np.array_equal(
            np.asarray(first.image(position)), np.asarray(second.image(position))
        )


@pytest.mark.parametrize("name", ["Black_footed_Albatross", "  two  words\n", 'a": {evil}'])
def test_a_name_is_written_as_people_write_it_and_is_no_template(name):
    assert name_prompt(name, "a photo of a {class_name}") == "a photo of a " + " ".join(
        name.replace("_", " ").split()
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"mixing_method": "none", "strength": 0}, "would copy the source"),
        ({"prompt_class": "target", "strength": 0}, "no prompt is used"),
        ({"strength": 0.5}, "--pretrained_model_name_or_path alone"),
        (
            {"strength": 0.5, "pretrained_model_name_or_path": "a/b", "prompt_template": "a bird"},
            "exactly once",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(given, says):
    words = as_arguments({"dataset_name": "a/b", "output_dir": "o", "classifier": "c/d"} | given)
    with pytest.raises(UserError, match=says):
        parse_settings(AugmentSettings, words)
