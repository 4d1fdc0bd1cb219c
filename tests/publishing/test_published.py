"""Reading a published folder: complete and unchanged, or an error; and what training reads."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from forking import Ended, run_forked
from launching import launch_environment

from sgdmix_hub import augment
from sgdmix_hub.data.splits import Split, load_split, subset_record
from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.publishing.read import PublishedRows, load_published
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.training.classifier.dataset import TrainingImages

ROOT = Path(__file__).parents[2]
COLUMNS = [
    "image",
    "label",
    "source_index",
    "source_width",
    "source_height",
    "target_index",
    "target_label",
    "variant",
    "strength",
    "effective_strength",
    "sigma_start",
    "foreground_strength",
    "seed",
    "saliency_distance",
    "foreground_area",
    "mask_confidence",
    "prompt",
    "mask",
]

LOAD = """
import json, sys
from datasets import load_dataset

dataset = load_dataset(sys.argv[1])
rows = dataset["train"]
facts = {
    "splits": list(dataset),
    "columns": rows.column_names,
    "rows": len(rows),
    "images": [[image.mode, *image.size] for image in rows["image"]],
    "label": type(rows.features["label"]).__name__,
    "names": rows.features["label"].names,
    "target_names": rows.features["target_label"].names,
}
print(json.dumps(facts))
"""


def settings_for(dataset, output, **more) -> AugmentSettings:
    """Mixing alone: nothing but the dataset is needed."""
    return AugmentSettings(
        dataset_name=str(dataset),
        output_dir=str(output),
        preset="paper",
        saliency_method="spectral-residual",
        strength=0.0,
        resolution=32,
        rows_per_shard=10,
        num_variants=2,
        **more,
    )


def split_of(settings: AugmentSettings) -> Split:
    """The split that these settings name, as it is now."""
    return load_split(settings, resolve(settings.dataset_name, repo_type="dataset"))


def check(repo, settings: AugmentSettings) -> None:
    """What a training that is to use `repo` asks of it."""
    split = split_of(settings)
    load_published(str(repo)).check_made_from(split, subset_record(settings, split))


def load_elsewhere(repo, hf_home) -> Ended:
    """`load_dataset(repo)` in another process with empty caches."""
    return run_forked(["-c", LOAD, repo], launch_environment({"HF_HOME": str(hf_home)}))


@pytest.fixture(scope="module")
def repo(birds, tmp_path_factory):
    """The repository of 48 rows in 5 shards, two for each of the 24 birds."""
    output = tmp_path_factory.mktemp("published") / "run"
    augment.main(settings_for(birds, output))
    return output / "repo"


@pytest.fixture
def copy(repo, tmp_path):
    """A copy of `repo` that a test may damage."""
    return shutil.copytree(repo, tmp_path / "copy")


@pytest.fixture(scope="module")
def split(birds, tmp_path_factory):
    """The split that `repo` was made from."""
    return split_of(settings_for(birds, tmp_path_factory.mktemp("unused")))


@pytest.mark.slow
def test_load_dataset_takes_the_folder_as_it_is(repo, class_names, tmp_path):
    loaded = load_elsewhere(repo, tmp_path)
    assert loaded.returncode == 0, loaded.stderr
    facts = json.loads(loaded.stdout)
    assert facts["splits"] == ["train"] and facts["columns"] == COLUMNS
    assert facts["rows"] == 48 and facts["images"] == [["RGB", 32, 32]] * 48
    assert facts["label"] == "ClassLabel" and facts["names"] == facts["target_names"] == class_names


@pytest.mark.slow
def test_load_dataset_fails_where_a_shard_is_missing(copy, tmp_path):
    next((copy / "data").glob("*-00002-of-*.parquet")).unlink()
    loaded = load_elsewhere(copy, tmp_path / "home")
    assert loaded.returncode != 0 and not loaded.stdout
    assert "NonMatchingSplitsSizesError" in loaded.stderr


def test_published_rows_are_found_by_their_source(repo, birds, split, tmp_path):
    published = load_published(str(repo))
    assert len(published.rows) == 48
    check(repo, settings_for(birds, tmp_path))
    for row in range(len(split.rows)):
        made = published.made_from(row)
        assert len(made) == 2
        for position in made:
            assert published.rows[position]["source_index"] == row
            assert published.rows[position]["label"] == split.labels[row]
    assert published.made_from(len(split.rows)) == []


@pytest.mark.parametrize(
    "name",
    [
        "data/train-00001-of-00005.parquet",
        "sgdmix/default/plan.parquet",
        "assets/contact_sheet.png",
    ],
)
def test_changed_or_missing_file_is_refused_by_name(name, copy):
    load_published(str(copy))
    path = copy / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=name):
        load_published(str(copy))
    path.unlink()
    with pytest.raises(UserError, match=name):
        load_published(str(copy))


def test_folder_without_a_manifest_is_refused(birds):
    with pytest.raises(UserError, match=r"manifest\.json"):
        load_published(str(birds))


def test_rows_made_from_other_images_are_refused(repo, birds, tmp_path):
    other = shutil.copytree(birds, tmp_path / "other")
    (path,) = (other / "data").glob("train-*.parquet")
    table = pq.read_table(path)
    pq.write_table(table.take(list(reversed(range(len(table))))), path)
    with pytest.raises(UserError, match="source_index"):
        check(repo, settings_for(other, tmp_path))


def test_rows_made_from_images_outside_the_subset_are_refused(repo, birds, tmp_path):
    with pytest.raises(UserError, match="outside this subset"):
        check(repo, settings_for(birds, tmp_path, examples_per_class=2))


@pytest.fixture(scope="module")
def some_rows(repo):
    """Published rows of which every third source has none."""
    published = load_published(str(repo))
    rows = published.rows.filter(lambda row: row["source_index"] % 3 != 0).flatten_indices()
    return PublishedRows(published.pin, rows, published.manifest)


def drawn(split, published, probability) -> list[tuple[int, np.ndarray, int]]:
    """Row, pixels and label of three epochs of training images."""
    images = TrainingImages(
        split, split.subset, np.asarray, published, probability, seed=0, total_batch=1
    )
    assert len(images) == len(split.subset)
    items = []
    for images.epoch in range(3):
        items += [
            (int(split.subset[images.entry(position)]), images[position])
            for position in range(len(images))
        ]
    return [(row, item["pixel_values"], item["labels"]) for row, item in items]


def is_real(split, row, pixels) -> bool:
    return np.array_equal(pixels, np.asarray(split.image(row)))


def synthetic_of(published, row) -> list[np.ndarray]:
    return [np.asarray(published.image(position)) for position in published.made_from(row)]


def test_probability_zero_trains_on_real_images_alone(split, some_rows):
    assert all(
        is_real(split, row, pixels) and label == split.labels[row]
        for row, pixels, label in drawn(split, some_rows, 0.0)
    )


def test_probability_one_replaces_every_image_that_has_synthetic_ones(split, some_rows):
    for row, pixels, label in drawn(split, some_rows, 1.0):
        made = synthetic_of(some_rows, row)
        assert len(made) == (0 if row % 3 == 0 else 2)
        assert (
            any(np.array_equal(pixels, image) for image in made)
            if made
            else is_real(split, row, pixels)
        )
        assert label == split.labels[row]
        assert all(
            some_rows.rows[position]["label"] == label for position in some_rows.made_from(row)
        )


def test_probability_between_gives_both_in_about_that_share(split, repo):
    items = drawn(split, load_published(str(repo)), 0.5)
    real = sum(is_real(split, row, pixels) for row, pixels, _ in items)
    # 72 draws: five standard deviations on either side
    assert 36 - 22 < real < 36 + 22


@pytest.mark.slow
def test_classifier_trains_with_synthetic_images_and_records_their_pin(
    repo, birds, classifier, tmp_path
):
    args = [
        "scripts/train_classifier.py",
        f"--dataset_name={birds}",
        f"--output_dir={tmp_path / 'downstream'}",
        f"--model={classifier}",
        f"--synthetic={repo}",
        "--synthetic_probability=0.5",
        "--num_train_epochs=1",
        "--eval_split=test",
    ]
    done = run_forked(args, launch_environment())
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "downstream" / "classifier.json").read_text())
    assert facts["synthetic"] == str(load_published(str(repo)).pin)
    assert facts["settings"]["synthetic_probability"] == 0.5
    assert 0 <= facts["metrics"]["accuracy"] <= 1
