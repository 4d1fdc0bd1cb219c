"""Files that give the same numbers different class names: a label would silently be another one."""

import pytest
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from generations import png
from loopback_hub import run_client
from PIL import Image
from untrusted import refused

from sgdmix_hub.data.splits import load_split
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.settings.data import DataSettings

CELL = {"bytes": png(Image.new("RGB", (8, 8), "red")), "path": None}


def write(folder, name, label):
    """A file of two rows, labelled 0 and 1. `label`: class names, or a feature."""
    feature = ClassLabel(names=label) if isinstance(label, list) else label
    rows = {"image": [CELL] * 2, "label": [0, 1]}
    (folder / "data").mkdir(parents=True, exist_ok=True)
    features = Features({"image": ImageFeature(), "label": feature})
    Dataset.from_dict(rows, features=features).to_parquet(folder / "data" / name)


def split_of(folder, **values):
    settings = DataSettings(dataset_name=str(folder), output_dir="unused", **values)
    return load_split(settings, resolve(settings.dataset_name, repo_type="dataset"))


def state_in_readme(folder, names):
    lines = [f"        '{place}': {name}" for place, name in enumerate(names)]
    head = "dataset_info:\n  features:\n  - name: image\n    dtype: image\n  - name: label\n"
    names = "\n".join(lines)
    text = f"---\n{head}    dtype:\n      class_label:\n        names:\n  {names}\n---\n"
    (folder / "README.md").write_text(text.replace("\n        '", "\n          '"))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("second", [["tern", "kite"], ["kite", "finch"], ["kite", "tern", "owl"]])
@pytest.mark.parametrize("name", ["train-00001-of-00002.parquet", "test-00000-of-00001.parquet"])
def test_files_that_disagree_are_refused(name, second, streaming, tmp_path):
    write(tmp_path, "train-00000-of-00002.parquet", ["kite", "tern"])
    write(tmp_path, name, second)
    for _ in range(2):  # also from the cache
        said = refused(
            split_of, tmp_path, dataset_split=name.partition("-")[0], streaming=streaming
        )
        assert "different class names" in said and name in said and "train-00000-of-00002" in said


def test_files_of_another_split_do_not_matter(tmp_path):
    write(tmp_path, "train-00000-of-00001.parquet", ["kite", "tern"])
    write(tmp_path, "test-00000-of-00001.parquet", ["tern", "kite"])
    assert split_of(tmp_path).class_names == ["kite", "tern"]
    assert "different class names" in refused(split_of, tmp_path, dataset_split="train[:1]+test")


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True])
def test_files_on_the_hub_that_disagree_are_refused(streaming, hub, tmp_path):
    write(tmp_path / "birds", "train-00000-of-00002.parquet", ["kite", "tern"])
    write(tmp_path / "birds", "train-00001-of-00002.parquet", ["tern", "kite"])
    asked = {"dataset_name": "birds/swapped", "output_dir": "unused", "streaming": streaming}
    said = run_client(
        hub,
        f"""
from sgdmix_hub.settings.data import DataSettings
from sgdmix_hub.data.splits import load_split
from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.pins import resolve

api.create_repo("birds/swapped", repo_type="dataset")
api.upload_folder(repo_id="birds/swapped", folder_path=sys.argv[1], repo_type="dataset")
try:
    load_split(DataSettings(**{asked}), resolve("birds/swapped", repo_type="dataset"))
except UserError as error:
    print(json.dumps(str(error)))
""",
        tmp_path / "birds",
    )
    assert "different class names" in said and "train-00001-of-00002.parquet" in said


@pytest.mark.parametrize("second", [["kite", "tern"], Value("int64")])
def test_files_that_agree_or_state_nothing_are_read(second, tmp_path):
    write(tmp_path, "train-00000-of-00002.parquet", ["kite", "tern"])
    write(tmp_path, "train-00001-of-00002.parquet", second)
    split = split_of(tmp_path)
    assert split.class_names == ["kite", "tern"] and split.labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_readme_may_rename_classes_and_not_reorder_them(streaming, tmp_path):
    write(tmp_path, "train-00000-of-00001.parquet", ["kite", "tern"])
    state_in_readme(tmp_path, ["red kite", "tern"])
    assert split_of(tmp_path, streaming=streaming).class_names == ["red kite", "tern"]
    state_in_readme(tmp_path, ["tern", "kite"])
    said = refused(split_of, tmp_path, streaming=streaming)
    assert "different class names" in said and "README" in said
