"""Settings are as strict in Python as on the command line; whatever is typed ends in one printable
line.
"""

import dataclasses
import random
import typing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from required_settings import DATA, REQUIRED, TOKEN, is_safe

from sgdmix_hub import augment, preview, train_adapter, train_classifier
from sgdmix_hub.data.images import square
from sgdmix_hub.errors import LONGEST_LINE, UnusableRow, UserError, one_line, shown
from sgdmix_hub.method.masks import foreground_mask
from sgdmix_hub.method.mixing import kept_mask
from sgdmix_hub.method.saliency.sources import load_source
from sgdmix_hub.method.targets import TargetSelection
from sgdmix_hub.pipeline import SGDMixPipeline
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.settings.fields import CountOrAuto, NumberOrAuto, hints_of, info_of
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.method import MethodSettings
from sgdmix_hub.settings.parsing import parse_settings
from sgdmix_hub.settings.presets import apply_preset
from sgdmix_hub.settings.programs import PreviewSettings
from sgdmix_hub.settings.training import ClassifierSettings

FIELDS = [(owner, field) for owner in REQUIRED for field in dataclasses.fields(owner)]
NOT_THESE = {
    bool: [1, 0, "true", "no", None, [], np.float32(1)],
    int: [True, 1.0, "1", np.float64(1), float("nan"), 10**30, -(10**30), -1, [1], {}],
    CountOrAuto: [True, 1.0, "4", "Auto", "", 10**30, 0, -1, [1], ["auto"]],
    float: [True, "0.5", float("nan"), float("inf"), 10**400, -1.0, 1e300, [0.5], complex(1), {}],
    str: ["", " ", "a\0b", "a\nb", "\ud800", "\x1b[31m", "x" * 5000, 3, b"bytes", ["a"], True],
    list[float]: [[], ["0.5"], "0.5", [True], [float("nan")], [2.0], True, {}, [0.5] * 1000],
    list[NumberOrAuto]: [
        [],
        ["0.5"],
        "Auto",
        ["auto", 0.5],
        [True],
        [2.0],
        {},
        [float("nan")],
    ],
    list[int]: [[], ["1"], "1", [True], [1.5], [-1], [10**30], [float("nan")], True, {}],
    list[str]: [[], [""], [1], 0.5, ["a", "a"], ["--a"], "-a", ["a\nb"], {"a"}, ["x" * 5000]],
    typing.Literal: ["Union", "", 3, True, ["l2"], "x" * 5000, "\ud800"],
}


def kind_of(hint):
    """The key of `NOT_THESE` for a field's type, and whether it may be None."""
    options = typing.get_args(hint)
    optional = type(None) in options
    if optional:
        (hint,) = (option for option in options if option is not type(None))
    if typing.get_origin(hint) is list:
        return hint, optional
    return typing.get_origin(hint) or hint, optional


@pytest.mark.parametrize(
    ("owner", "field"),
    FIELDS,
    ids=lambda value: getattr(value, "name", getattr(value, "__name__", "")),
)
def test_a_value_of_another_type_or_out_of_bounds_is_refused_by_name_in_python(owner, field):
    kind, optional = kind_of(hints_of(owner)[field.name])
    optional = optional or field.default is None  # as for what few_step_method gives
    for wrong in [*NOT_THESE[kind], *([] if optional else [None])]:
        if wrong is None and optional:
            continue
        with pytest.raises(UserError, match=f"^{field.name} ") as refusal:
            owner(**REQUIRED[owner] | {field.name: wrong})
        assert is_safe(str(refusal.value))


@pytest.mark.parametrize(
    ("owner", "field"),
    FIELDS,
    ids=lambda value: getattr(value, "name", getattr(value, "__name__", "")),
)
def test_every_number_has_a_lower_and_an_upper_bound(owner, field):
    bounds = info_of(field).bounds
    if kind_of(hints_of(owner)[field.name])[0] in (
        int,
        CountOrAuto,
        float,
        list[float],
        list[NumberOrAuto],
    ):
        assert (bounds.at_least is None) != (bounds.above is None)
        assert (bounds.at_most is None) != (bounds.below is None)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("mixing_method", "inpiant"),
        ("selection_method", "L2"),
        ("saliency_method", "minimum_barrier"),
        ("saliency_method", "grad_cam"),
        ("resize", "center_crop"),
        ("mask_refinement", "GrabCut"),
        ("preset", "Recommended"),
        ("scheduler", "ddpm"),
        ("dtype", "float64"),
        ("dtype", torch.float64),
    ],
)
def test_an_unknown_word_is_refused_by_the_pipeline_with_the_words_there_are(name, word):
    with pytest.raises(UserError, match=f"{name} is .*{word}: choose ") as refusal:
        SGDMixPipeline.from_pretrained(strength=0, **{name: word})
    hint = hints_of(MethodSettings)[name]
    choices = next(
        (typing.get_args(option) for option in typing.get_args(hint) if typing.get_args(option)),
        typing.get_args(hint),
    )
    assert str(refusal.value).endswith(f"choose {', '.join(choices)}")


