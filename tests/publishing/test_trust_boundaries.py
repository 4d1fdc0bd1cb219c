"""What others have published is not trusted: configurations, plans, manifests, adapters,
classifiers, cards and rows that attack.

Each is refused with one line for the user, before anything of it is used; what an honest
publication holds is taken.
"""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.torch import load_file, save_file
from test_cards import card_facts, card_settings

from sgdmix_hub.errors import UserError
from sgdmix_hub.files import file_sha256, sealed, write_sealed
from sgdmix_hub.generation.rerun import check_plan
from sgdmix_hub.hub.formats import read_classifier_facts
from sgdmix_hub.hub.licences import stated_license
from sgdmix_hub.hub.pins import Pin, resolve
from sgdmix_hub.models.adapters import FACTS_FILE, TOKENS_FILE, load_into, read_adapter
from sgdmix_hub.publishing.card_merge import merge_cards, newest_versions
from sgdmix_hub.publishing.dataset_card import dataset_card
from sgdmix_hub.publishing.read import load_published
from sgdmix_hub.publishing.versions import read_version
from sgdmix_hub.run import stage_settings
from sgdmix_hub.settings.evaluation import EvaluationSettings
from sgdmix_hub.settings.fetched import PUBLISHED, fetch_config, is_fetched
from sgdmix_hub.settings.generation import (
    PINNED_INPUTS,
    PLACE_AND_SPEED,
    AugmentSettings,
    published_settings,
)
from sgdmix_hub.settings.hub import HubSettings
from sgdmix_hub.settings.method import apply_preset
from sgdmix_hub.settings.parsing import parse_settings
from sgdmix_hub.settings.programs import PreviewSettings, PublishSettings, RunSettings
from sgdmix_hub.settings.training import AdapterSettings, ClassifierSettings

COMMIT = "0123456789abcdef" * 2 + "01234567"
PINNED = f"org/birds@{COMMIT}"
HONEST = {"dataset_name": PINNED, "strength": 0.0, "saliency_method": "minimum-barrier", "seed": 3}
PROGRAMS = [
    AugmentSettings,
    PublishSettings,
    PreviewSettings,
    RunSettings,
    ClassifierSettings,
    AdapterSettings,
    EvaluationSettings,
]
MANIFEST, PLAN, CONFIG = (
    f"sgdmix/default/{name}" for name in ("manifest.json", "plan.parquet", "config.yaml")
)


def refused(call, *args, **kwargs) -> str:
    """The line with which a call is refused."""
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    line = str(caught.value)
    assert line.isprintable() and len(line) < 600, line
    return line


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


@pytest.fixture
def copy(repo, tmp_path) -> Path:
    """A publication that a test may change."""
    return shutil.copytree(repo, tmp_path / "copy")


# ---- configurations ----


def test_an_honest_published_configuration_is_taken_and_the_command_line_wins(tmp_path):
    settings = parse(published_config(tmp_path), "--output_dir=out", "--seed=4", "--license=mit")
    assert (
        settings.dataset_name == HONEST["dataset_name"]
        and settings.seed == 4
        and settings.license == "mit"
    )


