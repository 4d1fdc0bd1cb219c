"""Splits that are read where they are: the rows and the published bytes of a split that was copied
first, from Parquet files and from WebDatasets, of which nothing is kept but an index.
"""

import io
import json
import pickle
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from generations import digests, tiny_run
from loopback_hub import run_python
from untrusted import refused

from sgdmix_hub import augment
from sgdmix_hub.data import caches, indexed, row_groups
from sgdmix_hub.data.row_groups import KeptGroups
from sgdmix_hub.data.splits import load_split
from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.settings.generation import AugmentSettings

COLUMNS = {"webdataset": {"image_column": "png", "label_column": "cls"}, "parquet": {}}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A run that only mixes, on Parquet files."""
    return tiny_run(tmp_path_factory.mktemp("streamed") / "birds", rows_per_shard=4)


@pytest.fixture(scope="module")
def tars(settings, tmp_path_factory):
    """The same rows as two tar archives, with what archives hold besides."""
    split = split_of(settings)
    folder = tmp_path_factory.mktemp("tars") / "tars"
    (folder / "train").mkdir(parents=True)
    for number in range(2):
        with tarfile.open(folder / "train" / f"train-{number}.tar", "w") as tar:
            add(tar, "__MACOSX.txt", b"x")
            add(tar, "no_extension", b"x")
            for row in range(number * 4, number * 4 + 4):
                # larger than what the index holds itself, and a name with dots
                add(tar, f"a/{row:04d}.png", split.rows[row]["image"]["bytes"])
                add(tar, f"a/{row:04d}.cls", str(split.labels[row]).encode())
                add(tar, f"a/{row:04d}.meta.json", json.dumps({"row": row}).encode())
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """An empty cache for indices; `datasets` keeps its own."""
    monkeypatch.setattr(caches, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(indexed, "SMALL_FIELD", 64)


def add(tar, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def split_of(settings, **more):
    asked = AugmentSettings(**settings | {"output_dir": "unused"} | more)
    return load_split(asked, resolve(asked.dataset_name, repo_type="dataset"))


def of_kind(kind, settings, tars):
    place = {"dataset_name": str(tars)} if kind == "webdataset" else {}
    return settings | place | COLUMNS[kind]


@pytest.mark.parametrize("kind", COLUMNS)
def test_streamed_rows_are_those_of_the_copied_split(kind, settings, tars):
    asked = of_kind(kind, settings, tars)
    copied, streamed = split_of(asked), split_of(asked, streaming=True)
    assert len(streamed.rows) == len(copied.rows) == 8
    assert streamed.class_names == copied.class_names
    assert np.array_equal(streamed.labels, copied.labels)
    for split in (streamed, pickle.loads(pickle.dumps(streamed))):
        for row in (7, 0, 3, -1):
            ours, theirs = split.rows[row], copied.rows[row]
            assert set(ours) == set(theirs)
            for name, value in theirs.items():
                if isinstance(value, dict) and "bytes" in value:
                    assert ours[name]["bytes"] == value["bytes"]
                elif name != "__url__":
                    assert ours[name] == value, name
        assert split.image(5).tobytes() == copied.image(5).tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("kind", COLUMNS)
def test_a_streamed_split_gives_the_published_bytes_of_a_copied_one(kind, settings, tars, tmp_path):
    asked = of_kind(kind, settings, tars)
    for name, streaming in (("copied", False), ("streamed", True)):
        output = str(tmp_path / name)
        augment.main(AugmentSettings(**asked, output_dir=output, streaming=streaming))
    assert digests(tmp_path / "streamed" / "repo") == digests(tmp_path / "copied" / "repo")
    augment.main(AugmentSettings(**asked, output_dir=str(tmp_path / "copied"), streaming=True))


def test_a_webdataset_is_read_once_for_its_index_and_then_by_need(
    settings, tars, tmp_path, monkeypatch
):
    asked, passes = of_kind("webdataset", settings, tars), []
    samples_in = indexed.samples_in

    def counted(place):
        passes.append(place)
        return samples_in(place)

    monkeypatch.setattr(indexed, "samples_in", counted)
    for _ in range(2):
        split_of(asked, streaming=True)
    assert len(passes) == 2, "one pass over each archive, also for a second run"
    (index,) = (tmp_path / "cache").rglob("*.arrow")
    assert index.stat().st_size < 20_000
    with pa.ipc.open_file(pa.memory_map(str(index))) as file:
        assert file.read_all()["file"].to_pylist() == [0] * 4 + [1] * 4


def test_large_row_groups_are_not_held(settings, monkeypatch):
    monkeypatch.setattr(indexed, "LARGEST_GROUP", 10)
    assert "row groups of" in refused(split_of, settings, streaming=True)


@pytest.fixture
def large_groups(tmp_path):
    """A Parquet file of five row groups with eight images each, and its rows."""
    columns = {"image": [{"bytes": bytes([row]) * 20_000, "path": None} for row in range(40)]}
    table = pa.table(columns | {"label": list(range(40))})
    pq.write_table(table, tmp_path / "large.parquet", row_group_size=8)
    return tmp_path / "large.parquet", table.to_pylist()


@pytest.fixture
def decoded(monkeypatch):
    """The row groups that were read from a Parquet file, in order."""
    groups, keep = [], KeptGroups.keep

    def watched(self, name, file, group):
        groups.append(group)
        return keep(self, name, file, group)

    monkeypatch.setattr(KeptGroups, "keep", watched)
    return groups


def rows_of(path, folder):
    return indexed.ParquetRows([str(path)], [pq.read_metadata(path)], folder)


ANYWHERE = [3, 39, 0, 17, 25, 8, 30, 1, 38, 16, 24, 9, 31] * 3


def test_a_row_group_is_decoded_once_for_all_rows_and_processes(large_groups, decoded, tmp_path):
    path, expected = large_groups
    for _ in range(2):  # the second as another process
        rows = rows_of(path, tmp_path / "kept")
        assert [rows.row(number) for number in ANYWHERE] == [expected[row] for row in ANYWHERE]
    assert sorted(decoded) == list(range(5))
    with ThreadPoolExecutor(8) as threads:
        rows = rows_of(path, tmp_path / "others")
        found = list(threads.map(rows.row, ANYWHERE))
    assert found == [expected[row] for row in ANYWHERE] and len(decoded) == 10


def test_a_torn_group_is_decoded_again_and_a_folder_of_others_is_no_error(
    large_groups, decoded, tmp_path
):
    path, expected = large_groups
    file, kept = pq.ParquetFile(path), KeptGroups(tmp_path / "kept")
    whole = kept.keep("0", file, 0)
    torn = tmp_path / "kept" / "0.arrow"
    torn.unlink()  # the table is mapped from it
    torn.write_bytes(b"torn")
    assert kept.kept("0") is None and kept.keep("0", file, 0).equals(whole)
    elsewhere = KeptGroups(Path("/proc/no-folder"))  # where nobody can write
    assert elsewhere.keep("0", file, 0).equals(whole)


def test_a_group_that_states_little_and_holds_much_is_refused(tmp_path, monkeypatch):
    """Equal cells of a dictionary are stored once."""
    path = tmp_path / "small.parquet"
    table = pa.table({"image": [b"x" * 10_000] * 1000})
    pq.write_table(table, path, compression="zstd", dictionary_pagesize_limit=2**24)
    file = pq.ParquetFile(path)
    assert file.metadata.row_group(0).total_byte_size < 20_000
    monkeypatch.setattr(row_groups, "LARGEST_GROUP", 2**20)
    with pytest.raises(UserError, match="smaller ones"):
        KeptGroups(tmp_path / "kept").keep("0", file, 0)
    assert [each for each in (tmp_path / "kept").iterdir() if each.suffix == ".arrow"] == []


def test_row_groups_on_disk_stay_within_their_room(large_groups, decoded, tmp_path, monkeypatch):
    path, expected = large_groups
    size = pq.read_metadata(path).row_group(0).total_byte_size
    monkeypatch.setattr(row_groups, "MOST_BYTES", 2 * size + size // 2)
    rows = rows_of(path, tmp_path / "kept")
    for number in (0, 8, 0, 16, 1):  # the first group is used again before the third comes
        assert rows.row(number) == expected[number]
        rows._group.cache_clear()
        kept = list((tmp_path / "kept").iterdir())
        assert sum(file.stat().st_size for file in kept) < 2.5 * size
    assert decoded == [0, 1, 2], "the second had to go, not the first"
    monkeypatch.setattr(row_groups, "MOST_BYTES", size // 2)
    assert rows.row(39) == expected[39], "where there is no room, from memory"


def test_what_cannot_be_streamed_is_refused(settings, tmp_path, tars):
    assert "no files of a split 'train[:5]'" in refused(
        split_of, settings, streaming=True, dataset_split="train[:5]"
    )
    folder = tmp_path / "images"
    rows = split_of(settings)
    for row in range(8):
        path = folder / "train" / str(rows.labels[row]) / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rows.rows[row]["image"]["bytes"])
    assert "imagefolder, and streaming reads parquet and webdataset" in refused(
        split_of, settings | {"dataset_name": str(folder)}, streaming=True
    )


def test_a_place_that_fails_is_no_reason_to_skip_a_row(settings, tars, tmp_path):
    """The rows of a lost connection would be missing from the dataset."""
    folder = shutil.copytree(tars, tmp_path / "tars")
    asked = settings | {"dataset_name": str(folder)} | COLUMNS["webdataset"]
    split = split_of(asked, streaming=True)
    (folder / "train" / "train-1.tar").unlink()
    split.image(0)
    assert "cannot be streamed" in refused(split.image, 7)


STREAM = """
import json, sys

