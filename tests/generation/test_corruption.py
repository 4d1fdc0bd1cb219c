"""One flipped bit in each kind of file that a run leaves and reads again: none passes, each is
named, and what can be is made again.
"""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from generations import digests, flip, manifest_of, shards_of, tiny_run
from rowstores import many_rows

from sgdmix_hub import augment
from sgdmix_hub.data.splits import load_split
from sgdmix_hub.errors import UserError
from sgdmix_hub.files import DamagedFile, read_sealed, write_sealed
from sgdmix_hub.generation.plan_file import PLAN, RECORD, RUN, PlanFile, begun_run, has_begun
from sgdmix_hub.generation.repository import is_complete
from sgdmix_hub.generation.row_blocks import BLOCK_ROWS
from sgdmix_hub.generation.row_store import compute_rows
from sgdmix_hub.generation.saliency_maps import compute_maps
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.output_folder import OutputFolder
from sgdmix_hub.publishing.read import load_published
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.presets import apply_preset

FLIPS = range(16)
FEW_FLIPS = range(0, 16, 5)  # of whole runs
SHARDS = 16


def empty(path: Path) -> None:
    """What a power cut leaves of a file whose name was written before its content."""
    with open(path, "r+b") as file:
        file.truncate(0)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """8 images, 2 variants, a shard a row."""
    folder = tmp_path_factory.mktemp("corruption") / "birds"
    output = {"output_dir": str(folder.parent / "reference")}
    return tiny_run(folder, rows_per_shard=1) | output


@pytest.fixture(scope="module")
def reference(settings):
    """The output folder of a run that nothing happened to."""
    augment.main(AugmentSettings(**settings))
    return Path(settings["output_dir"])


@pytest.fixture
def finished(reference, tmp_path):
    return shutil.copytree(reference, tmp_path / "run")


@pytest.fixture
def unfinished(finished):
    """The same, without repo/: a run that goes on reads all of state/."""
    shutil.rmtree(finished / "repo")
    return finished


def run_again(settings: dict, output: Path, **more) -> None:
    augment.main(AugmentSettings(**settings | {"output_dir": str(output)} | more))


def store(output: Path) -> Path:
    (folder,) = (output / "state" / "saliency").iterdir()
    return folder


# ---- state/ ----


@pytest.mark.slow
@pytest.mark.parametrize("seed", FEW_FLIPS)
def test_flipped_state_is_named_and_made_again_to_the_same_bytes(
    seed, settings, reference, unfinished, capsys
):
    """One bit in the plan, in run.json, in the maps or in their record, in a shard, and in the
    record of another: all at once.
    """
    state = unfinished / "state"
    shard, record = (f"shard-{number:05d}" for number in (seed % SHARDS, (seed + 5) % SHARDS))
    maps = store(unfinished) / ("values.npy" if seed % 2 else "unusable.json")
    damaged = [
        state / PLAN,
        state / RUN,
        maps,
        state / "shards" / f"{shard}.parquet",
        state / "shards" / f"{record}.json",
    ]
    kept = {
        path: path.stat().st_mtime_ns
        for path in (state / "shards").glob("*.parquet")
        if path.stem not in (shard, record)
    }
    for path in damaged:
        flip(path, seed)
    run_again(settings, unfinished)
    told = capsys.readouterr().out
    assert all(f"{path} is torn or was changed" in told for path in damaged), told
    assert told.count("is torn or was changed") == len(damaged) + ("block-00000.npy" in told)
    assert digests(unfinished / "repo") == digests(reference / "repo")
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [
        (PLAN, "values.npy", "shard-00003.parquet"),
        (RECORD, "unusable.json", "shard-00003.json"),
        (RUN,),
    ],
)
def test_empty_state_is_named_and_made_again_to_the_same_bytes(
    names, settings, reference, unfinished, capsys
):
    paths = [path for name in names for path in (unfinished / "state").rglob(name)]
    assert len(paths) == len(names)
    for path in paths:
        empty(path)
    run_again(settings, unfinished)
    told = capsys.readouterr().out
    assert all(f"{path} is torn or was changed" in told for path in paths), told
    assert digests(unfinished / "repo") == digests(reference / "repo")


@pytest.mark.slow
@pytest.mark.parametrize("seed", FLIPS)
def test_flipped_record_of_the_plan_costs_no_shard(seed, settings, unfinished, capsys):
    state = unfinished / "state"
    flip(state / RECORD, seed)
    assert has_begun(state) and PlanFile(OutputFolder(state.parent)).settle()
    assert f"{state / RECORD} is torn or was changed" in capsys.readouterr().out
    assert read_sealed(state / RECORD)["run"] == begun_run(state)
    assert shards_of(unfinished, 1).unfinished() == []


@pytest.mark.slow
def test_a_plan_that_cannot_be_made_again_as_it_was_is_refused_and_costs_no_shard(
    settings, unfinished
):
    state = unfinished / "state"
    flip(state / PLAN, 0)
    plan = PlanFile(OutputFolder(state.parent))
    assert not plan.settle()
    with pytest.raises(UserError, match="another plan"):
        plan.put(lambda path: path.write_bytes(b"another"))
    assert len(list((state / "shards").glob("shard-*.json"))) == SHARDS
    assert not (state / PLAN).exists()