def test_a_batch_size_is_a_number_or_auto_on_the_command_line_too():
    required = [f"--{name}={value}" for name, value in REQUIRED[AdapterSettings].items()]
    setting = "--per_device_train_batch_size"
    for words, expected in (([], "auto"), ([setting, "auto"], "auto"), ([setting, "4"], 4)):
        parsed = parse_settings(AdapterSettings, [*required, *words])
        assert parsed.per_device_train_batch_size == expected
    for wrong in ("Auto", "4.0", "0", "", "1_0"):
        with pytest.raises(UserError, match="per_device_train_batch_size"):
            parse_settings(AdapterSettings, [*required, f"{setting}={wrong}"])


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_a_data_type_may_be_torchs_own(name):
    torchs_own = getattr(torch, name)
    assert MethodSettings(dtype=torchs_own).dtype == MethodSettings(dtype=name).dtype == name
    for dtype in ({"torch_dtype": torchs_own}, {"dtype": name}):
        pipeline = SGDMixPipeline.from_pretrained(strength=0, preset="recommended", **dtype)
        assert pipeline.settings.dtype == name


def test_numbers_may_be_numpys_and_become_pythons():
    chosen = MethodSettings(
        strength=np.array([0.75, 0.5]),
        num_candidates=np.int64(7),
        guidance_scale=np.float64(2.5),
        compile=np.bool_(False),
        feather=0,
    )
    assert chosen.strength == [0.5, 0.75]
    for value, expected in (
        (chosen.num_candidates, 7),
        (chosen.guidance_scale, 2.5),
        (chosen.compile, False),
        (chosen.feather, 0.0),
    ):
        assert value == expected and type(value) is type(expected)
    assert (
        MethodSettings(strength=np.float64(0.5)).strength
        == MethodSettings(strength=(0.5,)).strength
        == [0.5]
    )


def test_a_folder_may_be_a_path():
    assert AugmentSettings(**DATA | {"output_dir": Path("out") / "birds"}).output_dir == "out/birds"


def test_a_preset_passes_its_own_check():
    for preset in ("paper", "recommended"):
        assert apply_preset(apply_preset(MethodSettings(preset=preset))) == apply_preset(
            MethodSettings(preset=preset)
        )


@pytest.mark.parametrize(
    ("main", "owner", "values", "named"),
    [
        (
            augment.main,
            AugmentSettings,
            {"strength": 0.5, "preset": "recommended"},
            "needs --adapter",
        ),
        (
            augment.main,
            AugmentSettings,
            {"strength": 0.0, "preset": "paper"},
            "grad-cam needs a classifier",
        ),
        (
            augment.main,
            AugmentSettings,
            {"strength": [0.5, 0.01], "adapter": "a/b"},
            "no diffusion step",
        ),
        (preview.main, PreviewSettings, {"saliency_layer": "layer4"}, "saliency_layer"),
        (
            train_adapter.main,
            AdapterSettings,
            {"metaclass": "bird", "prompt_template": "a bird"},
            "token",
        ),
        (train_classifier.main, ClassifierSettings, {"eval_steps": 5}, "eval_steps"),
    ],
)
def test_a_program_called_from_python_refuses_what_its_command_line_refuses(
    main, owner, values, named, tmp_path
):
    with pytest.raises(UserError, match=named):
        main(owner(dataset_name="absent", output_dir=tmp_path / "out", **values))
    assert not list(tmp_path.iterdir())


# ---- how errors show values ----


def test_what_an_error_shows_is_one_printable_line():
    rng = random.Random(0)
    for _ in range(500):
        text = "".join(
            rng.choice(["a", " ", "\n", "\0", "\x1b", "\ud800", "\u2028", "\x85", "é", "🐦", TOKEN])
            for _ in range(rng.randrange(900))
        )
        for said in (str(UserError(text)), one_line(text)):
            assert len(said) <= LONGEST_LINE
            assert not said or said.isprintable()
            assert TOKEN not in said
        assert len(shown(text)) <= 80 and (not text or shown(text).isprintable())


# ---- behind the settings: a word that slipped past them ----


def test_a_word_that_no_stage_knows_stops_every_stage():
    image, mask = Image.new("RGB", (16, 16)), np.ones((16, 16), bool)
    maps, rows = np.random.default_rng(0).random((3, 64, 64)).astype(np.float16), np.arange(3)
    chosen = apply_preset(MethodSettings(strength=0.0, preset="recommended"))
    chosen.saliency_method, chosen.mask_refinement, chosen.selection_method = (
        "minimum_barrier",
        "GrabCut",
        "L2",
    )
    for stage in (
        lambda: kept_mask(mask, mask, "inpiant"),
        lambda: square(image, 8, "center_crop"),
        lambda: load_source(chosen),
        lambda: foreground_mask(np.zeros((16, 16, 3), np.uint8), maps[0], chosen),
        lambda: TargetSelection(rows, np.zeros(3, int), maps, chosen),
    ):
        # `UnusableRow` from the stages of one row, which becomes the reason why it is skipped.
        with pytest.raises((KeyError, UnusableRow, UserError)):
            stage()
