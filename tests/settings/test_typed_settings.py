"""Names, licences and tokens typed by a user that nothing can be published with."""

import os
from pathlib import Path

import pytest
from untrusted import refused

from sgdmix_hub.hub.licences import stated_license
from sgdmix_hub.hub.pins import Pin, resolve
from sgdmix_hub.publishing.read import load_published
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.parsing import parse_settings
from sgdmix_hub.settings.programs import PublishSettings, RunSettings
from sgdmix_hub.settings.training import ClassifierSettings


@pytest.fixture(scope="module")
def repo(first_version) -> Path:
    return first_version / "repo"


@pytest.mark.parametrize(
    "name",
    ["../b", "a/b/c", "https://huggingface.co/a/b", "a", "a/", "a b/c", "a/..", "a/" + "b" * 98],
)
def test_a_repository_that_cannot_be_is_no_place_to_push_to(name):
    words = [
        "--dataset_name=org/birds",
        "--output_dir=out",
        "--strength=0",
        "--saliency_method=minimum-barrier",
    ]
    assert "give it as org/name" in refused(
        parse_settings, AugmentSettings, [*words, f"--hub_dataset_id={name}"]
    )
    assert "give it as org/name" in refused(
        parse_settings, ClassifierSettings, [*words[:2], f"--hub_model_id={name}"]
    )
    assert "give it as org/name" in refused(
        parse_settings, RunSettings, [*words[:2], "--metaclass=bird", f"--hub_model_id={name}"]
    )


@pytest.mark.parametrize("program", [AugmentSettings, ClassifierSettings])
@pytest.mark.parametrize("license", ["", " ", "\t"])
def test_an_empty_licence_is_none(program, license):
    words = ["--dataset_name=org/birds", "--output_dir=out"]
    words += (
        ["--strength=0", "--saliency_method=minimum-barrier"] if program is AugmentSettings else []
    )
    assert "license is empty" in refused(parse_settings, program, [*words, f"--license={license}"])


@pytest.mark.parametrize(
    "name", ["..", "a/b", "a" * 101, "ü" * 51, "-_-", "", "a b", "a\n", "data", "{x}"]
)
def test_a_configuration_has_a_name_that_a_folder_can_have(name, repo):
    words = [
        "--dataset_name=org/birds",
        "--output_dir=out",
        "--strength=0",
        "--saliency_method=minimum-barrier",
    ]
    assert "config_name" in refused(
        parse_settings, AugmentSettings, [*words, f"--config_name={name}"]
    )
    assert "config_name" in refused(load_published, str(repo), name)


TOKEN = "hf_" + "TYPED" * 7


@pytest.mark.parametrize(
    "words",
    [f"--token={TOKEN}", f"--token {TOKEN}", TOKEN, f"--{TOKEN}", f"--seed={TOKEN}", f"--={TOKEN}"],
)
def test_a_token_that_is_typed_is_not_shown(words):
    words = words.split()
    assert "TYPED" not in refused(parse_settings, PublishSettings, ["--folder=out", *words])
    base = ["--dataset_name=org/birds", "--output_dir=out", "--strength=0"]
    assert "TYPED" not in refused(parse_settings, AugmentSettings, [*base, *words])


@pytest.mark.parametrize("name", ["license", "prompt_template"])
def test_what_others_could_not_read_back_is_not_published(name):
    """A manifest with a licence of two lines would be refused by its own readers."""
    words = [
        "--dataset_name=org/birds",
        "--output_dir=out",
        "--strength=0",
        "--saliency_method=minimum-barrier",
    ]
    for value in ("mit\nx: y", "\x1b[2J {class_name}", "x" * 5000):
        assert name in refused(parse_settings, AugmentSettings, [*words, f"--{name}={value}"])
    words = ["--dataset_name=org/birds", "--output_dir=out", "--metaclass=bird\x07"]
    assert "metaclass" in refused(parse_settings, AdapterSettings, words)


def test_a_folder_whose_name_cannot_be_printed_is_no_input(tmp_path):
    for name in ("two\nlines", "bell\x07", os.fsdecode(b"latin-\xfc")):
        (tmp_path / name).mkdir()
        assert "rename it" in refused(resolve, str(tmp_path / name))
    assert "no such folder" in refused(resolve, "x" * 5000)
    assert "no such folder" in refused(resolve, "a\x00b")


def test_the_licence_that_an_inputs_card_states_is_one_line(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: |\n  mit\n  # Heading\n---\n")
    pin = Pin("x", "sha256-0", str(tmp_path))
    assert stated_license(pin) == "mit # Heading"
    for stated in ("{a: b}", "3", '""', "[]"):
        (tmp_path / "README.md").write_text(f"---\nlicense: {stated}\n---\n")
        assert stated_license(pin) is None
