"""Settings: how strictly they are read, what is refused, and what a fingerprint covers."""

import dataclasses
import itertools
import re
import typing
from pathlib import Path
from typing import get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sgdmix_hub.errors import UserError
from sgdmix_hub.settings.fields import Changes, names_where
from sgdmix_hub.settings.generation import (
    MAY_MOVE_LAST_BITS,
    PINNED_INPUTS,
    PLACE_AND_SPEED,
    AugmentSettings,
    fingerprint,
    groups_table,
    published_settings,
)
from sgdmix_hub.settings.parsing import parse_settings
from sgdmix_hub.settings.presets import PRESETS, apply_preset, preset_deviations, preset_values
from sgdmix_hub.settings.saliency import CAM_METHODS, SALIENCY_SOURCES
from sgdmix_hub.settings.strengths import num_steps, smallest_strength
from sgdmix_hub.settings.training import AdapterSettings, ClassifierSettings

ROOT = Path(__file__).parents[2]
REQUIRED = [
    "--dataset_name",
    "org/birds",
    "--output_dir",
    "out",
    "--adapter",
    "org/adapter",
    "--classifier",
    "org/classifier",
]
PINS = {name: f"org/{name}@{'0' * 40}" for name in PINNED_INPUTS}
NEWER_INPUTS = ("background_dataset_name", "few_step_lora", "judge")  # than the golden fingerprints
FIELDS = {field.name: field for field in dataclasses.fields(AugmentSettings)}


def parse(*words, settings_class=AugmentSettings):
    return parse_settings(settings_class, [*REQUIRED, *map(str, words)])


def parse_yaml(folder, text, *words):
    path = folder / "generate.yaml"
    path.write_text(text)
    return parse_settings(AugmentSettings, [*REQUIRED, "--config", str(path), *words])


