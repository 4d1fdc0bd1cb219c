"""What is plain from the data is said when it is loaded: what was taken, what was left out, and why
something cannot be loaded.
"""

import shutil

import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Value
from image_folders import NAMES, README, image_folder, refusal, settings_of, split_of, write_labels

from sgdmix_hub import augment
from sgdmix_hub.data.report import report_split, usable_rows
from sgdmix_hub.data.splits import attributes_of, load_evaluation_split
from sgdmix_hub.errors import UserError
from sgdmix_hub.settings.evaluation import EvaluationSettings
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.programs import PreviewSettings, RunSettings
from sgdmix_hub.settings.training import ClassifierSettings


def said(capsys, folder, **values):
    report_split(settings_of(folder, **values), split_of(folder, **values))
    return capsys.readouterr().out


def test_folders_of_one_name_and_one_readme_give_their_own_rows(tmp_path):
    """A folder whose labels were corrected, and a copy of it elsewhere: `datasets` alone takes them
    all for the first.
    """
    found = {}
    for parent, labels in (("first", [0, 1, 2]), ("second", [2, 1, 0]), ("third", [1, 1, 1])):
        folder = write_labels(tmp_path / parent / "set", labels, ClassLabel(names=NAMES))
        (folder / "README.md").write_text(README)
        found[parent] = split_of(folder).labels.tolist()
    assert found == {"first": [0, 1, 2], "second": [2, 1, 0], "third": [1, 1, 1]}
    corrected = write_labels(tmp_path / "first" / "set", [2, 2, 2], ClassLabel(names=NAMES))
    assert split_of(corrected).labels.tolist() == [2, 2, 2]


def test_a_copy_of_a_folder_of_images_names_its_own_files(tmp_path):
    first = image_folder(tmp_path / "first" / "set")
    assert len(split_of(first).subset) == 12
    second = shutil.copytree(first, tmp_path / "second" / "set")
    shutil.rmtree(first)
    assert split_of(second).try_images()[1] == {}


# ---- labels ----


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([1, 2, 3, 1], ["label 3 of row 2", "3 class names", "do they start at 1?"]),
        ([0, 1, 99], ["label 99 of row 2", "labels run from 0 to 2"]),
        ([0, 3, 1], ["label 3 of row 1"]),
        ([0, -7, 1], ["label -7 of row 1", "-1 means no label"]),
    ],
)
def test_a_label_without_a_name_is_refused_when_the_split_is_loaded(labels, words, tmp_path):
    line = refusal(write_labels(tmp_path / "data", labels, ClassLabel(names=NAMES)))
    assert all(word in line for word in words) and ("start at 1" in line) == (labels[0] == 1)


@pytest.mark.parametrize("name", ["bell\x07", "\x1b[31mred", "nul\0", "\x9bcsi"])
def test_a_class_name_with_control_characters_is_refused_and_not_printed(name, tmp_path):
    line = refusal(write_labels(tmp_path / "data", [0, 1], ClassLabel(names=["kite", name])))
    assert "class 1" in line and line.isprintable()


def test_a_class_name_with_a_lone_surrogate_is_refused(tmp_path):
    feature = ClassLabel(names=["kite", "tern"])
    folder = write_labels(tmp_path / "data", [0, 1], feature)
    path = next(folder.rglob("*.parquet"))
    table = pq.read_table(path)
    metadata = table.schema.metadata[b"huggingface"].replace(b'"tern"', b'"te\\ud800rn"')
    pq.write_table(table.replace_schema_metadata({b"huggingface": metadata}), path)
    assert "class 1" in refusal(folder) and refusal(folder).isprintable()


def test_class_labels_without_names_are_refused(tmp_path):
    folder = write_labels(tmp_path / "data", [0, 1], ClassLabel(names=["kite", "tern"]))
    path = next(folder.rglob("*.parquet"))
    table = pq.read_table(path)
    metadata = table.schema.metadata[b"huggingface"].replace(b'["kite", "tern"]', b"[]")
    pq.write_table(table.replace_schema_metadata({b"huggingface": metadata}), path)
    assert "has no class names" in refusal(folder)


def test_minus_one_is_no_label_in_labels_but_a_value_in_a_column_of_groups(tmp_path, capsys):
    for feature in (ClassLabel(names=["0", "1"]), Value("int64")):
        groups = ([-1, 1, 1, -1], Value("int64"))
        folder = write_labels(
            tmp_path / type(feature).__name__, [0, -1, 1, 0], feature, group=groups
        )
        split = split_of(folder)
        assert split.class_names == ["0", "1"]
        assert split.labels.tolist() == [0, -1, 1, 0]
        assert split.subset.tolist() == [0, 2, 3]
        assert "3 images of 2 classes" in said(capsys, folder)
        assert attributes_of(split, "group")[1] == ["-1", "1"]


def test_an_evaluation_split_without_labels_or_images_is_refused_before_anything_is_trained(
    tmp_path,
):
    folder = write_labels(tmp_path / "data", [0, 1, 2], ClassLabel(names=NAMES))
    write_labels(folder, [-1, -1], ClassLabel(names=NAMES), split="test")
    split = split_of(folder)
    with pytest.raises(UserError, match="split 'test' of data has no labelled row"):
        load_evaluation_split(settings_of(folder), "test", split)


# ---- what was loaded ----