@pytest.mark.slow
def test_a_run_that_is_written_down_nowhere_is_refused(settings, unfinished):
    state = unfinished / "state"
    flip(state / RUN, 0)
    flip(state / RECORD, 1)
    with pytest.raises(UserError, match=f"{RUN} and its copy in {RECORD} are torn"):
        run_again(settings, unfinished)
    for name in (RUN, RECORD, PLAN):  # as the line says
        (state / name).unlink()
    before = {path: path.stat().st_mtime_ns for path in (state / "shards").glob("*.parquet")}
    run_again(settings, unfinished)
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
@pytest.mark.parametrize("seed", FLIPS)
def test_a_dry_run_names_a_flipped_plan_and_touches_nothing(seed, settings, unfinished, capsys):
    plan = unfinished / "state" / PLAN
    flip(plan, seed)
    assert not PlanFile(OutputFolder(plan.parents[1])).is_whole()
    assert f"{plan} is torn or was changed" in capsys.readouterr().out and plan.exists()


def test_every_single_flip_of_a_sealed_json_is_found(tmp_path):
    values = {
        "rows": 3,
        "skipped": [{"reason": "bl\u00e4nk", "source_index": 7}],
        "seconds": 0.25,
        "none": None,
    }
    path = tmp_path / "sealed.json"
    write_sealed(path, values)
    assert read_sealed(path) == values
    whole = path.read_bytes()
    for bit in range(len(whole) * 8):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(DamagedFile, match="sealed.json") as found:
            read_sealed(path)
    there = pickle.loads(pickle.dumps(found.value))  # on the other ranks
    assert (str(there), there.path) == (str(found.value), path)


@pytest.mark.parametrize("seed", FLIPS)
def test_only_the_changed_block_of_merged_values_is_made_again(seed, source_rows, tmp_path, capsys):
    data = many_rows(tmp_path / "data", source_rows, 2 * BLOCK_ROWS + 5)
    split = load_split(
        AugmentSettings(dataset_name=str(data), output_dir="unused", strength=0),
        resolve(str(data), "dataset"),
    )
    made = []

    def prepare():
        return lambda rows: (
            made.append(int(rows[0])) or np.repeat(rows[:, None], 40, axis=1).astype(np.float32),
            {},
        )

    folder = tmp_path / "store"
    compute_rows(folder, split, prepare, 0, 1)
    whole = (folder / "values.npy").read_bytes()
    flip(folder / "values.npy", seed)
    made.clear()
    compute_rows(folder, split, prepare, 0, 1)
    assert f"{folder / 'values.npy'} is torn or was changed" in capsys.readouterr().out
    assert (folder / "values.npy").read_bytes() == whole
    assert len(made) <= 1
    assert not list(folder.glob("*.npy.*"))


@pytest.mark.slow
def test_a_flipped_trust_test_is_named_and_made_again(birds, classifier, tmp_path, capsys):
    asked = AugmentSettings(
        dataset_name=str(birds),
        output_dir=str(tmp_path),
        classifier=str(classifier),
        saliency_method="grad-cam",
        strength=0.0,
    )
    split, pin = load_split(asked, resolve(str(birds), "dataset")), resolve(str(classifier))
    found = compute_maps(apply_preset(asked), split, pin, 0, 1, torch.device("cpu")).trust
    (path,) = tmp_path.rglob("trust.json")
    whole = path.read_bytes()
    flip(path, 0)
    assert compute_maps(apply_preset(asked), split, pin, 0, 1, torch.device("cpu")).trust == found
    assert f"{path} is torn or was changed" in capsys.readouterr().out
    assert path.read_bytes() == whole


# ---- repo/ ----


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "data/train-00003-of-00016.parquet",
        "sgdmix/default/plan.parquet",
        "sgdmix/default/config.yaml",
        "assets/contact_sheet.png",
        "sgdmix/default/manifest.json",
    ],
)
def test_flipped_files_of_a_finished_repository_are_found_by_verify(name, settings, finished):
    asked = apply_preset(
        AugmentSettings(**settings | {"output_dir": str(finished), "verify": True})
    )
    pins = manifest_of(finished)["pins"]
    path = finished / "repo" / name
    whole = path.read_bytes()
    assert is_complete(OutputFolder(finished), asked, pins)
    for seed in FLIPS:
        flip(path, seed)
        with pytest.raises(UserError, match=f"is damaged .*{name}"):
            is_complete(OutputFolder(finished), asked, pins)
        path.write_bytes(whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "data/train-00003-of-00016.parquet",
        "sgdmix/default/plan.parquet",
        "sgdmix/default/config.yaml",
        "assets/contact_sheet.png",
        "sgdmix/default/manifest.json",
    ],
)
def test_flipped_files_of_a_published_version_are_not_loaded(name, finished):
    path = finished / "repo" / name
    whole = path.read_bytes()
    for seed in FLIPS:
        flip(path, seed)
        with pytest.raises(UserError, match=name):
            load_published(str(finished / "repo"))
        path.write_bytes(whole)


@pytest.mark.slow
def test_verify_names_every_damaged_file_and_a_rerun_makes_it_again(settings, reference, finished):
    run_again(settings, finished, verify=True)
    names = ["data/train-00003-of-00016.parquet", "sgdmix/default/plan.parquet"]
    for name in names:
        flip(finished / "repo" / name, 0)
    run_again(settings, finished)  # by the sizes all is well
    with pytest.raises(UserError) as refused:
        run_again(settings, finished, verify=True)
    assert all(name in str(refused.value) for name in names)
    assert "remove that folder" in str(refused.value)
    shutil.rmtree(finished / "repo")
    run_again(settings, finished)
    assert digests(finished / "repo") == digests(reference / "repo")


@pytest.mark.slow
def test_a_flipped_checksum_of_the_manifest_is_named(settings, finished):
    flip(OutputFolder(finished).finished, 0)
    with pytest.raises(UserError, match=OutputFolder(finished).finished.name):
        run_again(settings, finished)