def augment_settings(**values):
    defaults = {
        "dataset_name": "org/birds",
        "output_dir": "out",
        "adapter": "org/adapter",
        "classifier": "org/classifier",
    }
    return AugmentSettings(**(defaults | values))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--num_cand", "3"], "num_cand"),
        (["--no_such_setting", "3"], "no_such_setting"),
        (["--strength", "1.5"], "strength"),
        (["--strength", "nan"], "strength"),
        (["--strength=-0.1"], "strength"),
        (["--strength", "much"], "strength"),
        (["--num_candidates", "2.5"], "num_candidates"),
        (["--num_candidates", "0"], "num_candidates"),
        (["--mixing_method", "blend"], "mixing_method"),
        (["--resolution", "100"], "resolution"),
        (["--resolution", "0"], "resolution"),
        (["--feather", "nan"], "feather"),
        (["--feather", "0.6"], "feather"),
        (["--guidance_scale", "nan"], "guidance_scale"),
        (["--guidance_scale", "inf"], "guidance_scale"),
        (["--max_skipped", "2"], "max_skipped"),
        (["--imbalance_factor", "0"], "imbalance_factor"),
        (["--imbalance_factor", "nan"], "imbalance_factor"),
        (["--examples_per_class", "0"], "examples_per_class"),
        (["--seed=-1"], "seed"),
        (["--config_name", "../other"], "config_name"),
        (["--safety_checker", "perhaps"], "safety_checker"),
        (["--saliency_method", "mask-column"], "mask_column"),
        (["--saliency_method", "no-cam"], "saliency_method"),
        (["--saliency_sigma", "0"], "saliency_sigma"),
        (["--saliency_sigma", "nan"], "saliency_sigma"),
        (["--saliency_sigma", "inf"], "saliency_sigma"),
        (["--saliency_input_size", "0"], "saliency_input_size"),
        (["--trust_test", "no"], "trust_test"),
        (["--threshold_method", "best"], "threshold_method"),
        (["--threshold_quantile", "1.5"], "threshold_quantile"),
        (["--threshold_quantile", "nan"], "threshold_quantile"),
        (["--largest_component", "2"], "largest_component"),
        (["--mask_dilation", "0.6"], "mask_dilation"),
        (["--mask_dilation=-0.1"], "mask_dilation"),
        (["--mask_dilation", "nan"], "mask_dilation"),
        (["--selection_method", "nearest"], "selection_method"),
        (["--target_classes", "some"], "target_classes"),
        (["--max_target_reuse", "0"], "max_target_reuse"),
        (["--inpainting_method", "gan"], "inpainting_method"),
        (["--preset", "paper", "--inpainting_method", "diffusion"], "mixing_method"),
        (
            ["--inpainting_method", "diffusion", "--mixing_method", "inpaint", "--strength", "0"],
            "strength",
        ),
        (
            [
                "--inpainting_method",
                "diffusion",
                "--mixing_method",
                "inpaint",
                "--num_inference_steps",
                "1",
                "--strength",
                "1",
            ],
            "steps",
        ),
        (["--strength", "zero"], "invalid number value: 'zero'"),
        (["--num_variants", "1.5"], "invalid whole number value: '1.5'"),
        (["--config"], "config"),
        (["stray"], "stray"),
    ],
)
def test_mistakes_on_the_command_line_are_refused_by_name(words, named):
    with pytest.raises(UserError, match=named) as refusal:
        parse(*words)
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    "method", [None, *(name for name in SALIENCY_SOURCES if name != "function")]
)
def test_a_method_that_looks_through_a_classifier_needs_one(preset, method):
    """Whether it is given or the preset's."""
    words = [
        "--dataset_name",
        "a/b",
        "--output_dir",
        "o",
        "--strength",
        "0",
        "--mask_column",
        "mask",
        "--bbox_column",
        "box",
        "--bbox_format",
        "xywh",
        "--segmenter",
        "s/m",
        "--preset",
        preset,
    ]
    words += [] if method is None else ["--saliency_method", method]
    # Of the sources at hand, `recommended` takes the column of masks.
    chosen = method or {"paper": "grad-cam", "recommended": "mask-column"}[preset]
    if chosen in CAM_METHODS:
        with pytest.raises(UserError, match=f"{re.escape(chosen)} needs a classifier"):
            parse_settings(AugmentSettings, words)
    else:
        assert apply_preset(parse_settings(AugmentSettings, words)).saliency_method == chosen
    parse_settings(AugmentSettings, [*words, "--classifier", "c/d"])


@pytest.mark.parametrize("preset", PRESETS)
def test_inpainting_by_diffusion_goes_by_the_presets_mixing(preset):
    words = [
        "--preset",
        preset,
        "--inpainting_method",
        "diffusion",
        "--num_inference_steps",
        "2",
        "--strength",
        "0.5",
    ]
    if PRESETS[preset]["mixing_method"] == "inpaint":
        assert parse(*words).inpainting_method == "diffusion"
    else:
        with pytest.raises(UserError, match="mixing_method inpaint"):
            parse(*words)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("no_such_setting: 3", "no_such_setting"),
        ("num_cand: 3", "num_cand"),
        ("adapter:", "adapter"),
        ("adapter: null", "adapter"),
        ("adapter:\n  name: org/adapter", "adapter"),
        ("strength: []", "strength"),
        ("strength: [0.5, [0.7]]", "strength"),
        ("strength: [0.5, 0.5]", "0.5 twice"),
        ("strength: [0.5, 1.5]", "strength is 1.5"),
        ("strength: [0.5, 0.01]", "strength 0.01 at 25 steps"),
        ("strength: [0.5, 0.7]\nforeground_strength: 0.6", "foreground_strength"),
        ("num_candidates: [3, 4]", "num_candidates must be one value"),
        ("strength: 0.5\nstrength: 0.6", "strength"),
        ("strength: much", "strength"),
        ("num_candidates: 2.5", "num_candidates"),
        ("safety_checker: 3", "safety_checker"),
        ("- strength", "name: value"),
        ("strength", "name: value"),
        ("strength: {", "YAML"),
    ],
)
def test_mistakes_in_yaml_are_refused_by_name(tmp_path, text, named):
    with pytest.raises(UserError, match=named):
        parse_yaml(tmp_path, text)