def test_what_a_generation_publishes_is_what_a_published_configuration_may_set(tmp_path):
    """All of it, each with its own value or another one."""
    settings = AugmentSettings(
        dataset_name="org/birds",
        output_dir="out",
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
    settings = parse(
        path, "--output_dir=out", f"--{name.replace('_', '-')}=mine"
    )  # the user's own word
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


# ---- what is typed ----


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
    assert "no such folder" in refused(resolve, "x" * 5000) and "no such folder" in refused(
        resolve, "a\x00b"
    )


def test_the_licence_that_an_inputs_card_states_is_one_line(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: |\n  mit\n  # Heading\n---\n")
    pin = Pin("x", "sha256-0", str(tmp_path))
    assert stated_license(pin) == "mit # Heading"
    for stated in ("{a: b}", "3", '""', "[]"):
        (tmp_path / "README.md").write_text(f"---\nlicense: {stated}\n---\n")
        assert stated_license(pin) is None


# ---- manifests ----


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def changed(**values):
    """A manifest with other values, as text."""
    return lambda manifest: json.dumps(sealed(manifest | values))


def of_files(change):
    return lambda manifest: json.dumps(sealed(manifest | {"files": change(manifest["files"])}))


FACTS = {"sha256": "0" * 64, "bytes": 1}
MANIFESTS = {
    "files null": changed(files=None),
    "files a list": changed(files=["data/train-00000-of-00003.parquet"]),
    "files missing": lambda manifest: json.dumps(
        {name: value for name, value in manifest.items() if name != "files"}
    ),
    "facts null": of_files(lambda files: dict.fromkeys(files)),
    "broken": lambda manifest: json.dumps(manifest)[:-9],
    "empty": lambda manifest: "",
    "deep": lambda manifest: nested(100_000),
    "deep inside": lambda manifest: json.dumps(manifest)[:-1] + f', "x": {nested(5_000)}' + "}",
    "a list": lambda manifest: "[1]",
    "a number": lambda manifest: "7",
    "not a number": lambda manifest: json.dumps(manifest | {"rows": float("nan")}),
    "infinite": lambda manifest: json.dumps(manifest | {"planned_rows": float("inf")}),
    "a number of 5,000 digits": lambda manifest: json.dumps(manifest | {"rows": 0}).replace(
        '"rows": 0', '"rows": ' + "9" * 5000
    ),
    "binary": lambda manifest: b"\x93NUMPY\xff\xfe",
    "a name of 5,000 characters": of_files(lambda files: files | {"data/" + "x" * 5000: FACTS}),
    "a name above": of_files(lambda files: files | {"../../../etc/passwd": FACTS}),
    "a name above in the middle": of_files(lambda files: files | {"data/../../secret": FACTS}),
    "an absolute name": of_files(lambda files: files | {"/etc/passwd": FACTS}),
    "a name of Windows": of_files(lambda files: files | {"..\\..\\secret": FACTS}),
    "no name": of_files(lambda files: files | {"": FACTS}),
    "the folder": of_files(lambda files: files | {".": FACTS}),
    "a control character": of_files(lambda files: files | {"data/\x1b[2J": FACTS}),
    "a lone surrogate": of_files(lambda files: files | {"data/\ud800": FACTS}),
    "a checksum that is none": of_files(
        lambda files: files | {"README.md": {"sha256": "x", "bytes": 1}}
    ),
    "bytes below zero": of_files(
        lambda files: files | {"README.md": {"sha256": "0" * 64, "bytes": -1}}
    ),
    "rows a text": changed(rows="24"),
    "rows true": changed(rows=True),
    "rows below zero": changed(rows=-1),
    "rows beyond every column": changed(rows=10**23),
    "skipped a number": changed(skipped=3),
    "skipped without a reason": changed(skipped=[{"source_index": 0, "variant": 0}]),
    "planned_rows a text": changed(planned_rows="12"),
    "pins a list": changed(pins=[]),
    "a pin that is a path": changed(pins={"dataset_name": "/home/ada/photos"}),
    "a pin that is a branch": changed(pins={"dataset_name": "org/birds@main"}),
    "subset null": changed(subset=None),
    "prompt_class a column": changed(prompt_class="../label"),
    "licence a list": changed(license=["mit"]),
    "licence of two lines": changed(license="mit\nx: y"),
    "saliency a text": changed(saliency="grad-cam"),
    "trust beyond 1": changed(
        saliency={
            "method": "x",
            "trust": {"foreground_accuracy": 2, "background_accuracy": 0, "images": 1},
        }
    ),
    "stated without a title": changed(stated={}),
    "quality of three": changed(
        stated={
            "title": "x",
            "prose": None,
            "versions": {},
            "licenses": {},
            "quality": [["a", "b", "c"]],
        }
    ),
    "fingerprint a number": changed(fingerprint=5),
}


@pytest.mark.parametrize("attack", MANIFESTS)
def test_a_malformed_manifest_is_refused_by_whoever_reads_it(attack, copy):
    path = copy / MANIFEST
    content = MANIFESTS[attack](json.loads(path.read_text()))
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    settings = HubSettings(hub_dataset_id="org/x", tag="v1.0.0", allow_local_inputs=True)
    for read in (lambda: load_published(str(copy)), lambda: read_version(copy, settings, 1.0)):
        assert "manifest.json" in refused(read)


def test_a_manifest_without_a_licence_worth_the_name_is_not_published(copy):
    manifest = json.loads((copy / MANIFEST).read_text())
    write_sealed(copy / MANIFEST, manifest | {"license": " "})
    settings = HubSettings(hub_dataset_id="org/x", tag="v1.0.0", allow_local_inputs=True)
    assert "states no licence" in refused(read_version, copy, settings, 1.0)


# ---- rows ----


def with_shards(folder: Path, change, **values) -> Path:
    """Puts other tables into a publication, with their checksums in its manifest, as its owner can."""
    manifest = json.loads((folder / MANIFEST).read_text())
    for path in sorted((folder / "data").glob("train-*")):
        table = change(pq.read_table(path))
        pq.write_table(table, path)
        manifest["files"][path.relative_to(folder).as_posix()] = {
            "sha256": file_sha256(path),
            "bytes": path.stat().st_size,
        }
    write_sealed(folder / MANIFEST, manifest | values)
    return folder


def column(name, value):
    """Every value of a column replaced by one."""

    def change(table):
        field = table.schema.field(name)
        return table.set_column(
            table.column_names.index(name), field, pa.array([value] * len(table), field.type)
        )

    return change


ROWS = {
    "an image that is a path": (
        column("image", {"bytes": None, "path": "/home/ada/private.png"}),
        "not in it",
    ),
    "no image": (column("image", None), "not in it"),
    "a label beyond the classes": (column("label", 3), "column label"),
    "a label below them": (column("label", -2), "column label"),
    "no label": (column("label", None), "column label"),
    "a source below zero": (column("source_index", -1), "column source_index"),
    "no source": (column("source_index", None), "column source_index"),
    "a strength that is none": (column("strength", float("nan")), "column strength"),
    "a strength beyond 1": (column("strength", 1e9), "column strength"),
    "no strength": (column("strength", None), "column strength"),
    "no column for images": (
        lambda table: table.drop_columns("image"),
        "no columns image and label",
    ),
    "no column for sources": (
        lambda table: table.drop_columns("source_index"),
        "no column source_index",
    ),
    "fewer rows": (lambda table: table.slice(1), "its manifest says 12"),
    "rows twice": (lambda table: pa.concat_tables([table, table]), "its manifest says 12"),
}


@pytest.mark.parametrize("attack", ROWS)
def test_rows_that_no_generation_publishes_are_refused_though_their_checksums_are_right(
    attack, copy
):
    change, words = ROWS[attack]
    with_shards(copy, lambda table: change(table).replace_schema_metadata(table.schema.metadata))
    assert words in refused(load_published, str(copy))


def test_a_manifest_that_lists_some_of_the_shards_gives_no_part_of_the_rows(copy):
    manifest = json.loads((copy / MANIFEST).read_text())
    del manifest["files"]["data/train-00001-of-00003.parquet"]
    write_sealed(copy / MANIFEST, manifest)
    assert "data/train-00001-of-00003.parquet not in its manifest" in refused(
        load_published, str(copy)
    )


def test_a_shard_that_the_manifest_does_not_list_is_no_part_of_the_version(copy):
    shutil.copy(
        copy / "data/train-00000-of-00003.parquet", copy / "data/train-00003-of-00003.parquet"
    )
    assert "not in its manifest" in refused(load_published, str(copy))


def test_a_version_without_rows_is_told(copy):
    with_shards(copy, lambda table: table.slice(0, 0), rows=0)
    assert "has no rows" in refused(load_published, str(copy))


def test_a_folder_may_have_any_name(repo, tmp_path):
    for name in ("[glob]*?", "a[1]", "**", "ü {x}"):
        folder = shutil.copytree(repo, tmp_path / name / "repo")
        assert len(load_published(str(folder)).rows) == 12


def test_published_images_are_read_from_the_rows_alone(copy):
    rows = load_published(str(copy))
    rows.rows = rows.rows.select(range(1)).map(
        lambda row: {"image": {"bytes": None, "path": __file__}}
    )
    with pytest.raises(Exception, match="no image"):
        rows.image(0)


# ---- plans ----


def cells(name, value, row=0):
    """A plan with another value in one row."""

    def change(plan):
        values = plan[name].to_pylist()
        values[row] = value
        return plan.set_column(
            plan.column_names.index(name),
            plan.schema.field(name),
            pa.array(values, plan.schema.field(name).type),
        )

    return change


PLANS = {
    "a source below zero": cells("source_index", -1),
    "a source twice": cells("source_index", 1),
    "a source of another subset": cells("source_index", 12),
    "a variant": cells("variant", 7),
    "a target below zero": cells("target_index", -1),
    "a target beyond the split": cells("target_index", 12),
    "a target far beyond": cells("target_index", 2**62),
    "itself as target": cells("target_index", 0),
    "no target": cells("target_index", None),
    "a seed twice": lambda plan: cells("seed", plan["seed"][1].as_py())(plan),
    "a seed below zero": cells("seed", -5),
    "a strength": cells("strength", 1.0),
    "a strength that is none": cells("strength", float("nan")),
    "a distance that is none": cells("saliency_distance", float("nan")),
    "a distance below zero": cells("saliency_distance", -1.0),
    "a reason of control characters": lambda plan: cells("target_index", -1)(
        cells("skip", "\x1b[2J")(plan)
    ),
    "a long reason": lambda plan: cells("target_index", -1)(cells("skip", "x" * 100_000)(plan)),
    "a reason beside a target": cells("skip", "no candidate"),
    "a row twice": lambda plan: pa.concat_tables([plan, plan.slice(0, 1)]),
    "a row less": lambda plan: plan.slice(1),
    "other columns": lambda plan: plan.drop_columns("skip"),
    "other types": lambda plan: plan.set_column(
        0, "source_index", plan["source_index"].cast(pa.int32())
    ),
    "another order": lambda plan: plan.take(list(reversed(range(len(plan))))),
    "none": lambda plan: plan.slice(0, 0),
}


@pytest.fixture(scope="module")
def planned(first_version, evil_source):
    """The settings and the split that the plan of `first_version` is of."""
    from sgdmix_hub.data.splits import load_split

    settings = parse_settings(
        AugmentSettings,
        [
            "--config",
            str(first_version / "repo" / CONFIG),
            f"--dataset_name={evil_source}",
            "--output_dir=out",
        ],
    )
    return settings, load_split(settings, resolve(str(evil_source), "dataset"))


@pytest.mark.parametrize("attack", PLANS)
def test_a_plan_that_these_settings_cannot_have_is_refused(attack, planned, repo, tmp_path):
    settings, split = planned
    pq.write_table(PLANS[attack](pq.read_table(repo / PLAN)), tmp_path / "plan.parquet")
    assert "plan.parquet" in refused(check_plan, tmp_path / "plan.parquet", settings, split)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b"\xff" * 1000])
