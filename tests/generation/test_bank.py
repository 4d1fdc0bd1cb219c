"""A bank of backgrounds: its rows, and no others, are targets; its pin is published and rerun."""

import dataclasses
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, load_dataset
from datasets import Image as ImageFeature
from generations import (
    ROWS,
    SCRIPT,
    arguments,
    digests,
    flip,
    manifest_of,
    pixels_of,
    published_rows,
    undecoded,
)
from launching import launch
from PIL import Image
from untrusted import COMMIT, refused

from sgdmix_hub import augment, preview
from sgdmix_hub.data.splits import load_split
from sgdmix_hub.errors import UserError
from sgdmix_hub.evaluation.sources import origins_of
from sgdmix_hub.generation.rerun import check_plan
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.mapped import MappedSplit
from sgdmix_hub.pipeline import SGDMixPipeline
from sgdmix_hub.publishing.read import load_published
from sgdmix_hub.settings.fetched import check_fetched
from sgdmix_hub.settings.generation import BANK_SETTINGS, AugmentSettings
from sgdmix_hub.settings.parsing import parse_settings
from sgdmix_hub.settings.presets import apply_preset
from sgdmix_hub.settings.programs import PreviewSettings, RunSettings

BANK = 20
METHOD = {"strength": 0, "resolution": 32, "mask_column": "mask", "num_variants": 2}
CONFIG = "repo/sgdmix/default/config.yaml"


def greys(count=BANK):
    """Images of one grey each, the number of their row: a mixture tells its target."""
    images = [Image.new("RGB", (48, 32), (8 * row,) * 3) for row in range(count)]
    return Dataset.from_dict({"picture": images}, features=Features(picture=ImageFeature()))


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    """Folder of landscapes without labels."""
    folder = tmp_path_factory.mktemp("bank") / "landscapes"
    (folder / "data").mkdir(parents=True)
    greys().to_parquet(folder / "data" / "empty-00000-of-00001.parquet")
    return folder


@pytest.fixture(scope="module")
def settings(birds, bank):
    return METHOD | {
        "dataset_name": birds,
        "background_dataset_name": bank,
        "background_split": "empty",
        "background_image_column": "picture",
        "rows_per_shard": 8,
        "image_format": "png",
    }


def generate(settings, output, *words):
    augment.main(
        parse_settings(
            AugmentSettings, [*arguments(settings | {"output_dir": output}), *map(str, words)]
        )
    )
    return output


@pytest.fixture(scope="module")
def split_name(bank):
    """`datasets` takes a file's name for the split's only if that is a known word."""
    return list(load_dataset(str(bank)))


@pytest.fixture(scope="module")
def generated(settings, tmp_path_factory, split_name):
    return generate(
        settings | {"background_split": split_name[0]}, tmp_path_factory.mktemp("bank") / "out"
    )


def planned(output):
    return pq.read_table(output / "repo/sgdmix/default/plan.parquet")


@pytest.mark.slow
def test_every_target_is_a_row_of_the_bank_and_shown_outside_the_mask(generated, birds):
    rows, masks = published_rows(generated), load_dataset(str(birds), split="train")["mask"]
    assert len(rows) == 2 * ROWS
    for row in rows:
        assert 0 <= row["target_index"] < BANK and row["target_label"] == -1
        outside = np.asarray(masks[row["source_index"]]) == 0
        corner = np.s_[:3, :3]
        if outside[:6, :6].all():
            assert np.abs(pixels_of(row)[corner].astype(int) - 8 * row["target_index"]).max() <= 1
    assert len({row["target_index"] for row in rows}) > BANK / 2


@pytest.mark.slow
def test_the_plan_numbers_the_banks_rows_after_the_splits(generated):
    published = [row["target_index"] for row in published_rows(generated)]
    assert planned(generated)["target_index"].to_pylist() == [ROWS + row for row in published]


@pytest.mark.slow
def test_the_variants_of_a_source_have_different_targets(generated):
    pairs = planned(generated)
    chosen = set(
        zip(pairs["source_index"].to_pylist(), pairs["target_index"].to_pylist(), strict=True)
    )
    assert len(chosen) == 2 * ROWS