def test_a_missing_config_and_a_missing_required_setting_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        parse("--config", tmp_path / "absent.yaml")
    with pytest.raises(UserError, match="dataset_name"):
        parse_settings(AugmentSettings, ["--output_dir", "out"])


@pytest.mark.parametrize(
    ("settings_class", "words", "named"),
    [
        (AdapterSettings, ["--metaclass", " "], "metaclass"),
        (AdapterSettings, ["--metaclass", "bird", "--prompt_template", "a {metaclass}"], "token"),
        (
            AdapterSettings,
            ["--metaclass", "bird", "--prompt_template", "{token} {token} {metaclass}"],
            "token",
        ),
        (AdapterSettings, ["--metaclass", "bird", "--learning_rate", "0"], "learning_rate"),
        (AdapterSettings, ["--metaclass", "bird", "--learning_rate", "nan"], "learning_rate"),
        (AdapterSettings, ["--metaclass", "bird", "--snr_gamma", "0"], "snr_gamma"),
        (ClassifierSettings, ["--synthetic_probability", "1.1"], "synthetic_probability"),
        (ClassifierSettings, ["--weight_decay", "nan"], "weight_decay"),
        (ClassifierSettings, ["--mixup_alpha", "-1"], "mixup_alpha"),
        (ClassifierSettings, ["--cutmix_alpha", "inf"], "cutmix_alpha"),
        (ClassifierSettings, ["--synthetic_gamma", "0"], "synthetic_gamma"),
        (ClassifierSettings, ["--many_shot", "5", "--few_shot", "7"], "few_shot"),
        (ClassifierSettings, ["--validation_share", "1"], "validation_share"),
        (
            ClassifierSettings,
            ["--validation_split", "val", "--validation_share", "0.1"],
            "give one",
        ),
        (ClassifierSettings, ["--validation_split", "train"], "training split"),
        (ClassifierSettings, ["--validation_split", "test", "--eval_split", "test"], "test images"),
        (ClassifierSettings, ["--resize_size", "0"], "resize_size"),
        (ClassifierSettings, ["--eval_steps", "5"], "validation_split"),
        (ClassifierSettings, ["--group_column", "place"], "eval_split"),
        (ClassifierSettings, ["--eval_dataset_name", "org/test-birds"], "eval_split"),
    ],
)
def test_the_other_stages_refuse_impossible_values(settings_class, words, named):
    with pytest.raises(UserError, match=named):
        parse_settings(
            settings_class, ["--dataset_name", "org/birds", "--output_dir", "out", *words]
        )


def test_yaml_gives_values_and_the_command_line_wins(tmp_path):
    text = "strength: 0.5\nnum_candidates: 7\nsafety_checker: false\nlicense: cc-by-4.0\n"
    values = parse_yaml(tmp_path, text, "--num_candidates", "9")
    assert (values.strength, values.num_candidates, values.safety_checker, values.license) == (
        [0.5],
        9,
        False,
        "cc-by-4.0",
    )
    assert parse_yaml(tmp_path, "", "--seed", "3").seed == 3


@pytest.mark.parametrize(
    ("words", "expected"),
    [([], False), (["--allow_other_subset"], True), (["--allow_other_subset", "false"], False)],
)
def test_booleans_may_stand_bare(words, expected):
    assert parse(*words).allow_other_subset is expected