def test_a_plan_that_is_no_parquet_file_is_refused(content, planned, tmp_path):
    (tmp_path / "plan.parquet").write_bytes(content)
    assert "plan.parquet" in refused(check_plan, tmp_path / "plan.parquet", *planned)


def test_a_plan_with_any_bit_flipped_is_read_or_refused(planned, repo, tmp_path):
    """Never a traceback of Arrow's: what its numbers mean is the manifest's checksum to keep."""
    whole, random = (repo / PLAN).read_bytes(), np.random.default_rng(0)
    for _ in range(300):
        content = bytearray(whole)
        content[random.integers(len(whole))] ^= 1 << random.integers(8)
        (tmp_path / "plan.parquet").write_bytes(content)
        try:
            check_plan(tmp_path / "plan.parquet", *planned)
        except UserError as error:
            assert str(error).isprintable()


def test_a_plan_whose_targets_are_of_forbidden_classes_is_refused(planned, repo):
    settings, split = planned
    check_plan(repo / PLAN, settings, split)
    for classes in ("other", "same"):
        assert "another subset" in refused(
            check_plan, repo / PLAN, dataclasses.replace(settings, target_classes=classes), split
        )


def test_a_plan_whose_targets_are_outside_the_subset_is_refused(planned, repo, tmp_path):
    """They would leak other rows into a few-shot set."""
    settings, split = planned
    few = dataclasses.replace(split, subset=split.subset[:6])
    plan = pq.read_table(repo / PLAN).slice(0, 6)
    inside = np.array([(row + 1) % 6 for row in range(6)])
    for targets, fits in ((inside, True), (inside + 6, False)):
        pq.write_table(
            plan.set_column(2, "target_index", pa.array(targets)), tmp_path / "plan.parquet"
        )
        if fits:
            check_plan(tmp_path / "plan.parquet", settings, few)
        else:
            refused(check_plan, tmp_path / "plan.parquet", settings, few)