@pytest.mark.slow
def test_the_bank_is_pinned_in_manifest_configuration_and_card(generated, bank):
    pin = str(resolve(str(bank), "dataset"))
    assert manifest_of(generated)["pins"]["background_dataset_name"] == pin
    assert f"background_dataset_name: {pin}" in (generated / CONFIG).read_text()
    card = (generated / "repo" / "README.md").read_text()
    assert "| background_dataset_name |" in card and pin in card
    assert "`target_index` is a row of the background dataset" in card
    assert "random" in card and "candidates from | other" not in card


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_processes(settings, split_name, generated, tmp_path):
    values = settings | {"background_split": split_name[0], "output_dir": tmp_path / "run"}
    done = launch([SCRIPT, *arguments(values)], 3)
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "run" / "repo") == digests(generated / "repo")


@pytest.mark.slow
def test_a_rerun_of_the_published_version_takes_its_plan(generated, birds, bank, tmp_path, capfd):
    published = shutil.copytree(generated / "repo", tmp_path / "published")
    config = published / "sgdmix/default/config.yaml"
    again = {"config": config, "dataset_name": birds, "background_dataset_name": bank}
    rerun = generate(again, tmp_path / "again")
    assert "the plan is that of" in capfd.readouterr().out
    assert planned(rerun).equals(planned(generated))
    assert [row["image"] for row in published_rows(rerun)] == [
        row["image"] for row in published_rows(generated)
    ]


@pytest.mark.slow
def test_another_bank_makes_another_plan(generated, birds, tmp_path, capfd):
    other = tmp_path / "other" / "data"
    other.mkdir(parents=True)
    greys(7).to_parquet(other / "train-00000-of-00001.parquet")
    published = shutil.copytree(generated / "repo", tmp_path / "published")
    again = {
        "config": published / "sgdmix/default/config.yaml",
        "dataset_name": birds,
        "background_dataset_name": other.parent,
        "background_split": "train",
    }
    rerun = generate(again, tmp_path / "again")
    assert "background_dataset_name" in capfd.readouterr().out
    assert max(row["target_index"] for row in published_rows(rerun)) < 7


@pytest.mark.slow
def test_a_resumed_run_with_another_bank_is_refused(generated, settings, tmp_path):
    output = shutil.copytree(generated, tmp_path / "copy")
    without = {name: value for name, value in settings.items() if "background" not in name}
    with pytest.raises(UserError, match="background_dataset_name"):
        generate(without, output)


@pytest.mark.slow
@pytest.mark.parametrize("target", [0, ROWS - 1, ROWS + BANK, -1])
def test_a_plan_with_a_target_outside_of_the_bank_is_refused(
    target, generated, settings, split_name, birds, tmp_path
):
    values = settings | {"background_split": split_name[0], "output_dir": "out"}
    recipe = apply_preset(parse_settings(AugmentSettings, arguments(values)))
    split = load_split(recipe, resolve(str(birds), "dataset"))
    check_plan(generated / "repo/sgdmix/default/plan.parquet", recipe, split, BANK)
    table = planned(generated)
    cells = table["target_index"].to_pylist()
    cells[3] = target
    changed = table.set_column(
        table.schema.get_field_index("target_index"), "target_index", pa.array(cells)
    )
    pq.write_table(changed.cast(table.schema), tmp_path / "plan.parquet")
    assert "plan.parquet" in refused(check_plan, tmp_path / "plan.parquet", recipe, split, BANK)


