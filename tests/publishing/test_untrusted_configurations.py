"""Published configurations that attack are refused in one line; honest ones are read."""

import dataclasses
from pathlib import Path

import pytest
import yaml
from untrusted import COMMIT, HONEST, refused

from sgdmix_hub.hub.pins import Pin, resolve
from sgdmix_hub.run import stage_settings
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.settings.evaluation import EvaluationSettings
from sgdmix_hub.settings.fetched import PUBLISHED, fetch_config, is_fetched
from sgdmix_hub.settings.generation import (
    PINNED_INPUTS,
    PLACE_AND_SPEED,
    AugmentSettings,
    published_settings,
)
from sgdmix_hub.settings.parsing import parse_settings
from sgdmix_hub.settings.presets import apply_preset
from sgdmix_hub.settings.programs import PreviewSettings, PublishSettings, RunSettings
from sgdmix_hub.settings.training import ClassifierSettings

PROGRAMS = [
    AugmentSettings,
    PublishSettings,
    PreviewSettings,
    RunSettings,
    ClassifierSettings,
    AdapterSettings,
    EvaluationSettings,
]


def published_config(folder: Path, /, **values) -> Path:
    """A configuration with a plan beside it, as somebody's repository holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.parquet").write_bytes(b"")
    (folder / "config.yaml").write_text(yaml.safe_dump(HONEST | values))
    return folder / "config.yaml"


def parse(path: Path, *words: str, program: type = AugmentSettings):
    return parse_settings(program, ["--config", str(path), *words])


@pytest.fixture(scope="module")
def repo(first_version) -> Path:
    return first_version / "repo"


def test_an_honest_published_configuration_is_taken_and_the_command_line_wins(tmp_path):
    settings = parse(published_config(tmp_path), "--output_dir=out", "--seed=4", "--license=mit")
    assert settings.dataset_name == HONEST["dataset_name"]
    assert settings.seed == 4
    assert settings.license == "mit"


def test_what_a_generation_publishes_is_what_a_published_configuration_may_set(tmp_path):
    """All of it, each with its own value or another one."""
    settings = AugmentSettings(
        dataset_name="org/birds",
        output_dir="out",
        background_dataset_name="org/landscapes",
        few_step_method="lcm",
        license="mit",
        card="card.md",
        strength=[0.3, 0.5],
        seed=5,
    )
    settings = apply_preset(settings)
    pins = {name: f"org/{name}@{COMMIT}" for name in PINNED_INPUTS}
    values = published_settings(settings, pins)
    assert set(values) <= PUBLISHED and not PUBLISHED & set(PLACE_AND_SPEED)
    published_config(tmp_path, **values)
    assert (
        published_settings(parse(tmp_path / "config.yaml", "--output_dir=elsewhere"), pins)
        == values
    )


FORBIDDEN = sorted(
    {field.name for program in PROGRAMS for field in dataclasses.fields(program)} - PUBLISHED
)


@pytest.mark.parametrize(
    "name", [*FORBIDDEN, "token", "push-to-hub", "no_safety_checker", "hub_token"]
)
def test_a_published_configuration_cannot_set_a_place_a_push_or_any_other_name(name, tmp_path):
    path = published_config(tmp_path, **{name: "/home/ada/.cache/huggingface/token"})
    for program in PROGRAMS:
        assert name in refused(parse, path, "--output_dir=out", program=program)
        if name != "config":  # not even where the command line gives it too
            assert name in refused(
                parse, path, "--output_dir=out", f"--{name}=mine", program=program
            )


@pytest.mark.parametrize("name", PINNED_INPUTS)
@pytest.mark.parametrize(
    "value",
    [
        "/home/ada/photos",
        "photos",
        "../photos",
        "org/birds",
        "org/birds@main",
        "org/birds@v1.0.0",
        f"a/b/c@{COMMIT}",
        f"../x@{COMMIT}",
    ]
    + [
        f"hf://org/birds@{COMMIT}",
        f"/home@{COMMIT}",
        f"org/birds@{COMMIT}\n",
        "",
        7,
        f"org/birds@{COMMIT.upper()}",
    ],
)
def test_an_input_of_a_published_configuration_is_a_commit_and_no_path(name, value, tmp_path):
    path = published_config(tmp_path, **{name: value})
    assert name in refused(parse, path, "--output_dir=out")
    # The user sets it on the command line.
    beside = {"detector": ["--segmenter=sam"], "few_step_lora": ["--few_step_method=lcm"]}
    settings = parse(
        path, "--output_dir=out", f"--{name.replace('_', '-')}=mine", *beside.get(name, [])
    )
    assert getattr(settings, name) == "mine"


def test_an_input_that_was_a_local_folder_is_asked_for_and_never_looked_for(tmp_path, monkeypatch):
    """Also where a folder of that very name is at hand."""
    pin = f"birds@sha256-{'0' * 64}"
    settings = parse(published_config(tmp_path / "published", dataset_name=pin), "--output_dir=out")
    (tmp_path / pin).mkdir()
    (tmp_path / HONEST["dataset_name"]).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "was a local folder: give its path" in refused(resolve, settings.dataset_name, "dataset")
    assert resolve(HONEST["dataset_name"]) == Pin("org/birds", COMMIT)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"mask_function": "os.system"}, "mask_function"),
        ({"saliency_method": "function"}, "is for Python"),
        ({"saliency_method": "os.system"}, "saliency_method"),
        ({"saliency_method": "rembg", "rembg_model": "../../evil.onnx"}, "rembg_model"),
        ({"saliency_method": "rembg", "rembg_model": "u2net_custom"}, "rembg_model"),
        ({"segmenter": "facebook/sam3"}, "segmenter"),
        ({"segmenter": "/home/ada/model"}, "segmenter"),
        ({"segmenter": "https://eve.example/model.pt"}, "segmenter"),
        ({"detector": f"org/dino@{COMMIT}"}, "detector needs --segmenter"),
        ({"segmenter_prompt": ",".join("x" * 200)}, "segmenter_prompt"),
        ({"segmenter_prompt": ["a", "--card=/etc/passwd"]}, "segmenter_prompt"),
        ({"bbox_column": "box"}, "belong together"),
        ({"bbox_column": "box", "bbox_format": "eval"}, "bbox_format"),
        ({"mask_column": "x" * 1000}, "mask_column"),
        ({"grabcut_radius": 1e9}, "grabcut_radius"),
        ({"min_mask_confidence": float("nan")}, "min_mask_confidence"),
    ],
)
def test_a_published_configuration_cannot_misuse_a_source_of_masks(values, fault, tmp_path):
    """No code, no local file, no model without a commit, no endless work."""
    assert fault in refused(parse, published_config(tmp_path, **values), "--output_dir=out")


def test_a_published_configuration_cannot_raise_the_limit_of_pixels(tmp_path):
    path = published_config(tmp_path, max_image_pixels=10**9)
    assert "max_image_pixels" in refused(parse, path, "--output_dir=out")
    assert (
        parse(path, "--output_dir=out", "--max_image_pixels=1000000000").max_image_pixels == 10**9
    )


@pytest.mark.parametrize(
    "value", [[0.5, "--card=/etc/passwd"], ["--push_to_hub"], [0.5, "--license=mit"]]
)
def test_a_list_brings_no_words_of_a_command_line(value, tmp_path):
    assert "strength" in refused(
        parse, published_config(tmp_path, strength=value), "--output_dir=out"
    )


@pytest.mark.parametrize(
    "name",
    sorted(field.name for field in dataclasses.fields(AugmentSettings) if "str" in str(field.type)),
)
@pytest.mark.parametrize("value", ["a\x1b[2Jb", "two\nlines", "x" * 10_000, "nul\x00", "‮txet"])
def test_texts_of_a_published_configuration_are_one_short_printable_line(name, value, tmp_path):
    assert name in refused(parse, published_config(tmp_path, **{name: value}), "--output_dir=out")


@pytest.mark.parametrize("beside", ["plan.parquet", "manifest.json"])
def test_one_of_the_two_files_beside_it_tells_a_published_configuration(beside, tmp_path):
    (tmp_path / beside).write_bytes(b"")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(HONEST | {"license": "mit"}))
    assert "license" in refused(parse, tmp_path / "config.yaml", "--output_dir=out")


def test_a_downloaded_configuration_is_one_of_others_with_nothing_beside_it(tmp_path):
    """In the client's cache, and where `hf download --local-dir` has put it."""
    cached = tmp_path / "hub/datasets--eve--x/snapshots" / COMMIT / "config.yaml"
    downloaded = tmp_path / "download/recipes/config.yaml"
    note = tmp_path / "download/.cache/huggingface/download/recipes/config.yaml.metadata"
    own = tmp_path / "own/config.yaml"
    for path in (cached, downloaded, note, own):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(HONEST | {"license": "mit"}))
    assert [is_fetched(path) for path in (cached, downloaded, own)] == [True, True, False]
    assert parse(own, "--output_dir=out").license == "mit"
    for path in (cached, downloaded):
        assert "license" in refused(parse, path, "--output_dir=out")


def test_a_downloaded_recipe_may_set_no_more_than_a_published_configuration(tmp_path):
    published_config(tmp_path, license="mit").rename(tmp_path / "generate.yaml")
    run = RunSettings(
        dataset_name="org/birds", output_dir="out", metaclass="bird", recipe=str(tmp_path)
    )
    assert "license" in refused(
        stage_settings, run, AugmentSettings, "generate.yaml", {"output_dir": "out"}
    )
    published_config(tmp_path).rename(tmp_path / "generate.yaml")
    assert (
        stage_settings(run, AugmentSettings, "generate.yaml", {"output_dir": "out"}).dataset_name
        == "org/birds"
    )


@pytest.mark.parametrize(
    "location",
    [
        "hf://",
        "hf://x",
        "hf://datasets/a",
        "hf://datasets/a/b@v1/../../../etc/passwd",
        "hf://datasets/a/b@v1/x/../../y.yaml",
        "hf://a/b@/c",
    ],
)
def test_a_location_on_the_hub_names_a_file_of_one_repository(location):
    assert "give it as hf://" in refused(fetch_config, location)