# ---- adapters and classifiers ----

ARM = {"accuracy": 7, "interval": [0, 1], "images": 3, "by_class": []}
ADAPTERS = {
    "a base that is a path": {"base": "/home/ada/models/private"},
    "a base that is a folder here": {"base": "models"},
    "a base at a branch": {"base": "org/base@main"},
    "no base": {"base": None},
    "class names a text": {"class_names": "tern"},
    "class names of numbers": {"class_names": [1, 2]},
    "a class name that is no text": {"class_names": ["\ud800"]},
    "a template without its places": {"prompt_template": "{x.__class__} {token}"},
    "a template of two lines": {"prompt_template": "{token}\n{metaclass}"},
    "a template that is long": {"prompt_template": "{token} {metaclass}" + "x" * 5000},
    "a template that is none": {"prompt_template": ["{token}", "{metaclass}"]},
    "a metaclass of control characters": {"metaclass": "bird\x1b[2J"},
    "no subset": {"subset": None},
    "a subset of another form": {
        "subset": {"dataset": 5, "dataset_split": [], "dataset_config_name": {}}
    },
    "a format that is a text": {"format": "1"},
    "a format of later": {"format": 2},
    "a licence of two lines": {"base_license": "mit\n---\n# x"},
    "fidelity of another form": {"fidelity": {"judge": "x", "arms": []}},
    "shares beyond 1": {
        "fidelity": {
            "judge": f"org/judge@{COMMIT}",
            "strength": 0.7,
            "arms": {"noise, adapter": ARM, "mixed, adapter": ARM},
        }
    },
}


