"""A hundred kills of workers in every stage, in three stores: the bytes of one process on a disk,
and nothing else is left. The figures go to the file SOAK_RESULTS.
"""

import hashlib
import os
from pathlib import Path

import fsspec
import pytest
from forking import ROOT
from generations import digests, tiny_run
from launching import launch_environment
from s3_server import s3_environment, s3_server
from served import served_memory
from soaking import STORES, WORLD_SIZES, Figures, Soak, table

from sgdmix_hub import augment
from sgdmix_hub.files import read_json
from sgdmix_hub.settings.generation import AugmentSettings

pytest.importorskip("s3fs", reason="needs the extra s3")
pytest.importorskip("moto", reason="needs moto[server]")
KILLS = 100


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """8 images, 50 variants, 400 shards of one row."""
    folder = tmp_path_factory.mktemp("soak") / "birds"
    return tiny_run(folder, rows_per_shard=1) | {"num_variants": 50}


@pytest.fixture(scope="module")
def reference(settings, tmp_path_factory):
    """repo/ of one process on a disk."""
    output = tmp_path_factory.mktemp("reference") / "run"
    augment.main(AugmentSettings(**settings, output_dir=str(output)))
    return digests(output / "repo")


@pytest.fixture(scope="module")
def names(settings):
    """The names of all objects that undisturbed stages leave in a store."""
    url = "memory://undisturbed/run"
    for stage in ("maps", "plan", "shards", "files", "finish"):
        augment.main(AugmentSettings(**settings, output_dir=url, stage=stage))
    return names_in(fsspec.filesystem("memory"), "undisturbed/run")


def names_in(files: fsspec.AbstractFileSystem, place: str) -> set[str]:
    files.invalidate_cache()
    return {name.lstrip("/").removeprefix(f"{place}/") for name in files.find(place)}


@pytest.fixture(scope="module")
def places():
    """The environments of workers in each of the two filesystems."""
    with s3_server() as endpoint, served_memory() as port:
        yield {"s3": s3_environment(endpoint), "served": {"SERVED": port}}


def client(inner: str, environment: dict, monkeypatch) -> fsspec.AbstractFileSystem:
    """This process's own connection to a filesystem of the workers."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return fsspec.filesystem(inner, skip_instance_cache=True)


def test_the_table_says_which_runs_are_missing():
    results = ROOT / "benchmarks" / "results" / "soak.json"
    rows = read_json(results)["soaks"]
    assert results.with_suffix(".md").read_text() == table(rows), "as the program writes it"
    assert "not: s3 with 7." in table(
        [
            {**rows[0], "store": store, "world_size": world_size}
            for store in STORES
            for world_size in WORLD_SIZES
            if (store, world_size) != ("s3", 7)
        ]
    )


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("store", STORES)
def test_a_hundred_kills_leave_the_bytes_of_one_process_and_nothing_else(
    store, world_size, settings, reference, names, places, tmp_path, monkeypatch
):
    (inner, faults), bucket = STORES[store], f"{store.replace(' ', '-')}-{world_size}"
    files = client(inner, places[inner], monkeypatch)
    if inner == "s3":
        files.mkdir(bucket)
    scratch, logs = tmp_path / "scratch", tmp_path / "logs"
    scratch.mkdir()
    logs.mkdir()
    here = {"TMPDIR": str(scratch), "PYTHONPATH": str(ROOT / "tests" / "support")}
    inside = {"UNRELIABLE": inner, "UNRELIABLE_FAULTS": faults}
    environment = launch_environment(places[inner] | here | inside)
    figures = Figures(store, world_size, seed=world_size)
    soak = Soak(settings, environment, f"unreliable://{bucket}/run", logs, figures)
    soak.run(KILLS)

    assert names_in(files, f"{bucket}/run") == names
    for name, digest in reference.items():
        content = files.cat_file(f"{bucket}/run/repo/{name}")
        assert hashlib.sha256(content).hexdigest() == digest, name
    assert figures.kills >= KILLS and figures.in_writes > KILLS / 20
    assert soak.orphans() == []
    assert list(scratch.glob("sgdmix_hub-*/*")) == []
    if inner == "s3":
        assert not files.call_s3("list_multipart_uploads", Bucket=bucket).get("Uploads")
    if "SOAK_RESULTS" in os.environ:
        figures.add_to(Path(os.environ["SOAK_RESULTS"]))