@pytest.mark.slow
@given(steps=st.integers(1, 400))
@settings(max_examples=60)
def test_a_strength_without_a_step_is_refused_and_the_named_one_runs_a_step(steps):
    with pytest.raises(UserError) as refusal:
        parse("--num_inference_steps", steps, "--strength", 1e-6)
    named = float(re.search(r"at least ([\d.e-]+)", str(refusal.value)).group(1))
    assert named == smallest_strength(steps)
    assert int(steps * named) >= 1
    assert int(steps * (round(named * 100) - 1) / 100) == 0 or named == 0.01
    chosen = parse("--num_inference_steps", steps, "--strength", named)
    assert num_steps(chosen, named) >= 1


@given(steps=st.integers(1, 100))
@settings(max_examples=60)
def test_the_smallest_strength_is_refused_one_hundredth_lower(steps):
    hundredths = round(smallest_strength(steps) * 100)
    if hundredths > 1:
        with pytest.raises(UserError, match="strength"):
            parse("--num_inference_steps", steps, "--strength", (hundredths - 1) / 100)


def test_strength_zero_mixes_without_an_adapter():
    values = parse_settings(
        AugmentSettings,
        ["--dataset_name", "a/b", "--output_dir", "o", "--classifier", "c/d", "--strength", "0"],
    )
    assert (values.strength, values.refines, values.adapter) == ([0.0], False, None)
    with pytest.raises(UserError, match="adapter"):
        parse_settings(
            AugmentSettings, ["--dataset_name", "a/b", "--output_dir", "o", "--classifier", "c/d"]
        )


def test_presets_name_the_same_settings_with_possible_values():
    hints = typing.get_type_hints(AugmentSettings)
    assert typing.get_args(hints["preset"]) == tuple(PRESETS)
    names = set(PRESETS["paper"])
    for preset in PRESETS.values():
        assert set(preset) == names
    # A default other than None would count as given, and the preset would never be asked.
    assert all(FIELDS[name].default is None for name in names)
    for preset in PRESETS:
        apply_preset(augment_settings(preset=preset)).validate()


@pytest.mark.parametrize(
    ("at_hand", "method", "floor"),
    [
        ({}, "consensus", SALIENCY_SOURCES["consensus"].trusted_from),
        ({"bbox_column": "box", "bbox_format": "xyxy"}, "box-column", 0),
        ({"segmenter": "org/sam"}, "segmentation", 0.5),
        (
            {"segmenter": "org/sam", "bbox_column": "box", "bbox_format": "xyxy"},
            "segmentation",
            0.5,
        ),
        ({"segmenter": "org/sam", "mask_column": "mask"}, "mask-column", 0),
    ],
)
def test_recommended_takes_the_best_source_of_masks_at_hand(at_hand, method, floor):
    chosen = apply_preset(augment_settings(**at_hand))
    assert chosen.preset == "recommended"
    assert (chosen.saliency_method, chosen.min_mask_confidence) == (method, floor)
    assert preset_deviations(chosen) == {}
    given = apply_preset(augment_settings(saliency_method="minimum-barrier", **at_hand))
    assert (given.saliency_method, given.min_mask_confidence) == ("minimum-barrier", 0)
    assert apply_preset(augment_settings(preset="paper", **at_hand)).saliency_method == "grad-cam"


def test_the_preset_of_the_paper():
    chosen = apply_preset(augment_settings(preset="paper"))
    assert chosen.min_mask_confidence == 0
    assert (chosen.strength, chosen.num_candidates) == ([0.7], 50)
    assert (chosen.saliency_method, chosen.threshold_method, chosen.trust_test) == (
        "grad-cam",
        "otsu",
        "warn",
    )
    assert (chosen.selection_method, chosen.mixing_method, chosen.mask_refinement) == (
        "l2",
        "union",
        "none",
    )
    assert (chosen.largest_component, chosen.fill_holes, chosen.mask_dilation) == (
        False,
        False,
        0.0,
    )
    assert (chosen.target_classes, chosen.crop_target, chosen.feather) == ("any", False, 0.0)
    assert (chosen.max_target_reuse, chosen.inpainting_method) == (None, "opencv")


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mixing_method", "source"),
        ("feather", 0.0),
        ("feather", 0.2),
        ("selection_method", "random"),
        ("saliency_method", "layer-cam"),
        ("trust_test", "warn"),
        ("threshold_method", "yen"),
        ("fill_holes", True),
        ("largest_component", False),
        ("mask_dilation", 0.02),
        ("crop_target", True),
        ("target_classes", "same"),
    ],
)
def test_a_preset_keeps_what_was_given(preset, name, value):
    given_settings = augment_settings(preset=preset, **{name: value})
    chosen = apply_preset(given_settings)
    assert getattr(chosen, name) == value
    given_by_preset = preset_values(given_settings)
    for other, choice in given_by_preset.items():
        assert other == name or getattr(chosen, other) == choice
    expected = {} if given_by_preset[name] == value else {name: value}
    assert preset_deviations(chosen) == preset_deviations(given_settings) == expected
    assert getattr(given_settings, "mask_refinement", "absent") is None


