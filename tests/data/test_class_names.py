"""Files that give the same numbers different class names: a label would silently be another one."""

import json
import logging
import shutil

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from generations import png
from hypothesis import given
from hypothesis import strategies as st
from loopback_hub import CLIENT, run_client, run_python
from PIL import Image
from untrusted import refused

from sgdmix_hub.data.class_names import compare, names_in
from sgdmix_hub.data.splits import load_split, load_unlabelled
from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.settings.data import DataSettings

CELL = {"bytes": png(Image.new("RGB", (8, 8), "red")), "path": None}
FIRST, SECOND = "train-00000-of-00002.parquet", "train-00001-of-00002.parquet"
CONTRADICT = "under whose names it would be read"


def rows(label, values=(0, 1), **more):
    """Two rows. `label`: class names, or a feature; `more`: the same of other columns."""
    kinds = {"label": label} | more
    features = {
        name: ClassLabel(names=kind) if isinstance(kind, list) else kind
        for name, kind in kinds.items()
    }
    columns = {"image": [CELL] * 2} | {name: list(values) for name in kinds}
    return Dataset.from_dict(columns, features=Features(image=ImageFeature(), **features))


def write(folder, name, label, values=(0, 1), **more):
    (folder / "data").mkdir(parents=True, exist_ok=True)
    rows(label, values, **more).to_parquet(folder / "data" / name)


def split_of(folder, load=load_split, **values):
    settings = DataSettings(dataset_name=str(folder), output_dir="unused", **values)
    return load(settings, resolve(settings.dataset_name, repo_type="dataset"))


def state_in_readme(folder, names):
    places = {str(place): name for place, name in enumerate(names)}
    label = {"name": "label", "dtype": {"class_label": {"names": places}}}
    features = [{"name": "image", "dtype": "image"}, label]
    head = json.dumps({"dataset_info": {"features": features}})
    (folder / "README.md").write_text(f"---\n{head}\n---\n")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("second", [["tern", "kite"], ["kite", "finch"]])
@pytest.mark.parametrize("name", [SECOND, "test-00000-of-00001.parquet"])
def test_files_that_contradict_each_other_are_refused(name, second, streaming, tmp_path):
    write(tmp_path, FIRST, ["kite", "tern"])
    write(tmp_path, name, second)
    asked = {"dataset_split": name.partition("-")[0], "streaming": streaming}
    for _ in range(2):  # also from the cache
        said = refused(split_of, tmp_path, **asked)
        assert CONTRADICT in said and name in said and FIRST in said


def test_arrow_files_and_saved_datasets_are_compared_too(tmp_path):
    splits = {"train": rows(["kite", "tern"]), "test": rows(["tern", "kite"])}
    DatasetDict(splits).save_to_disk(tmp_path / "saved")
    assert split_of(tmp_path / "saved").class_names == ["kite", "tern"]
    assert CONTRADICT in refused(split_of, tmp_path / "saved", dataset_split="test")


LOAD = """
from sgdmix_hub.settings.data import DataSettings
from sgdmix_hub.data.splits import load_split
from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.pins import resolve

def said(name, streaming):
    settings = DataSettings(dataset_name=name, output_dir="unused", streaming=streaming)
    try:
        return str(load_split(settings, resolve(name, repo_type="dataset")).class_names)
    except UserError as error:
        return str(error)
"""
ONLINE = """
api.create_repo("birds/swapped", repo_type="dataset", exist_ok=True)
api.upload_folder(repo_id="birds/swapped", folder_path=sys.argv[1], repo_type="dataset")
commit = api.dataset_info("birds/swapped").sha
print(json.dumps([commit, said("birds/swapped", True), said("birds/swapped", False)]))
"""


def home_with_swapped(tmp_path):
    """Writes two files that contradict each other; environment variables with caches of their
    own.
    """
    write(tmp_path / "birds", FIRST, ["kite", "tern"])
    write(tmp_path / "birds", SECOND, ["tern", "kite"])
    return {"HF_HOME": str(tmp_path / "home")}


OFFLINE = "print(json.dumps([said(sys.argv[1], False), said(sys.argv[1], True)]))"


@pytest.mark.slow
def test_files_on_the_hub_that_contradict_each_other_are_refused_from_any_cache(hub, tmp_path):
    """Streamed, copied, offline, and where the files behind the prepared rows are gone."""
    home = home_with_swapped(tmp_path)
    commit, *told = run_client(hub, LOAD + ONLINE, tmp_path / "birds", **home)
    name, offline = f"birds/swapped@{commit}", home | {"HF_HUB_OFFLINE": "1"}
    copied, streamed = run_client(hub, LOAD + OFFLINE, name, **offline)
    assert "cannot be streamed without the Hub" in streamed
    shutil.rmtree(tmp_path / "home" / "hub")
    told += [copied, *run_client(hub, LOAD + ONLINE, tmp_path / "birds", **home)[1:]]
    assert all(CONTRADICT in said for said in told), told
    shutil.rmtree(tmp_path / "home" / "hub")
    done = run_python(hub, CLIENT + LOAD + OFFLINE, name, **offline)
    assert "load it once without HF_HUB_OFFLINE" in done.stderr and "kite" in done.stdout


@pytest.mark.slow
def test_part_of_a_cache_is_not_taken_for_the_whole(hub, tmp_path):
    """Offline, with one file of two: nothing is refused, and nothing is remembered."""
    home = home_with_swapped(tmp_path)
    commit, *_ = run_client(hub, LOAD + ONLINE, tmp_path / "birds", **home)
    (cached,) = (tmp_path / "home" / "hub").rglob(SECOND)
    cached.unlink()
    name, offline = f"birds/swapped@{commit}", home | {"HF_HUB_OFFLINE": "1"}
    assert "kite" in run_client(hub, LOAD + OFFLINE, name, **offline)[0]
    assert CONTRADICT in run_client(hub, LOAD + ONLINE, tmp_path / "birds", **home)[2]