@pytest.mark.parametrize("attack", ADAPTERS)
def test_a_malformed_adapter_is_refused(attack, adapter, tmp_path):
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    read_adapter(resolve(str(folder)))
    facts = json.loads((folder / FACTS_FILE).read_text()) | ADAPTERS[attack]
    (folder / FACTS_FILE).write_text(json.dumps(facts))
    assert "adapter" in refused(read_adapter, resolve(str(folder)))


@pytest.mark.parametrize(
    "content",
    ["", "null", "[]", "{", "{}", '{"format": 1}', nested(50_000), '{"format": NaN}', "\x00"],
)
def test_an_adapter_whose_facts_are_no_facts_is_refused(content, adapter, tmp_path):
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    (folder / FACTS_FILE).write_text(content)
    assert FACTS_FILE in refused(read_adapter, resolve(str(folder)))


def test_an_adapter_without_a_token_for_every_class_is_refused(adapter, tmp_path):
    """The prompt of such a class would be a word that the text encoder never learned."""
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    tokens = load_file(folder / TOKENS_FILE)
    save_file(dict(list(tokens.items())[1:]), folder / TOKENS_FILE, metadata={"format": "pt"})
    assert "no learned token" in refused(load_into, None, read_adapter(resolve(str(folder))))


def test_fields_in_a_template_are_text(adapter, tmp_path):
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    facts = json.loads((folder / FACTS_FILE).read_text()) | {
        "prompt_template": "{0.__class__} {token} {metaclass} %s {x[y]}"
    }
    (folder / FACTS_FILE).write_text(json.dumps(facts))
    assert read_adapter(resolve(str(folder))).prompt(0).startswith("{0.__class__} ")


SUBSET = {
    "dataset": f"org/birds@{COMMIT}",
    "dataset_config_name": None,
    "dataset_split": "train",
    "rows_sha256": "0" * 64,
}


@pytest.mark.parametrize(
    "facts",
    [
        "",
        "7",
        "[]",
        nested(50_000),
        {"subset": None},
        {"subset": SUBSET | {"rows_sha256": 5}},
        {"subset": SUBSET | {"dataset": "/home/ada"}},
    ]
    + [
        {"subset": SUBSET, name: value}
        for name, value in (
            ("metrics", 3),
            ("metrics", {"accuracy": "high"}),
            ("metrics", {"accuracy": 1e9}),
        )
    ]
    + [
        {"subset": SUBSET, "settings": []},
        {"subset": SUBSET, "settings": {"eval_split": "\x07"}},
        {"subset": SUBSET, "synthetic": "x"},
    ],
)
def test_malformed_facts_of_a_classifier_are_refused(facts, tmp_path):
    (tmp_path / "classifier.json").write_text(
        facts if isinstance(facts, str) else json.dumps(facts)
    )
    assert "classifier.json" in refused(read_classifier_facts, tmp_path / "classifier.json")


def test_a_classifier_from_elsewhere_has_no_facts(tmp_path):
    assert read_classifier_facts(tmp_path / "classifier.json") == {}
    (tmp_path / "classifier.json").write_text(
        json.dumps({"subset": SUBSET, "metrics": {"accuracy": 0.5}, "more": "than is read"})
    )
    assert read_classifier_facts(tmp_path / "classifier.json")["metrics"] == {"accuracy": 0.5}


# ---- cards ----


