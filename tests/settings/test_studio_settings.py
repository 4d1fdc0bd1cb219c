"""Settings of the studio: what can be asked for together."""

import importlib.util

import pytest

from sgdmix_hub import open_studio
from sgdmix_hub.errors import UserError
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.studio import StudioSettings


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "give --dataset_name"),
        ({"published": ["a/b@v1", "a/c@v1", "a/d@v1"]}, "more than 2"),
        ({"published": ["a/b@v1"], "start": "generate.yaml"}, "start is for choosing"),
        ({"dataset_name": "a/b", "push_space": "a/space"}, "give --published"),
    ],
)
def test_what_does_not_belong_together_is_refused(values, words):
    with pytest.raises(UserError, match=words):
        StudioSettings(**values).validate()


def test_it_listens_on_this_machine_alone_unless_told_otherwise():
    assert StudioSettings(dataset_name="a/b").host == "127.0.0.1"


def test_each_page_writes_a_file_of_its_own():
    assert StudioSettings(dataset_name="a/b").file == "generate.yaml"
    assert StudioSettings(published=["a/b@v1"]).file == "drop.csv"
    assert StudioSettings(published=["a/b@v1"], save_to="bad.csv").file == "bad.csv"


def test_the_page_begins_with_the_given_settings_and_those_of_a_file(tmp_path):
    (tmp_path / "start.yaml").write_text("mixing_method: source\nstrength: 0\nfeather: 0.02\n")
    values = {"dataset_name": "a/b", "mask_column": "mask", "seed": 3}
    assert open_studio.start_of(StudioSettings(**values)) == AugmentSettings(
        **values, output_dir="outputs"
    )
    begun = open_studio.start_of(StudioSettings(**values, start=str(tmp_path / "start.yaml")))
    assert (begun.mixing_method, begun.feather, begun.seed) == ("source", 0.02, 3)


@pytest.mark.skipif(importlib.util.find_spec("gradio") is not None, reason="Gradio is installed")
def test_without_gradio_one_line_says_what_to_install():
    with pytest.raises(UserError, match=r"pip install 'sgdmix_hub\[studio\]'"):
        open_studio.main(StudioSettings(dataset_name="a/b"))
