"""Whatever is typed on a command line or in YAML ends in one printable line, or is taken."""

import dataclasses
import random

import pytest
from required_settings import REQUIRED, TOKEN, is_safe

from sgdmix_hub.errors import UserError
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.parsing import parse_settings, read_yaml
from sgdmix_hub.settings.shipped import RECIPES
from sgdmix_hub.settings.yaml_files import LARGEST_FILE

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
