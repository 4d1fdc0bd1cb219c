"""Numbered files in subfolders: none holds more than the Hub and shared disks take well."""

import shutil
from collections import Counter

import numpy as np
import pytest
from generations import digests, shards_of, tiny_run

from sgdmix_hub import augment
from sgdmix_hub.errors import UserError
from sgdmix_hub.generation import numbered
from sgdmix_hub.generation.numbered import PER_FOLDER, Numbered
from sgdmix_hub.output_folder import OutputFolder
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.storage.scratch import local_folder
from sgdmix_hub.storage.stores import HERE, store_of

MOST_FILES = 10_000
SHARDS, OF_A_FOLDER = 16, 3  # so that a small run has many


@pytest.mark.parametrize("count", [1, PER_FOLDER, PER_FOLDER + 1, 50_782])
def test_no_folder_holds_too_many(count, tmp_path):
    """50,782: the shards of 6.5 million rows."""
    files = Numbered(tmp_path, count)
    suffixes = (".parquet", ".json")
    paths = [files.path(n, f"shard-{n:05d}{end}") for n in range(count) for end in suffixes]
    assert max(Counter(path.parent for path in paths).values()) <= MOST_FILES
    assert len(set(paths)) == 2 * count
    if count <= PER_FOLDER:
        assert {path.parent for path in paths} == {tmp_path}, "as earlier versions have it"
    for path in paths[::997]:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / ".shard-00000.json.1@host.tmp").touch()
    assert set(files.paths(HERE)) == set(paths[::997])
    assert files.numbers(HERE, ".json") == {
        int(path.stem[6:]) for path in paths[::997] if path.suffix == ".json"
    }


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("numbered") / "birds", rows_per_shard=1)


@pytest.fixture(scope="module")
def flat(settings, tmp_path_factory):
    """A finished run that keeps all shards in one folder."""
    output = tmp_path_factory.mktemp("flat") / "run"
    augment.main(AugmentSettings(**settings, output_dir=str(output)))
    return output


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(numbered, "PER_FOLDER", OF_A_FOLDER)


def folders_of(output) -> set[str]:
    return {path.parent.name for path in (output / "state/shards").rglob("shard-*")}


SUBFOLDERS = {f"{number:04d}" for number in range(-(-SHARDS // OF_A_FOLDER))}


@pytest.mark.slow
def test_a_run_with_many_shards_resumes_and_publishes_the_same_bytes(
    settings, flat, few, tmp_path, capsys
):
    output = tmp_path / "run"
    run = AugmentSettings(**settings, output_dir=str(output))
    augment.main(run)
    assert folders_of(output) == SUBFOLDERS
    assert digests(output / "repo") == digests(flat / "repo")
    shutil.rmtree(output / "repo")
    shards = shards_of(output, 1)
    shards.record_path(4).unlink()
    shards.path(11).write_bytes(b"torn")
    kept = {n: shards.path(n).stat().st_mtime_ns for n in range(SHARDS) if n not in (4, 11)}
    capsys.readouterr()
    augment.main(run)
    assert capsys.readouterr().out.count("is torn or was changed") == 1
    assert digests(output / "repo") == digests(flat / "repo")
    assert kept == {n: shards.path(n).stat().st_mtime_ns for n in kept}


@pytest.mark.slow
@pytest.mark.parametrize("moved", [0, 1, SHARDS + 1])
def test_a_run_that_an_earlier_version_began_resumes(settings, flat, few, moved, tmp_path):
    """`moved`: files that a killed attempt to resume it has moved already."""
    output = shutil.copytree(flat, tmp_path / "run")
    shutil.rmtree(output / "repo")
    shards = output / "state/shards"
    before = {path.name: path.stat().st_mtime_ns for path in shards.iterdir()}
    for path in sorted(shards.iterdir(), reverse=True)[:moved]:
        target = Numbered(shards, SHARDS).path(int(path.stem[6:]), path.name)
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
    augment.main(AugmentSettings(**settings, output_dir=str(output)))
    assert {path.name: path.stat().st_mtime_ns for path in shards.rglob("shard-*")} == before
    assert folders_of(output) == SUBFOLDERS
    assert digests(output / "repo") == digests(flat / "repo")


def test_a_store_with_shards_of_an_earlier_version_is_refused(few, tmp_path):
    url = f"memory://{tmp_path.name}/run"
    output, store = OutputFolder(local_folder(url)), store_of(url)
    files = Numbered(output.shards, SHARDS)
    files.settle(store)
    store.objects.files.pipe_file(f"{store.objects.root}/state/shards/shard-00003.json", b"{}")
    with pytest.raises(UserError, match="1 files of an earlier version"):
        files.settle(store)
    Numbered(output.shards, OF_A_FOLDER).settle(store)  # a run with few


@pytest.mark.slow
def test_maps_of_many_images_lie_in_subfolders_too(settings, few, tmp_path, monkeypatch):
    """Blocks of two images, three of them a folder: a worker of the stage makes them, the plan
    merges them, and the maps are those of one folder.
    """
    monkeypatch.setattr("sgdmix_hub.generation.row_blocks.BLOCK_ROWS", 2)
    values = []
    for of_a_folder in (OF_A_FOLDER, 100):
        monkeypatch.setattr(numbered, "PER_FOLDER", of_a_folder)
        output = tmp_path / f"run-{of_a_folder}"
        for stage in ("maps", "plan"):
            augment.main(AugmentSettings(**settings, output_dir=str(output), stage=stage))
        (folder,) = (output / "state/saliency").iterdir()
        blocks = {path.parent.name for path in folder.rglob("block-*.json")}
        assert blocks == ({"0000", "0001"} if of_a_folder == OF_A_FOLDER else {folder.name})
        values.append(np.load(folder / "values.npy"))
    assert np.array_equal(*values)
