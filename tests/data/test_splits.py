"""Splits: labels, names and pins, unusable rows, subsets, evaluation splits."""

import re

import numpy as np
import pytest
from cells import cell, known_rgb
from datasets import ClassLabel, Dataset, Features, Value, load_dataset
from datasets import Image as ImageFeature

from sgdmix_hub.data.splits import (
    load_evaluation_split,
    load_split,
    subset_record,
)
from sgdmix_hub.data.subsets import NO_LABEL, check_same_subset
from sgdmix_hub.demo.domain import make_dataset, save_dataset
from sgdmix_hub.errors import UnusableImage, UserError
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.settings.data import DataSettings

# --- splits and labels


def write_dataset(folder, labels, feature, images=None, split="train"):
    """One split of a dataset in a folder, saved as the Hub stores it."""
    images = images or [cell(known_rgb(), "PNG") for _ in labels]
    rows = Dataset.from_dict(
        {"image": images, "label": labels},
        features=Features({"image": ImageFeature(), "label": feature}),
    )
    (folder / "data").mkdir(parents=True, exist_ok=True)
    rows.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def data_settings(folder, **values):
    return DataSettings(dataset_name=str(folder), output_dir="unused", **values)


def split_of(settings):
    return load_split(settings, resolve(settings.dataset_name, repo_type="dataset"))


@pytest.mark.parametrize(
    ("feature", "values", "labels", "names"),
    [
        (
            ClassLabel(names=["kite", "tern", "finch"]),
            [2, 0, None, 2],
            [2, 0, NO_LABEL, 2],
            ["kite", "tern", "finch"],
        ),
        (Value("string"), ["tern", "kite", None, "tern"], [1, 0, NO_LABEL, 1], ["kite", "tern"]),
        (Value("int64"), [7, 3, None, 7], [1, 0, NO_LABEL, 1], ["3", "7"]),
        (Value("uint8"), [200, 3, None, 200], [1, 0, NO_LABEL, 1], ["3", "200"]),
        (Value("int64"), [10, 9, None, 10], [1, 0, NO_LABEL, 1], ["9", "10"]),
        (
            Value("large_string"),
            ["tern", "kite", None, "tern"],
            [1, 0, NO_LABEL, 1],
            ["kite", "tern"],
        ),
    ],
    ids=["class label", "string", "int64", "uint8", "numbers in numeric order", "large string"],
)
def test_labels_of_every_kind(tmp_path, feature, values, labels, names):
    split = split_of(data_settings(write_dataset(tmp_path / "data", values, feature)))
    assert split.labels.dtype == np.int64 and split.labels.tolist() == labels
    assert split.class_names == names
    assert split.subset.tolist() == [0, 1, 3]


@pytest.mark.parametrize(
    ("feature", "value"), [(Value("float32"), 0.5), (Value("bool"), True), (Value("int64"), None)]
)
def test_labels_that_are_none_are_refused(tmp_path, feature, value):
    with pytest.raises(UserError, match="label"):
        split_of(data_settings(write_dataset(tmp_path / "data", [value], feature)))


def test_a_split_gives_upright_rgb_and_names_its_pin(birds):
    split = split_of(data_settings(birds))
    rows = load_dataset(str(birds), split="train")
    assert len(split.rows) == 24 and split.class_names == rows.features["label"].names
    for index in (0, 7, 23):
        assert np.array_equal(
            np.asarray(split.image(index)), np.asarray(rows[index]["image"].convert("RGB"))
        )
        assert np.array_equal(
            np.asarray(split.image(index, "mask")), np.asarray(rows[index]["mask"])
        )
        assert split.labels[index] == rows[index]["label"]
    assert str(split.pin).startswith(f"{birds.name}@sha256-")


def test_a_changed_dataset_is_another_one_even_under_the_same_path(tmp_path):
    """`datasets` caches by path: the pin and the rows must both be those of what is in the folder
    now.
    """
    folder = write_dataset(tmp_path / "data", ["kite"], Value("string"))
    before = split_of(data_settings(folder))
    (folder / "data" / "train-00000-of-00001.parquet").unlink()
    (folder / "data").rmdir()
    after = split_of(data_settings(write_dataset(folder, ["tern", "finch"], Value("string"))))
    assert before.pin.revision != after.pin.revision
    assert (before.class_names, after.class_names) == (["kite"], ["finch", "tern"])