@pytest.mark.slow
def test_a_mapped_split_gives_the_same_rows(generated, birds, split_name, bank):
    dataset = load_dataset(str(birds), split="train")
    mapped = MappedSplit(
        SGDMixPipeline.from_pretrained(**METHOD),
        dataset,
        backgrounds=load_dataset(str(bank), split=split_name[0]),
        background_image_column="picture",
        image_format="png",
    )
    assert undecoded(dataset.map(mapped, **mapped.options)) == published_rows(generated)
    assert (
        mapped.options["new_fingerprint"]
        != MappedSplit(SGDMixPipeline.from_pretrained(**METHOD), dataset).options["new_fingerprint"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("with_bank", [False, True])
def test_a_mapped_split_compares_backgrounds_as_a_generation_does(
    settings, birds, bank, split_name, with_bank, tmp_path
):
    method = METHOD | {"selection_method": "novel-background"}
    values = settings | method | {"background_split": split_name[0]}
    dataset, banked = load_dataset(str(birds), split="train"), {}
    if with_bank:
        images = load_dataset(str(bank), split=split_name[0])
        banked = {"backgrounds": images, "background_image_column": "picture"}
    else:
        values = {
            name: value for name, value in values.items() if not name.startswith("background")
        }
    pipeline = SGDMixPipeline.from_pretrained(**method)
    mapped = MappedSplit(pipeline, dataset, image_format="png", **banked)
    rows = undecoded(dataset.map(mapped, **mapped.options))
    assert rows == published_rows(generate(values, tmp_path / "out"))


@pytest.mark.slow
def test_foregrounds_of_the_bank_are_masked_and_filled(birds, tmp_path):
    """The birds as their own bank: `l2` compares maps, and no bird of the bank is left."""
    values = METHOD | {
        "dataset_name": birds,
        "background_dataset_name": birds,
        "background_split": "validation",
        "background_has_foreground": "true",
        "feather": 0.0,
        "image_format": "png",
    }
    rows = published_rows(generate(values, tmp_path / "out"))
    bank = load_dataset(str(birds), split="validation")
    own = load_dataset(str(birds), split="train")
    kept = 0
    for row in rows:
        theirs = np.asarray(bank[row["target_index"]]["mask"]) > 0
        ours = np.asarray(own[row["source_index"]]["mask"]) > 0
        there = theirs & ~ours
        target = np.asarray(bank[row["target_index"]]["image"].convert("RGB"))
        kept += (pixels_of(row)[there] == target[there]).all(axis=-1).mean() > 0.2
    assert kept == 0


@pytest.mark.slow
def test_an_evaluation_looks_for_copies_among_the_sources_alone(generated, birds):
    """Rows of the bank are no rows of the split: their numbers must not be taken for some."""
    split = load_split(
        AugmentSettings(dataset_name=str(birds), output_dir="out"), resolve(str(birds), "dataset")
    )
    origins = origins_of(load_published(str(generated / "repo")), split)
    assert origins.targets.tolist() == origins.sources.tolist()


@pytest.mark.slow
def test_a_preview_shows_targets_of_the_bank(few_birds, bank, split_name, tmp_path):
    words = {
        "dataset_name": few_birds,
        "background_dataset_name": bank,
        "background_split": split_name[0],
        "background_image_column": "picture",
        "mask_column": "mask",
        "num_images": 2,
        "resolution": 32,
        "output_dir": tmp_path,
    }
    preview.main(parse_settings(PreviewSettings, arguments(words)))
    facts = json.loads((tmp_path / "preview.json").read_text())
    assert facts["background_dataset"] == str(resolve(str(bank), "dataset"))
    rules = {target["selection_method"] for target in facts["targets"]}
    assert rules == {"random", "novel-background"}
    for target in facts["targets"]:
        assert target["same_class_share"] == 0 and target["effective_targets"] <= BANK
    mixed = {column["name"]: column for column in facts["mixtures"]}
    assert mixed["recommended"]["mixtures"] > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--background_split=train"], "needs --background_dataset_name"),
        (["--background_dataset_name=o/b", "--selection_method=l2"], "compares foregrounds"),
        (["--background_dataset_name=o/b", "--target_classes=other"], "leave it out"),
        (
            [
                "--background_dataset_name=o/b",
                "--background_has_foreground=true",
                "--saliency_method=grad-cam",
                "--classifier=o/c",
            ],
            "needs labels",
        ),
    ],
)
def test_settings_that_a_bank_cannot_have_are_refused(words, said):
    base = ["--dataset_name=org/birds", "--output_dir=out", "--strength=0"]
    assert said in refused(parse_settings, AugmentSettings, [*base, *words])


def test_a_published_configuration_names_its_bank_by_commit_only():
    for name in ("/etc", "org/bank", "org/bank@main", "..", "bank@sha256-" + "0" * 63):
        assert "background_dataset_name" in refused(
            check_fetched, {"background_dataset_name": name}, (), "config.yaml"
        )
    pinned = {"background_dataset_name": f"org/bank@{COMMIT}"}
    assert check_fetched(pinned, (), "config.yaml") == pinned


def test_a_run_without_a_bank_has_the_fingerprint_it_had():
    names = {field.name for field in dataclasses.fields(AugmentSettings)}
    given = {"background_dataset_name", *BANK_SETTINGS}
    settings = AugmentSettings(dataset_name="o/b", output_dir="out")
    assert given <= names and all(getattr(settings, name) is None for name in given)
    assert given <= {field.name for field in dataclasses.fields(RunSettings)}


@pytest.mark.slow
def test_a_damaged_plan_of_a_bank_is_made_again(settings, split_name, generated, tmp_path):
    output = shutil.copytree(generated, tmp_path / "copy")
    shutil.rmtree(output / "repo")
    flip(output / "state" / "plan.parquet", 1)
    generate(settings | {"background_split": split_name[0]}, output)
    assert planned(output).equals(planned(generated))
