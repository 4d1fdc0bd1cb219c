"""Controls are made from the fields of the settings: every choice, and no second list of them."""

import dataclasses

import pytest
from browsers import needed

from sgdmix_hub.errors import UserError
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.method import MethodSettings
from sgdmix_hub.settings.parsing import parse_settings

needed()

from sgdmix_hub.studio import controls  # noqa: E402
from sgdmix_hub.studio.recipe_file import chosen_settings, write_recipe  # noqa: E402

NAMES = controls.names_on_page(has_base=True)
START = AugmentSettings(dataset_name="org/birds", output_dir="outputs", strength=0.7)
CHOSEN = {
    "preset": "paper",
    "saliency_method": "minimum-barrier",
    "threshold_method": "quantile",
    "largest_component": "yes",
    "mask_dilation": "0.05",
    "num_candidates": 7.0,
    "feather": "0",
    "strength": "0.5, 0.75",
    "foreground_strength": "0.25",
    "prompt_template": "a photo of a {class_name}\nan oil painting of a {class_name}",
    "negative_prompt": "blurry: no",
    "num_inference_steps": 10,
    "resolution": 256,
    "safety_checker": False,
}


def test_every_setting_of_the_method_is_on_the_page_or_named_as_being_off_it():
    names = {field.name for field in dataclasses.fields(MethodSettings)}
    assert {*NAMES, *controls.OFF_PAGE} == names
    assert len(NAMES) == len(set(NAMES))
    assert not set(NAMES) & set(controls.OFF_PAGE)


@pytest.mark.parametrize("name", NAMES)
def test_a_control_offers_what_the_field_takes_and_gives_back_what_it_holds(name):
    control = controls.control(name, START)
    assert control.label == name
    assert control.info.startswith(controls.FIELDS[name].metadata["help"])
    assert controls.setting_value(name, control.value) == getattr(START, name)
    for _, value in getattr(control, "choices", None) or []:
        values = {name: controls.setting_value(name, value)}
        assert getattr(dataclasses.replace(START, **values), name) == values[name]


def test_sources_that_lack_what_they_need_are_not_offered():
    offered = [value for _, value in controls.choices("saliency_method", START)]
    assert "consensus" in offered
    assert not {"grad-cam", "segmentation", "mask-column", "function"} & set(offered)
    given = dataclasses.replace(START, classifier="org/judge", mask_column="mask")
    offered = [value for _, value in controls.choices("saliency_method", given)]
    assert {"grad-cam", "mask-column"} <= set(offered)
    assert controls.choices("saliency_method", given)[0] == ("recommended: mask-column", "")


def test_what_was_chosen_is_what_augment_reads(tmp_path):
    start = dataclasses.replace(START, pretrained_model_name_or_path="org/base", seed=4)
    raws = [CHOSEN.get(name, controls.raw_value(name, getattr(start, name))) for name in NAMES]
    values = controls.chosen_values(NAMES, raws)
    path = tmp_path / "generate.yaml"
    values["excluded_rows"] = [2, 9]
    write_recipe(path, start, values, has_base=True)
    read = parse_settings(AugmentSettings, ["--config", str(path), "--output_dir=outputs"])
    expected = chosen_settings(start, values, has_base=True)
    assert dataclasses.replace(read, config=None) == expected
    assert (read.strength, read.num_candidates, read.excluded_rows) == ([0.5, 0.75], 7, [2, 9])
    assert (read.feather, read.largest_component, read.safety_checker) == (0.0, True, False)
    assert len(read.prompt_template) == 2


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("mask_dilation", "much"),
        ("mask_dilation", "0.9"),
        ("num_candidates", 0.0),
        ("num_candidates", 2.5),
        ("strength", "0.5, x"),
        ("threshold_method", "magic"),
    ],
)
def test_what_a_field_does_not_take_is_refused_with_its_name(name, raw):
    values = controls.chosen_values([name], [raw])
    with pytest.raises(UserError, match=name):
        chosen_settings(START, values, has_base=True)


def test_without_a_base_model_only_mixtures_are_asked_for(tmp_path):
    names = controls.names_on_page(has_base=False)
    assert not {"strength", "prompt_template"} & set(names)
    path = tmp_path / "generate.yaml"
    start = dataclasses.replace(START, strength=[0.0])
    write_recipe(path, start, {}, has_base=False)
    read = parse_settings(AugmentSettings, ["--config", str(path), "--output_dir=outputs"])
    assert (read.strength, read.excluded_rows) == ([0.0], None)