def test_corrupt_rows_are_found(tmp_path):
    images = [cell(known_rgb(), "PNG"), {"bytes": b"no image", "path": None}, None]
    split = split_of(
        data_settings(write_dataset(tmp_path / "data", ["a", "a", "a"], Value("string"), images))
    )
    assert split.image(0).mode == "RGB"
    for row in (1, 2):
        with pytest.raises(UnusableImage):
            split.image(row)
    assert split.decodable().tolist() == [0]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"label_column": "species"}, ["species", "image", "label", "mask", "background"]),
        ({"image_column": "img"}, ["img", "image", "label"]),
        ({"dataset_split": "valid"}, ["valid", "train", "validation", "test"]),
        ({"dataset_config_name": "other"}, ["other", "default"]),
        ({"image_column": "label"}, ["label", "no images"]),
    ],
)
def test_what_the_dataset_lacks_is_named_with_what_it_has(birds, values, named):
    with pytest.raises(UserError) as error:
        split_of(data_settings(birds, **values))
    assert "\n" not in str(error.value)
    for word in named:
        assert re.search(rf"\b{word}\b", str(error.value)), f"{word} is not in: {error.value}"


def test_a_folder_that_holds_no_dataset_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty"):
        split_of(data_settings(tmp_path / "empty"))
    folder = write_dataset(tmp_path / "broken", ["kite"], Value("string"))
    path = folder / "data" / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="broken"):
        split_of(data_settings(folder))


def test_a_split_of_another_name_or_seed_is_another_subset(birds):
    def record(**values):
        chosen = data_settings(birds, **({"examples_per_class": 3} | values))
        return subset_record(chosen, split_of(chosen))

    mine = record()
    check_same_subset(mine, record(), "adapter")
    # Three of six and "all there are, at most three of them" are one subset, however it was asked
    # for.
    check_same_subset(record(examples_per_class=6), record(examples_per_class=None), "adapter")
    for other in (
        record(subset_seed=1),
        record(examples_per_class=2),
        record(dataset_split="test"),
        record(examples_per_class=None),
    ):
        with pytest.raises(UserError, match="adapter was trained on another subset"):
            check_same_subset(mine, other, "adapter")
    for key in ("dataset", "rows_sha256"):
        with pytest.raises(UserError, match=key):
            check_same_subset(mine, mine | {key: "other"}, "classifier")
        with pytest.raises(UserError, match=key):
            check_same_subset(
                mine, {name: value for name, value in mine.items() if name != key}, "classifier"
            )


def test_an_evaluation_split_is_whole_and_numbered_like_the_training_split(birds, tmp_path):
    chosen = data_settings(birds, examples_per_class=1)
    split = split_of(chosen)
    assert len(split.subset) == 4
    assert len(load_evaluation_split(chosen, "test", like=split).subset) == 16
    for name, values in {
        "train": ["a", "b", "c"],
        "test": ["c", "b", "c"],
        "validation": ["b", "d", "a"],
    }.items():
        write_dataset(tmp_path / "data", values, Value("string"), split=name)
    chosen = data_settings(tmp_path / "data")
    split = split_of(chosen)
    assert load_evaluation_split(chosen, "test", like=split).labels.tolist() == [2, 1, 2]
    with pytest.raises(UserError, match="'d'"):
        load_evaluation_split(chosen, "validation", like=split)


def test_a_copy_of_a_dataset_is_the_same_dataset(birds, tmp_path):
    """What counts is the content: a copy under the same name has the same pin and subset."""
    save_dataset(make_dataset(4, 6, 2, 4, seed=0, resolution=32), tmp_path / birds.name)
    records = [
        subset_record(data_settings(folder), split_of(data_settings(folder)))
        for folder in (birds, tmp_path / birds.name)
    ]
    assert records[0] == records[1]
