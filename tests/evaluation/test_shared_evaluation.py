"""An evaluation by several processes, or by workers that share nothing but an object store: the
files of one process on one disk.
"""

import hashlib
import uuid
from collections import Counter

import fsspec
import pytest
from generations import arguments, digests
from launching import launch
from untrusted import refused

from sgdmix_hub import evaluate_dataset
from sgdmix_hub.generation import row_blocks
from sgdmix_hub.publishing import fetching
from sgdmix_hub.publishing.version_files import StoreFiles
from sgdmix_hub.settings.evaluation import EvaluationSettings

WORKERS = 3


@pytest.fixture(scope="module")
def asked(first_version, evil_source, evil_judge):
    return {
        "synthetic": str(first_version),
        "dataset_name": str(evil_source),
        "judge": str(evil_judge),
        "keep": 0.7,
    }


@pytest.fixture(scope="module")
def small_blocks():
    """Several blocks for the workers to share."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(row_blocks, "BLOCK_ROWS", 4)
        yield


@pytest.fixture(scope="module")
def reference(asked, small_blocks, tmp_path_factory):
    """The files of one process on a disk, without state/."""
    output = tmp_path_factory.mktemp("reference") / "run"
    evaluate(asked, output)
    return files_of(output)


@pytest.fixture
def place(first_version, monkeypatch, tmp_path):
    """A folder of the in-process store, with a generation in it."""
    monkeypatch.setattr(
        fetching, "cached_assets_path", lambda *names: tmp_path.joinpath("kept", *names)
    )
    files, place = fsspec.filesystem("memory"), uuid.uuid4().hex
    files.put(str(first_version / "repo"), f"/{place}/run/repo", recursive=True)
    yield f"memory://{place}"
    files.store.clear()


def evaluate(asked, output, **more):
    settings = EvaluationSettings(**asked | {"output_dir": str(output)} | more)
    settings.validate()
    evaluate_dataset.main(settings)


def files_of(output):
    return {
        name: sha256 for name, sha256 in digests(output).items() if not name.startswith("state/")
    }


def stored(url):
    files, root = fsspec.core.url_to_fs(url)
    return {
        name.removeprefix(f"{root}/"): hashlib.sha256(files.cat_file(name)).hexdigest()
        for name in files.find(root)
        if "/state/" not in name
    }


@pytest.mark.slow
def test_the_processes_of_a_launch_make_the_files_of_one(asked, tmp_path):
    evaluate(asked, tmp_path / "one")
    words = arguments(asked | {"output_dir": tmp_path / "three"})
    done = launch(["scripts/evaluate_dataset.py", *words], num_processes=WORKERS)
    assert done.returncode == 0, done.stderr
    assert files_of(tmp_path / "three") == files_of(tmp_path / "one")


@pytest.fixture
def fetched(monkeypatch):
    """The files of the version that were fetched whole."""
    names, here = [], StoreFiles.here
    monkeypatch.setattr(
        StoreFiles, "here", lambda files, name: names.append(name) or here(files, name)
    )
    return names


@pytest.mark.slow
def test_workers_in_a_store_make_the_files_of_one_process(
    asked, reference, place, fetched, tmp_path
):
    output = f"{place}/evaluated"
    of_a_store = asked | {"synthetic": f"{place}/run"}
    shards = [f"data/train-{number:05d}-of-00003.parquet" for number in range(3)]  # 5, 5, 2 rows
    for rank in (2, 0, 1):
        evaluate(of_a_store, output, stage="views", rank=rank, world_size=WORKERS)
        assert stored(output) == {}
        made = Counter(fetched)
        assert set(made) == set(shards) and max(made.values()) <= 2, "the first has made all"
    files, root = fsspec.core.url_to_fs(f"{output}/state/views")
    for block in (name for name in files.find(root) if name.endswith("block-00001.json")):
        files.rm_file(block)
    fetched.clear()
    evaluate(of_a_store, output, stage="views", rank=2, world_size=WORKERS)
    assert fetched == shards[:2], "rows 4 to 7 are in two files"
    assert not (tmp_path / "kept").exists(), "no worker keeps a copy"
    evaluate(of_a_store, output, stage="finish")
    pictures = {name for name in reference if name.endswith(".png") and "/" not in name}
    assert stored(output) == {
        name: sha256 for name, sha256 in reference.items() if name not in pictures
    }
    evaluate(of_a_store, output)  # complete
    assert "holds another dataset or evaluation (keep" in refused(
        evaluate, of_a_store, output, keep=0.5
    )


@pytest.mark.slow
def test_a_worker_takes_no_file_that_is_not_the_published_one(asked, small_blocks, place):
    files, name = fsspec.filesystem("memory"), "data/train-00001-of-00003.parquet"
    path = f"{place.removeprefix('memory:/')}/run/repo/{name}"
    content = bytearray(files.cat_file(path))
    content[len(content) // 3] ^= 1
    files.pipe_file(path, bytes(content))
    of_a_store = asked | {"synthetic": f"{place}/run", "stage": "views"}
    assert f"{name} missing or not" in refused(evaluate, of_a_store, f"{place}/evaluated")
    files.rm_file(path)
    assert f"{name} is not Parquet" in refused(evaluate, of_a_store, f"{place}/evaluated")


@pytest.mark.slow
def test_one_process_in_a_store_makes_them_too(asked, reference, place):
    evaluate(asked, f"{place}/evaluated")
    left = {name for name in reference if name not in stored(f"{place}/evaluated")}
    assert all(name.endswith(".png") and "/" not in name for name in left)
    assert {reference[name] for name in reference if name not in left} == set(
        stored(f"{place}/evaluated").values()
    )


@pytest.mark.slow
def test_workers_share_a_folder_of_a_disk(asked, reference, tmp_path):
    for rank in (1, 0):
        evaluate(asked, tmp_path / "run", stage="views", rank=rank, world_size=2)
    assert not (tmp_path / "run" / "repo").exists()
    evaluate(asked, tmp_path / "run", stage="finish")
    assert files_of(tmp_path / "run") == reference


def test_a_workers_number_needs_a_workers_stage(asked, tmp_path):
    assert "--stage views" in refused(evaluate, asked, tmp_path, rank=1, world_size=2)
    assert "rank 2 needs" in refused(evaluate, asked, tmp_path, stage="views", rank=2, world_size=2)