def test_one_line_says_what_was_loaded_and_what_was_left_out(tmp_path, capsys):
    labels = [0, 1, 2, 0, 1, 2, -1, None]
    folder = write_labels(tmp_path / "birds", labels, ClassLabel(names=[*NAMES, "wren"]))
    assert said(capsys, folder) == (
        "6 images of 3 of 4 classes (wren has none), split 'train' of birds, "
        "2 left out (2 without a label)\n"
    )
    line = said(capsys, folder, examples_per_class=1)
    assert line.startswith("3 images of 3 of 4")
    assert "5 left out (2 without a label, 3 outside the subset)" in line
    whole = image_folder(tmp_path / "whole")
    assert said(capsys, whole) == "12 images of 3 classes, split 'train' of whole\n"


def test_trainings_name_the_images_that_cannot_be_decoded(tmp_path, capsys):
    folder = image_folder(tmp_path / "photos")
    for name in ("heron/001.png", "kite/000.png", "kite/001.png", "tern/003.png"):
        (folder / "train" / name).write_bytes(b"<html>")
    split = split_of(folder)
    rows = usable_rows(settings_of(folder), split)
    line = capsys.readouterr().out
    assert rows.tolist() == [0, 2, 3, 6, 7, 8, 9, 10]
    assert line.startswith(
        "8 images of 3 classes, split 'train' of photos, 4 left out (4 that cannot be decoded: "
        "row 1 train/heron/001.png: "
    )
    assert line.count("\n") == 1
    assert "row 5 train/kite/001.png" in line
    assert "tern/003.png" not in line


@pytest.mark.slow
def test_a_generation_names_the_images_without_a_map(tmp_path, capsys, caplog):
    folder = image_folder(tmp_path / "photos")
    (folder / "train" / "kite" / "002.png").write_bytes(b"<html>")
    values = {
        "strength": 0.0,
        "saliency_method": "spectral-residual",
        "resolution": 32,
        "max_skipped": 1.0,
    }
    augment.main(
        AugmentSettings(dataset_name=str(folder), output_dir=str(tmp_path / "run"), **values)
    )
    first, *_ = capsys.readouterr().out.splitlines()
    assert first == "12 images of 3 classes, split 'train' of photos"
    assert caplog.messages[0].startswith(
        "1 image of photos cannot be used: row 6 train/kite/002.png: corrupt image"
    )
    assert "002.png" not in "".join(
        path.read_text() for path in (tmp_path / "run" / "repo").rglob("*.[jm][sd]*")
    )


def test_class_folders_that_are_taken_for_splits_are_told(tmp_path, capsys, caplog):
    folder = image_folder(
        tmp_path / "rails", ["bullet_train", "steam_train", "tram", "bus"], split=""
    )
    # the warning follows where a program of an earlier test has set up the log
    first, *_ = said(capsys, folder).splitlines()
    assert first == "8 images of 2 classes, split 'train' of rails"
    (warning,) = caplog.messages
    assert warning.startswith("8 image files of rails in no split, bus/000.png first: ")
    assert "train/" in warning
    assert split_of(image_folder(tmp_path / "whole")).strays == ()


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (["bullet_train", "tram", "bus"], "class folders give labels"),
        (["test_tube", "beaker"], "train, test or val"),
    ],
)
def test_a_folder_that_lost_its_labels_or_its_split_to_a_name_is_told_so(names, word, tmp_path):
    assert word in refusal(image_folder(tmp_path / "data", names, split=""))


def test_a_stray_image_or_a_single_class_folder_drops_the_labels_and_is_told_so(tmp_path):
    stray = image_folder(tmp_path / "stray")
    shutil.copy(stray / "train" / "kite" / "000.png", stray / "train" / "cover.png")
    for folder in (stray, image_folder(tmp_path / "single", ["heron"])):
        assert (
            "has no column 'label': it has image (class folders give labels where there are at "
            "least two" in refusal(folder)
        )


@pytest.mark.parametrize(
    ("settings_class", "values"),
    [
        (AugmentSettings, {"strength": 0.0, "saliency_method": "spectral-residual"}),
        (PreviewSettings, {}),
        (ClassifierSettings, {}),
        (RunSettings, {"metaclass": "bird"}),
        (EvaluationSettings, {"synthetic": "org/birds-sgdmix", "judge": "org/judge"}),
    ],
)
def test_an_output_folder_inside_the_datasets_is_refused_at_once(settings_class, values, tmp_path):
    folder = image_folder(tmp_path / "flat", split="")
    (tmp_path / "link").symlink_to(folder)
    for inside in (
        folder,
        folder / "outputs",
        folder / "a" / ".." / "b",
        tmp_path / "link" / "run",
    ):
        with pytest.raises(UserError, match="lies inside the dataset's folder"):
            settings_class(dataset_name=str(folder), output_dir=str(inside), **values).validate()
    for outside in (tmp_path, tmp_path / "flat-run", tmp_path / "run"):
        settings_class(dataset_name=str(folder), output_dir=str(outside), **values).validate()


def test_maps_are_not_kept_inside_the_dataset_either(tmp_path):
    folder = image_folder(tmp_path / "flat", split="")
    values = {
        "strength": 0.0,
        "saliency_method": "spectral-residual",
        "output_dir": str(tmp_path / "run"),
    }
    with pytest.raises(UserError, match="saliency_dir .* lies inside the dataset's folder"):
        AugmentSettings(
            dataset_name=str(folder), saliency_dir=str(folder / "maps"), **values
        ).validate()