from sgdmix_hub.data.splits import load_split
from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.hub.push import push_folder
from sgdmix_hub.settings.generation import AugmentSettings

folder, tars = sys.argv[1:]
for name, place, more in (
    ("birds/parquet", folder, {}),
    ("birds/tars", tars, {"image_column": "png", "label_column": "cls"}),
):
    push_folder(place, name, "dataset")
    asked = AugmentSettings(
        dataset_name=name, output_dir="x", strength=0, saliency_method="spectral-residual",
        streaming=True, **more,
    )
    split = load_split(asked, resolve(name, "dataset"))
    print(json.dumps([split.labels.tolist(), [split.image(row).size for row in (7, 0)]]))
from pathlib import Path
from huggingface_hub import constants
kept = [p for p in Path(constants.HF_HOME).rglob("*") if p.suffix in (".tar", ".parquet")]
print(json.dumps(len(kept)))
"""


@pytest.mark.slow
def test_a_dataset_on_the_hub_is_streamed_and_not_kept(hub, settings, tars, tmp_path):
    done = run_python(hub, STREAM, settings["dataset_name"], tars, HF_HOME=str(tmp_path / "home"))
    assert done.returncode == 0, done.stderr
    *found, kept = map(json.loads, done.stdout.splitlines()[-3:])
    labels = split_of(settings).labels.tolist()
    assert found == [[labels, [[32, 32], [32, 32]]]] * 2
    assert kept == 0
