"""Settings: how strictly they are read, what is refused, and what a fingerprint covers."""

import re
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parsed import FIELDS, augment_settings, parse, parse_yaml

from sgdmix_hub.errors import UserError
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.settings.generation import (
    AugmentSettings,
)
from sgdmix_hub.settings.parsing import parse_settings
from sgdmix_hub.settings.presets import PRESETS, apply_preset, preset_deviations, preset_values
from sgdmix_hub.settings.saliency import CAM_METHODS, SALIENCY_SOURCES
from sgdmix_hub.settings.strengths import num_steps, smallest_strength
from sgdmix_hub.settings.training import ClassifierSettings


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