def test_a_split_is_read_if_another_one_contradicts_it(tmp_path):
    write(tmp_path, FIRST, ["kite", "tern"])
    write(tmp_path, "test-00000-of-00001.parquet", ["tern", "kite"])
    for split in ("train", "train[:1]"):
        assert split_of(tmp_path, dataset_split=split).class_names == ["kite", "tern"]
    for split in ("train[:1]+test", "all"):
        assert CONTRADICT in refused(split_of, tmp_path, dataset_split=split)


@pytest.mark.parametrize(
    "second",
    [["kite", "tern"], ["kite", "tern", "owl"], ["Kite", "tern_"], Value("int64")],
)
def test_files_that_agree_go_on_or_state_nothing_are_read(second, tmp_path):
    write(tmp_path, FIRST, ["kite", "tern"])
    write(tmp_path, SECOND, second)
    split = split_of(tmp_path)
    assert split.class_names == ["kite", "tern"] and split.labels.tolist() == [0, 1, 0, 1]


def test_columns_that_are_not_read_as_labels_do_not_matter(tmp_path):
    write(tmp_path, FIRST, ["kite", "tern"], site=["north", "south"])
    write(tmp_path, SECOND, ["kite", "tern"], site=["south", "north"])
    assert split_of(tmp_path).labels.tolist() == [0, 1, 0, 1]
    assert "column 'site'" in refused(split_of, tmp_path, label_column="site")
    assert len(split_of(tmp_path, load_unlabelled, label_column="site").rows) == 4


def test_numbers_of_classes_are_no_texts(tmp_path):
    write(tmp_path, FIRST, Value("string"), ["kite", "tern"])
    write(tmp_path, SECOND, ["kite", "tern"])
    assert CONTRADICT in refused(split_of, tmp_path)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "stated, on_card, is_read",
    [
        (["tern", "kite"], ["red tern", "kite"], True),
        (["tern", "kite"], ["kite", "tern of the sea"], True),
        (["0", "1"], ["1", "2"], True),
        (["dog", "puppy"], ["adult dog", "dog"], True),
        (["tern", "kite"], ["tern", "kite", "owl"], True),
        (["tern", "kite"], ["kite", "tern"], False),
        (["tern", "kite"], ["kite", "tern", "owl"], False),
        (["kite", "tern"], ["auk", "kite", "tern"], False),
        (["auk", "kite", "tern"], ["kite", "tern"], False),
        (["kite", "tern", "auk"], ["Tern", "kite", "great auk"], False),
    ],
)
def test_a_card_may_rename_classes_and_not_mix_them_up(
    stated, on_card, is_read, streaming, tmp_path
):
    write(tmp_path, FIRST, stated)
    state_in_readme(tmp_path, on_card)
    if is_read:
        assert split_of(tmp_path, streaming=streaming).class_names == on_card
        return
    said = refused(split_of, tmp_path, streaming=streaming)
    assert CONTRADICT in said and "the dataset's card" in said


def test_what_a_card_states_rightly_of_a_split_counts_more_than_the_first_file(tmp_path):
    write(tmp_path, FIRST, ["kite", "tern"])
    write(tmp_path, "test-00000-of-00001.parquet", ["tern", "kite"])
    state_in_readme(tmp_path, ["tern", "kite"])
    assert split_of(tmp_path, dataset_split="test").class_names == ["tern", "kite"]
    assert CONTRADICT in refused(split_of, tmp_path)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("names", [[False, True], [1, 2], ["kite", 2.5]])
def test_names_that_are_no_text_are_refused_in_a_line(names, streaming, tmp_path):
    write(tmp_path, FIRST, Value("int64"))
    state_in_readme(tmp_path, names)
    assert "which is no text: put it in quotes" in refused(split_of, tmp_path, streaming=streaming)


def test_what_was_found_in_order_is_not_read_again(tmp_path, caplog):
    write(tmp_path / "one", FIRST, ["kite", "tern"])
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    with caplog.at_level(logging.WARNING):
        assert split_of(tmp_path / "one").class_names == split_of(tmp_path / "two").class_names
    assert not caplog.records
    write(tmp_path / "two", SECOND, ["tern", "kite"])  # another revision
    assert CONTRADICT in refused(split_of, tmp_path / "two")


@given(st.lists(st.lists(st.sampled_from("abc"), unique=True), max_size=5))
def test_lists_are_compared_place_by_place(lists):
    files = {f"{place}.parquet": names for place, names in enumerate(lists)}
    agree = all(
        one[k] == two[k] for one in lists for two in lists for k in range(min(len(one), len(two)))
    )
    try:
        compare("birds", "label", Value("int64"), None, files, files)
    except UserError:
        assert not agree
    else:
        assert agree


@pytest.mark.parametrize(
    "raw",
    [b"", b"\xff", b"[]", b"3", b'{"info": null}', b'{"info": {"features": []}}',
     b'{"info": {"features": {"label": {"_type": "ClassLabel", "names": null}}}}',
     b'{"info": {"features": {"label": {"_type": "Value"}}}}', b"[" * 100_000],
)  # fmt: skip
def test_whatever_somebody_wrote_into_a_file_is_no_list_of_names(raw):
    assert names_in(raw, "label") == []