def of_sgdmix(text: str) -> str:
    return f"sgdmix:\n  other:\n    {text}\n"


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join(['*' + before] * 10)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)
CARDS = {
    "a date that is none": "a: 2026-99-99\n",
    "history of texts": of_sgdmix("history: [x]"),
    "history without a version": of_sgdmix("history: [{rows: 3, changed: {}}]"),
    "history without changes": of_sgdmix("history: [{version: v1, rows: 3}]"),
    "history with changes that are none": of_sgdmix(
        "history: [{version: v1, rows: 3, changed: {seed: 1}}]"
    ),
    "history with a version that is a list": of_sgdmix(
        "history: [{version: [v1], rows: 3, changed: {}}]"
    ),
    "configs of texts": "configs: [a]\n",
    "configs with a name that is a list": "configs: [{config_name: [a]}]\n",
    "dataset_info of texts": "dataset_info: [a]\n",
    "dataset_info with a name that is a mapping": "dataset_info: {config_name: {a: b}}\n",
    "nested 2,000 times": f"a: {nested(2_000)}\n",
    "nested 200,000 times": f"a: {nested(200_000)}\n",
    "nested 2,000 times by indents": "".join("  " * depth + "a:\n" for depth in range(2_000)),
    "examples that are a text": "dataset_info: [{config_name: x, splits: [{name: train, num_examples: many}]}]\n",
    "splits that are a text": "dataset_info: [{config_name: x, splits: many}]\n",
    "a number that is none": "a: !!int x\n",
    "a number of 5,000 digits": "a: " + "9" * 5_000 + "\n",
    "a tag of Python": "a: !!python/object/apply:os.system ['true']\n",
    "a list that holds itself": "a: &a [*a]\n",
    "aliases that stand for a thousand million values": BOMB,
    "mappings merged a thousand million times": "a: &a {x: 1}\n"
    + "".join(
        f"{b}: &{b} {{<<: [{', '.join(['*' + a] * 10)}], {b}: 1}}\n"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "pairs that stand for a thousand million": "a: &a !!pairs [x: y]\n"
    + "".join(
        f"{b}: &{b} !!pairs [{', '.join(['x: *' + a] * 10)}]\n"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "aliases of aliases": "a: &a [x]\n"
    + "".join(f"a{n}: &a{n} [*a{n - 1 if n else ''}]\n" for n in range(3_000)),
    "a key that is a list": "? [a]\n: b\n",
    "bytes that are no text": "a: \x00\n",
    "a lone surrogate": 'a: "\\ud800"\n',
}


@pytest.fixture(scope="module")
def run_card():
    return dataset_card(
        card_settings(config_name="default"), card_facts(["kite", "tern"], rows_by_label=[3, 3])
    )


@pytest.mark.parametrize("attack", CARDS)
def test_a_malformed_card_is_refused_by_whoever_reads_it(attack, run_card):
    theirs = f"---\n{CARDS[attack]}---\n\n# Title\n"
    for read in (
        lambda: merge_cards(theirs, run_card, "default", "org/x", "v1.0.0"),
        lambda: newest_versions(theirs),
    ):
        assert "README.md" in refused(read)


@pytest.mark.parametrize(
    "text",
    ["configs: null\n", "dataset_info: null\n", "configs: {config_name: x}\n", "sgdmix: null\n"],
)
def test_a_card_that_says_nothing_in_these_maps_is_completed(text, run_card):
    card = merge_cards(f"---\n{text}---\n\n# Title\n", run_card, "default", "org/x", "v1.0.0")
    assert "# Title" in card and newest_versions(card) == {"v1.0.0"}


def test_marks_by_the_thousand_are_read_in_one_pass(run_card):
    """Begun and never ended: looked for from each of them on, these took minutes."""
    body = "<!-- sgdmix-versions:begin -->\n" * 30_000
    assert "sgdmix:default:begin" in merge_cards(
        f"# Title\n{body}", run_card, "default", "org/x", "v1.0.0"
    )


def test_a_card_of_ten_thousand_classes_is_merged_and_read_back():
    names = [f"class {number}" for number in range(10_000)]
    card = dataset_card(
        card_settings(config_name="default"), card_facts(names, rows_by_label=[1] * len(names))
    )
    merged = merge_cards(None, card, "default", "org/x", "v1.0.0")
    assert newest_versions(merge_cards(merged, card, "default", "org/x", "v2.0.0")) == {"v2.0.0"}
