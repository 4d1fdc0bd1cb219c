"""Versions that are read shard by shard, or brought from an object store: the rows of the whole
version, or an error before the first row of a shard that is not the published one.
"""

import json
import pickle
import shutil
import uuid

import fsspec
import pyarrow.parquet as pq
import pytest
from generations import flip, undecoded
from loopback_hub import READ_TOKEN, run_python
from published_versions import local_rows
from torch.utils.data import DataLoader
from untrusted import refused

from sgdmix_hub.errors import UserError
from sgdmix_hub.files import sealed, write_json
from sgdmix_hub.publishing import fetching
from sgdmix_hub.publishing.read import load_published
from sgdmix_hub.publishing.version_files import FolderFiles

STREAM = """
import json, sys
from pathlib import Path

from huggingface_hub import constants

from sgdmix_hub import load_published

published = load_published(sys.argv[1], streaming=True)
rows = ["source_index", "variant", "target_index"]
found = [[row[name] for name in rows] for row in published.dataset.remove_columns("image")]
kept = [path.name for path in Path(constants.HF_HUB_CACHE).rglob("*.parquet")]
print(json.dumps([str(published.pin), found, kept]))
"""
FIRST = """
import json, sys

from sgdmix_hub import load_published

row = next(iter(load_published(sys.argv[1], streaming=True).dataset))
print(json.dumps([row["source_index"], row["image"].size]))
"""


@pytest.fixture
def repo(first_version, tmp_path):
    return shutil.copytree(first_version / "repo", tmp_path / "repo")


@pytest.fixture
def stored(first_version, tmp_path, monkeypatch):
    """The URL of a run in a store, and of its repo/."""
    monkeypatch.setattr(
        fetching,
        "cached_assets_path",
        lambda *names: tmp_path.joinpath("kept", *names),
    )
    files, place = fsspec.filesystem("memory"), uuid.uuid4().hex
    files.put(str(first_version / "repo"), f"/{place}/run/repo", recursive=True)
    yield f"memory://{place}/run"
    files.store.clear()


def rows_of(published):
    return [
        [row["source_index"], row["variant"], row["target_index"]]
        for row in published.dataset.remove_columns("image")
    ]


def test_streamed_rows_are_those_of_the_whole_version(repo):
    whole, streamed = load_published(str(repo)), load_published(str(repo), streaming=True)
    assert streamed.pin.revision == whole.pin.revision, "without reading a shard"
    assert streamed.manifest == whole.manifest
    assert streamed.dataset.features == whole.dataset.features
    theirs, ours = list(streamed.dataset), list(whole.dataset)
    for row in (*theirs, *ours):
        row["image"] = row["image"].tobytes()
    assert theirs == ours
    assert list(streamed.dataset.shuffle(seed=0, buffer_size=4)) != ours


def test_processes_of_a_loader_share_the_shards(repo):
    streamed = load_published(str(repo), streaming=True)
    rows = streamed.dataset.remove_columns(
        [name for name in streamed.dataset.features if name not in ("source_index", "variant")]
    )
    assert rows.num_shards == 3
    read = [int(row["source_index"]) for row in DataLoader(rows, batch_size=None, num_workers=2)]
    assert sorted(read) == sorted(load_published(str(repo)).sources)
    assert len(pickle.dumps(streamed.dataset)) < 10**6


def test_a_damaged_shard_is_found_when_it_is_read_and_not_before(repo):
    shards = sorted(repo.glob("data/train-*"))
    flip(shards[1], seed=0)
    found, streamed = [], load_published(str(repo), streaming=True)
    with pytest.raises(UserError, match="train-00001-of-00003.*not the published bytes"):
        for row in streamed.dataset:
            found.append(row)
    assert len(found) == pq.read_metadata(shards[0]).num_rows, "nothing of the second shard"
    shards[1].unlink()
    assert "train-00001" in refused(list, load_published(str(repo), streaming=True).dataset)


def test_a_manifest_that_lists_some_of_the_shards_is_refused(repo):
    path = repo / "sgdmix/default/manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"].pop("data/train-00001-of-00003.parquet")
    write_json(path, sealed(manifest))
    assert "does not list every shard" in refused(load_published, str(repo), streaming=True)


def test_a_shard_without_metadata_is_refused(repo):
    shard = min(repo.glob("data/train-*"))
    for content in (b"", b"PAR1", b"x" * 5000):
        shard.write_bytes(content)
        assert "train-00000" in refused(load_published, str(repo), streaming=True)


def test_nothing_of_a_folder_is_copied(repo):
    with FolderFiles(repo).here("README.md") as path:
        assert path == repo / "README.md"


def test_a_version_in_a_store_is_loaded_whole_and_streamed(stored, first_version, tmp_path):
    expected = load_published(str(first_version / "repo"))
    for url in (stored, f"{stored}/repo"):
        whole = load_published(url)
        assert undecoded(whole.dataset) == undecoded(expected.dataset)
        streamed = load_published(url, streaming=True)
        assert rows_of(streamed) == local_rows(first_version)
        assert streamed.pin.revision == whole.pin.revision == expected.pin.revision
        assert (streamed.pin.name, whole.pin.name) == ("repo", "repo")
    assert load_published(str(first_version / "repo"), streaming=True).pin == streamed.pin


def test_what_was_brought_from_a_store_is_kept_and_mended(stored, tmp_path):
    load_published(stored)
    kept = sorted((tmp_path / "kept").rglob("train-*.parquet"))
    before = [path.stat().st_mtime_ns for path in kept]
    flip(kept[1], seed=0)
    load_published(stored)
    after = [path.stat().st_mtime_ns for path in kept]
    assert len(kept) == 3 and after[0] == before[0] and after[2] == before[2]


def test_a_damaged_shard_in_a_store_is_refused(stored):
    files, root = fsspec.core.url_to_fs(stored)
    (shard,) = [name for name in files.find(root) if "train-00002" in name]
    content = bytearray(files.cat_file(shard))
    content[len(content) // 2] ^= 1
    files.pipe_file(shard, bytes(content))
    for call in (load_published, lambda url: list(load_published(url, streaming=True).dataset)):
        assert "train-00002-of-00003.parquet missing or not the published" in refused(call, stored)
    assert "holds no augmented dataset" in refused(load_published, f"{stored}/nothing")


@pytest.mark.slow
def test_a_version_on_the_hub_is_streamed_without_a_shard_in_the_cache(
    publisher, repo_id, first_version, tmp_path
):
    hub = publisher.hub
    pin = publisher.published(first_version, repo_id)
    hub.calls.clear()
    done = run_python(
        hub, STREAM, f"{repo_id}@v1.0.0", token=READ_TOKEN, HF_HOME=str(tmp_path / "a")
    )
    assert done.returncode == 0, done.stderr
    theirs, rows, kept = json.loads(done.stdout.splitlines()[-1])
    assert theirs == pin and rows == local_rows(first_version)
    assert kept == ["plan.parquet"]
    hub.calls.clear()
    done = run_python(
        hub, FIRST, f"{repo_id}@v1.0.0", token=READ_TOKEN, HF_HOME=str(tmp_path / "b")
    )
    assert json.loads(done.stdout.splitlines()[-1])[1] == [32, 32], done.stderr
    read = {call.path.rpartition("/")[2] for call in hub.calls_of("GET", "train-")}
    assert read == {"train-00000-of-00003.parquet"}, "the other shards were not asked for"
