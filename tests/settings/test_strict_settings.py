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

from sgdmix_hub import augment, preview, train_adapter, train_classifier
from sgdmix_hub.data.images import square
from sgdmix_hub.errors import LONGEST_LINE, UnusableRow, UserError, one_line, shown
from sgdmix_hub.method.masks import foreground_mask
from sgdmix_hub.method.mixing import kept_mask
from sgdmix_hub.method.saliency.sources import load_source
from sgdmix_hub.method.targets import select_targets
from sgdmix_hub.pipeline import SGDMixPipeline
from sgdmix_hub.settings.evaluation import EvaluationSettings
from sgdmix_hub.settings.fields import CountOrAuto, hints_of, info_of
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.method import MethodSettings
from sgdmix_hub.settings.parsing import parse_settings, read_yaml
from sgdmix_hub.settings.presets import apply_preset
from sgdmix_hub.settings.programs import PreviewSettings, PublishSettings, RunSettings
from sgdmix_hub.settings.shipped import RECIPES
from sgdmix_hub.settings.training import AdapterSettings, ClassifierSettings
from sgdmix_hub.settings.yaml_files import LARGEST_FILE

DATA = {"dataset_name": "org/birds", "output_dir": "out"}
REQUIRED = {
    AugmentSettings: DATA | {"strength": 0.0, "classifier": "org/classifier"},
    AdapterSettings: DATA | {"metaclass": "bird"},
    ClassifierSettings: DATA,
    PreviewSettings: DATA,
    RunSettings: DATA | {"metaclass": "bird"},
    PublishSettings: {"folder": "out", "hub_dataset_id": "org/birds", "tag": "v1.0.0"},
    EvaluationSettings: {"synthetic": "out", "judge": "org/judge", "output_dir": "out"},
}
FIELDS = [(owner, field) for owner in REQUIRED for field in dataclasses.fields(owner)]
TOKEN = "hf_" + "aBcD" * 9
NOT_THESE = {
    bool: [1, 0, "true", "no", None, [], np.float32(1)],
    int: [True, 1.0, "1", np.float64(1), float("nan"), 10**30, -(10**30), -1, [1], {}],
    CountOrAuto: [True, 1.0, "4", "Auto", "", 10**30, 0, -1, [1], ["auto"]],
    float: [True, "0.5", float("nan"), float("inf"), 10**400, -1.0, 1e300, [0.5], complex(1), {}],
    str: ["", " ", "a\0b", "a\nb", "\ud800", "\x1b[31m", "x" * 5000, 3, b"bytes", ["a"], True],
    list[float]: [[], ["0.5"], "0.5", [True], [float("nan")], [2.0], True, {}, [0.5] * 1000],
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


def is_safe(message):
    return (
        len(message) <= LONGEST_LINE
        and message.isprintable()
        and message == message.strip() != ""
        and TOKEN not in message
    )


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
    if kind_of(hints_of(owner)[field.name])[0] in (int, CountOrAuto, float, list[float]):
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


# ---- the command line of every program ----


def words_of(values):
    return [f"--{name}={value}" for name, value in values.items()]


VALUES = [
    *(
        "",
        " ",
        "-",
        "--",
        "-1",
        "0",
        "1",
        "1.5",
        "1e23",
        "1e400",
        "-1e400",
        "nan",
        "inf",
        "-inf",
        "1_0",
        "0x1F",
        "0o7",
        "٣",
        "½",
    ),
    *(
        "9" * 5000,
        "true",
        "TRUE",
        "yes",
        "maybe",
        "null",
        "None",
        "[]",
        "{}",
        "[1, 2]",
        "a=b",
        "=",
        "a b",
        "\t",
        "\n",
        "a\nb\nc",
        "\r",
    ),
    *(
        "\x1b[31mred",
        "\0",
        "\x85",
        "\u2028",
        "\u202e",
        "\ud800",
        "\udcff",
        "🐦",
        "Möwe",
        "x" * 300,
        "x" * 70_000,
        "%s%n",
        "%(prog)s",
    ),
    *(
        "{token}",
        "{class_name}",
        "../..",
        "/",
        "/dev/null",
        "~",
        "org/name",
        "org/name@main",
        "a@b@c",
        "hf://x",
        "@x",
        TOKEN,
        f"{TOKEN}\n",
    ),
    *(
        "hf://datasets/a/b@v1/c.yaml",
        "-h=3",
        "--help=3",
        "--seed",
        "union",
        "Union",
        "l2",
        "12:30:45",
        "2026-99-99",
        "*a",
        "&a",
        "<<",
        "|",
    ),
]
STRAY = [
    *(
        "--",
        "-",
        "---",
        "--=",
        "=",
        "-x",
        "-seed=3",
        "--se=3",
        "--Seed=3",
        "--seed-3",
        "--token",
        f"--token={TOKEN}",
    ),
    *(
        f"--hub_token={TOKEN}",
        "--config",
        "--config=",
        "--config=/",
        "--config=/dev/null",
        "--config=" + "x" * 5000,
        "--config=a\0b",
    ),
    *(
        "--config=\ud800",
        "--config=--",
        "stray",
        "--no_safety_checker",
        "--no_safety_checker=3",
        "--no_random_flip",
        "--no_seed",
    ),
    *("@file", "--\ud800=3", "--\x1b[31m=3", "--a\nb=3"),
]


def malformed(owner, number):
    """A command line with one to three words that somebody mistyped: a pure function of program and
    number.
    """
    rng = random.Random(f"{owner.__name__} {number}")
    names = [field.name for field in dataclasses.fields(owner) if field.name != "config"]
    words = words_of(REQUIRED[owner])
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        kind, name, value = rng.random(), rng.choice(names), rng.choice(VALUES)
        if kind < 0.6:
            words.append(f"--{name}={value}")
        elif kind < 0.8:
            words += [f"--{name}", value, *rng.sample(VALUES, rng.randrange(2))]
        elif kind < 0.9:
            words.append(rng.choice(STRAY))
        else:
            words.insert(rng.randrange(len(words) + 1), rng.choice(VALUES + STRAY))
    if rng.random() < 0.05:
        words.remove(rng.choice(words))
    return words


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("owner", REQUIRED, ids=lambda owner: owner.__name__)
def test_malformed_command_lines_of_every_program_end_in_a_line_or_are_taken(
    owner, count, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    refused = 0
    for number in range(count):
        words = malformed(owner, number)
        try:
            settings = parse_settings(owner, words)
        except UserError as error:
            refused += 1
            assert is_safe(str(error)), (words, str(error))
        else:
            # What the command line accepts, the constructor accepts as well.
            assert owner(**dataclasses.asdict(settings)) == settings
    assert count / 2 < refused < count


@pytest.mark.parametrize(
    "words",
    [
        [f"--token={TOKEN}"],
        [f"--hub_token={TOKEN}"],
        ["--token", TOKEN],
        [TOKEN],
        [f"--seed={TOKEN}"],
    ],
)
def test_a_typed_token_is_not_echoed(words):
    with pytest.raises(UserError) as refusal:
        parse_settings(AugmentSettings, words_of(REQUIRED[AugmentSettings]) + words)
    assert "aBcD" not in str(refusal.value)


@pytest.mark.parametrize("value", ["1_000", "0x10", "٣", "1e3", "+-3", "3.0"])
def test_whole_numbers_are_plain_digits_on_the_command_line(value):
    with pytest.raises(UserError, match="num_candidates"):
        parse_settings(
            AugmentSettings, [*words_of(REQUIRED[AugmentSettings]), f"--num_candidates={value}"]
        )


# ---- YAML ----


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: " + "9" * 5000, "seed"),
        ("a: " + "[" * 1200, "nested"),
        ("a: " + "{a: " * 1200, "nested"),
        ("? [a, b]\n: 3", "YAML"),
        ("? {a: b}\n: 3", "YAML"),
        ("1: 2", "1 is not the name"),
        ("null: 2", "not the name"),
        ("a b: 2", "a b is not the name"),
        ("a=b: 2", "a=b is not the name"),
        ("a: &x [1]\nb: *x", r"\*name"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", r"\*name"),
        ("<<: {seed: 3}", "<<"),
        ("seed: !!python/object/apply:os.getcwd []", "YAML"),
        ("seed: !!timestamp 2026-99-99", "YAML"),
        ("seed: !!int x", "YAML"),
        ("seed: !!set {a}", "seed"),
        ("seed: !!binary aGk=", "seed"),
        ("a: 1\n---\na: 2", "YAML"),
        ("config_name: --", "cannot be the value"),
        (
            "strength: ['--output_dir', elsewhere]",
            "strength must be one value or a list of numbers",
        ),
        ("strength: ['--']", "list of numbers"),
        ("strength: [true]", "list of numbers"),
        ("help: true", "help"),
        ("a: \x00", "YAML"),
        ("\n".join(f"k{number}: 1" for number in range(50_000)), "larger"),
        ("a: " + "x" * LARGEST_FILE, "larger"),
        ("seed: 1\n" * 5_000, "seed appears twice"),
    ],
    ids=lambda value: value[:12],
)
def test_yaml_that_is_no_flat_list_of_settings_is_refused_in_a_line(tmp_path, text, said):
    path = tmp_path / "config.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match=said) as refusal:
        parse_settings(AugmentSettings, [*words_of(REQUIRED[AugmentSettings]), f"--config={path}"])
    assert is_safe(str(refusal.value))


def test_a_config_that_cannot_be_read_is_refused_in_a_line(tmp_path):
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00a")
    for location in (
        tmp_path,
        "",
        tmp_path / ("x" * 300),
        "a\0b",
        binary,
        "/dev/zero",
        tmp_path / "absent",
        binary / "below",
        "\ud800",
        "/proc/1/mem",
    ):
        with pytest.raises(UserError) as refusal:
            parse_settings(
                AugmentSettings, [*words_of(REQUIRED[AugmentSettings]), f"--config={location}"]
            )
        assert is_safe(str(refusal.value)), location


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12:30:45", "12:30:45"),
        ("0x1F", "0x1F"),
        ("0o17", "0o17"),
        ("1_000", "1_000"),
        ("2026-99-99", "2026-99-99"),
        ("2026-01-31", "2026-01-31"),
        ("no", "no"),
        ("on", "on"),
        ("٣", "٣"),
        ("=", "="),
        ("007", 7),
        ("-3", -3),
        ("1e-5", 1e-5),
        (".5", 0.5),
        ("1.0e-05", 1e-5),
        ("false", False),
        ("True", True),
        ("'true'", "true"),
        ("[0.5, .7]", [0.5, 0.7]),
        ("grad-cam++", "grad-cam++"),
        ("v1.0.0", "v1.0.0"),
        ('"1"', "1"),
    ],
)
def test_yaml_values_are_what_they_look_like(tmp_path, text, value):
    path = tmp_path / "config.yaml"
    path.write_text(f"name: {text}  # comment\n", encoding="utf-8")
    (read,) = read_yaml(path).values()
    assert (read, type(read)) == (value, type(value))


def test_the_committed_recipes_read_as_yamls_own_loader_reads_them():
    import yaml

    paths = sorted(RECIPES.glob("*/*.yaml"))
    assert len(paths) > 20
    for path in paths:
        expected = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert read_yaml(path) == {
            name: float(value) if value == "1e-4" else value for name, value in expected.items()
        }


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
        lambda: list(select_targets(rows, rows, np.zeros(3, int), maps, chosen)),
    ):
        # `UnusableRow` from the stages of one row, which becomes the reason why it is skipped.
        with pytest.raises((KeyError, UnusableRow, UserError)):
            stage()
