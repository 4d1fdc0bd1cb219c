"""Datasets that cannot be loaded: the error names the cause."""

import resource
import zipfile

import pandas as pd
import pytest
from datasets import ClassLabel
from generations import png
from image_folders import NAMES, image_folder, refusal, split_of, write_labels
from odd_images import picture

from sgdmix_hub.data.loading import load_rows
from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.runtime.resource_errors import lack_of_room

LFS_POINTER = (
    "version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 146946961\n"
)


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
