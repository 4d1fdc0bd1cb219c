"""What is plain from the data is said when it is loaded: what was taken, what was left out, and why
something cannot be loaded.
"""

import resource
import shutil
import zipfile

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Features, Value
from datasets import Image as ImageFeature
from generations import png
from odd_images import picture

from sgdmix_hub import augment
from sgdmix_hub.data.loading import load_rows
from sgdmix_hub.data.report import report_split, usable_rows
from sgdmix_hub.data.splits import attributes_of, load_evaluation_split, load_split
from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.runtime.resource_errors import lack_of_room
from sgdmix_hub.settings.data import DataSettings
from sgdmix_hub.settings.evaluation import EvaluationSettings
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.programs import PreviewSettings, RunSettings
from sgdmix_hub.settings.training import ClassifierSettings

NAMES = ["heron", "kite", "tern"]
LFS_POINTER = (
    "version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 146946961\n"
)


def image_folder(folder, names=NAMES, split="train", per_class=4):
    for name in names:
        for number in range(per_class):
            path = folder / split / name / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(picture(number, 24, 16)))
    return folder


def write_labels(folder, labels, feature, split="train", **columns):
    """A split in which the labels stand as they are, as a tool other than `datasets` may write
    them.
    """
    features = Features(
        image=ImageFeature(), label=feature, **{name: of for name, (_, of) in columns.items()}
    )
    schema = features.arrow_schema
    cells = [{"bytes": png(picture(number, 24, 16)), "path": None} for number in range(len(labels))]
    values = {"image": cells, "label": labels} | {
        name: given for name, (given, _) in columns.items()
    }
    arrays = [pa.array(values[field.name], field.type) for field in schema]
    (folder / "data").mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.Table.from_arrays(arrays, schema=schema),
        folder / "data" / f"{split}-00000-of-00001.parquet",
    )
    return folder


def settings_of(folder, **values):
    return DataSettings(dataset_name=str(folder), output_dir="unused", **values)


def split_of(folder, **values):
    return load_split(settings_of(folder, **values), resolve(str(folder), repo_type="dataset"))


def refusal(folder, **values):
    """The one line that a split is refused with."""
    with pytest.raises(UserError) as error:
        split_of(folder, **values)
    assert "\n" not in str(error.value) and len(str(error.value)) <= 320
    return str(error.value)


def said(capsys, folder, **values):
    report_split(settings_of(folder, **values), split_of(folder, **values))
    return capsys.readouterr().out


# ---- which folder ----


README = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
---
"""


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
        ([0, -7, 1], ["label -7 of row 1", "-1 is no label"]),
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


# ---- why a dataset cannot be loaded ----


def test_the_configurations_are_named_with_the_setting_that_chooses_one(tmp_path):
    folder = tmp_path / "multi"
    for name in ("small", "full"):
        write_labels(folder / name, [0, 1, 2], ClassLabel(names=NAMES))
    lines = "".join(
        f"- config_name: {name}\n  data_files: {name}/data/*.parquet\n"
        for name in ("small", "full")
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n{lines}---\n")
    assert all(word in refusal(folder) for word in ("--dataset_config_name", "small, full"))
    assert all(
        word in refusal(folder, dataset_config_name="other")
        for word in ("--dataset_config_name", "small", "full")
    )
    assert len(split_of(folder, dataset_config_name="full").subset) == 3


def test_a_card_of_another_version_is_told(tmp_path):
    folder = write_labels(tmp_path / "stale", [0, 1, 2], ClassLabel(names=NAMES))
    names = "".join(f"          '{number}': {name}\n" for number, name in enumerate(NAMES))
    features = (
        "  - name: image\n    dtype: image\n  - name: label\n    dtype:\n      class_label:\n    "
        f"    names:\n{names}"
    )
    splits = "  splits:\n  - name: train\n    num_bytes: 1000\n    num_examples: 30\n"
    (folder / "README.md").write_text(f"---\ndataset_info:\n  features:\n{features}{splits}---\n")
    line = refusal(folder)
    assert "README" in line and "dataset_info" in line and "SplitInfo" not in line


def test_the_cause_behind_a_wrapper_is_said(tmp_path):
    folder = image_folder(tmp_path / "tozip")
    (tmp_path / "zipped").mkdir()
    with zipfile.ZipFile(tmp_path / "zipped" / "train.zip", "w") as archive:
        for path in sorted((folder / "train").rglob("*.png")):
            archive.write(path, path.relative_to(folder / "train"))
    line = refusal(tmp_path / "zipped")
    assert "Invalid string class label" in line and "An error occurred" not in line


def test_images_that_pandas_wrote_are_images(tmp_path):
    cells = [{"bytes": png(picture(number)), "path": None} for number in range(6)]
    (tmp_path / "struct" / "data").mkdir(parents=True)
    frame = pd.DataFrame({"image": cells, "label": [NAMES[number % 3] for number in range(6)]})
    frame.to_parquet(tmp_path / "struct" / "data" / "train.parquet")
    split = split_of(tmp_path / "struct")
    assert split.class_names == NAMES and split.image(5).size == (96, 96)


def test_pointers_of_git_lfs_are_told(tmp_path):
    (tmp_path / "lfs" / "data").mkdir(parents=True)
    (tmp_path / "lfs" / "data" / "train-00000-of-00001.parquet").write_text(LFS_POINTER)
    assert "data/train-00000-of-00001.parquet is a git-lfs pointer" in refusal(tmp_path / "lfs")
    folder = image_folder(tmp_path / "images")
    for path in folder.rglob("*.png"):
        path.write_text(LFS_POINTER)
    line = refusal(folder)
    assert "not one of the 12 images of split 'train' of images can be decoded" in line
    assert "git lfs pull" in line


def test_a_full_disk_inside_datasets_is_a_full_disk(tmp_path):
    """No `UserError` hides the system's error, from which the end of a run tells what is full."""
    folder = write_labels(tmp_path / "data", [0, 1, 2] * 40, ClassLabel(names=NAMES))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, hard))
    try:
        with pytest.raises(Exception) as error:  # whatever datasets wraps it in
            split_of(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not isinstance(error.value, UserError)
    assert "ulimit -f" in str(lack_of_room(error.value, None))


def test_a_dataset_that_save_to_disk_wrote_is_loaded(tmp_path):
    folder = write_labels(tmp_path / "data", [0, 1, 2], ClassLabel(names=NAMES))
    load_rows(resolve(str(folder), repo_type="dataset"), None, "train").rows.save_to_disk(
        tmp_path / "saved"
    )
    split = split_of(tmp_path / "saved")
    assert (split.labels.tolist(), split.class_names) == ([0, 1, 2], NAMES)