def test_every_setting_is_in_one_group_and_the_documentation_has_the_table():
    groups = [names_where(AugmentSettings, changes=changes) for changes in get_args(Changes)]
    assert sorted(itertools.chain(*groups)) == sorted(FIELDS)
    assert groups[1:] == [MAY_MOVE_LAST_BITS, PLACE_AND_SPEED]
    assert groups_table() in (ROOT / "docs" / "running.md").read_text(), groups_table()


GOLDEN = [
    ({}, "28633ac4fc602df1c5c0c670943187c6a8ce7563a53f6eac2cd685aef5128880"),
    (
        {"preset": "recommended", "strength": [0.5, 0.9], "seed": 3},
        "a60bd4b4f094120be79a974519e7332e4ff2fc2ae4758f1d8ccbe9e3f7f376fb",
    ),
    (
        {
            "strength": 0.0,
            "saliency_method": "mask-column",
            "mask_column": "m",
            "num_variants": 4,
            "image_format": "webp",
            "batch_size": 2,
            "num_threads": 8,
            "config_name": "x",
            "mask_dilation": 0.1,
            "max_image_pixels": 10**6,
            "imbalance_factor": 0.1,
        },
        "b3f10188e88a023cdd77948a1177d6cc76ed5bed1918ce2cc802e07064026e6f",
    ),
]


@pytest.mark.parametrize(("values", "expected"), GOLDEN)
def test_the_fingerprint_of_an_existing_configuration_stays_the_same(values, expected):
    """A run that was begun with an earlier version is resumed."""
    earlier = {name: pin for name, pin in PINS.items() if name not in NEWER_INPUTS}
    assert fingerprint(augment_settings(**values), earlier) == expected


def other_value(name):
    """A value of the field's type that is not its default."""
    values = typing.get_args(FIELDS[name].type) or typing.get_args(
        typing.get_type_hints(AugmentSettings)[name]
    )
    choices = [
        choice
        for value in values
        for choice in (typing.get_args(value) or [value])
        if isinstance(choice, str)
    ]
    base = getattr(augment_settings(), name)
    if isinstance(base, list):
        return [*base, 0.875]
    if choices:
        return next(choice for choice in choices if choice != base)
    kind = typing.get_type_hints(AugmentSettings)[name]
    kinds = typing.get_args(kind) or (kind,)
    if bool in kinds:
        return not base
    if list[int] in kinds:
        return [3]
    if int in kinds:
        return (base or 0) + 8
    return (base or 0.0) + 0.125 if float in kinds else f"{base}-other"


@pytest.mark.parametrize("name", FIELDS)
def test_the_fingerprint_covers_what_changes_images_and_nothing_else(name):
    base = augment_settings()
    other = dataclasses.replace(base, **{name: other_value(name)})
    assert getattr(other, name) != getattr(base, name)
    same = fingerprint(base, PINS) == fingerprint(other, PINS)
    # An input counts by its pin: the same content elsewhere is the same input.
    assert same == (name in (*MAY_MOVE_LAST_BITS, *PLACE_AND_SPEED, *PINNED_INPUTS))


@pytest.mark.parametrize("name", PINNED_INPUTS)
def test_the_fingerprint_covers_every_pin(name):
    other = PINS | {name: f"org/{name}@{'1' * 40}"}
    assert fingerprint(augment_settings(), PINS) != fingerprint(augment_settings(), other)
    fewer = {key: pin for key, pin in PINS.items() if key != name}
    assert fingerprint(augment_settings(), PINS) != fingerprint(augment_settings(), fewer)


def test_the_fingerprint_tells_settings_with_swapped_values_apart():
    first, second = (
        augment_settings(num_candidates=3, num_variants=4),
        augment_settings(num_candidates=4, num_variants=3),
    )
    assert fingerprint(first, PINS) != fingerprint(second, PINS)


def test_published_settings_hold_no_places():
    places = {
        "output_dir": "/home/me/out",
        "saliency_dir": "/home/me/maps",
        "card": "/home/me/card.md",
        "dataset_name": "/home/me/birds",
    }
    values = augment_settings(**places)
    published = published_settings(values, PINS)
    assert "/home/me" not in str(published)
    assert not set(published) & set(PLACE_AND_SPEED)
    assert {name: published[name] for name in PINS} == PINS


def test_an_input_that_is_given_and_not_used_is_not_published_either():
    """At strength 0 no adapter is pinned, with another saliency method no classifier: their paths
    must not take the pins' places.
    """
    used = {"dataset_name": PINS["dataset_name"]}
    places = {"adapter": "/home/me/adapter", "classifier": "/home/me/classifier"}
    values = augment_settings(strength=0.0, saliency_method="spectral-residual", **places)
    assert "/home/me" not in str(published_settings(values, used))
    elsewhere = dataclasses.replace(values, adapter="/tmp/adapter", classifier=None)
    assert fingerprint(values, used) == fingerprint(elsewhere, used)


def test_several_strengths_are_one_list_however_they_are_given(tmp_path):
    given = parse("--strength", "0.9", "0.3", "0.5")
    assert (
        given.strength
        == [0.3, 0.5, 0.9]
        == parse_yaml(tmp_path, "strength: [0.5, 0.9, 0.3]").strength
    )
    assert (
        parse_yaml(tmp_path, "strength: [0.5, 0.9]", "--strength", "0.7").strength
        == [0.7]
        == augment_settings(strength=0.7).strength
    )
    assert published_settings(given, PINS)["strength"] == [0.3, 0.5, 0.9]
    assert published_settings(augment_settings(strength=0.7), PINS)["strength"] == 0.7


@pytest.mark.parametrize("strength", [0.5, [0.3, 0.5]])
def test_published_settings_read_back_to_the_same_settings(tmp_path, strength):
    """What is published is a configuration: a rerun from it has the same fingerprint."""
    chosen = {
        "preset": "recommended",
        "strength": strength,
        "feather": 0.05,
        "seed": 7,
        "safety_checker": False,
    }
    chosen |= {
        "crop_target": False,
        "fill_holes": True,
        "mask_dilation": 0.125,
        "saliency_method": "layer-cam",
        "max_target_reuse": 2,
    }
    chosen |= {
        "threshold_method": "quantile",
        "threshold_quantile": 0.7,
        "saliency_sigma": 3.0,
        "inpainting_method": "diffusion",
        "few_step_method": "lightning",
        "few_step_weight_name": "8steps.safetensors",
    }
    values = apply_preset(augment_settings(**chosen))
    path, pins = tmp_path / "config.yaml", PINS.copy()
    del pins["background_dataset_name"]  # not chosen
    path.write_text(yaml.safe_dump(published_settings(values, pins)))
    again = parse_settings(AugmentSettings, ["--config", str(path), "--output_dir", "elsewhere"])
    assert fingerprint(again, pins) == fingerprint(values, pins)
