"""A generation in an object store, by workers that share nothing but the store: the bytes of one
process on one disk, whatever the store and whoever starts and stops the workers do.
"""

import json
import random
import tempfile
from functools import partial

import fsspec
import pytest
import unreliable
from fsspec.implementations.memory import MemoryFileSystem
from generations import digests, flip
from stored_runs import change, place, stored, work

from sgdmix_hub import augment
from sgdmix_hub.errors import UserError
from sgdmix_hub.files import sealed, write_json
from sgdmix_hub.generation import published_files, row_store
from sgdmix_hub.generation.claims import claims, neighbours_first, order_of
from sgdmix_hub.output_folder import OutputFolder
from sgdmix_hub.publishing.parquet import files_of
from sgdmix_hub.runtime.stopping import lock_folder
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.storage import objects
from sgdmix_hub.storage.scratch import local_folder
from sgdmix_hub.storage.stores import StoredFile, store_of

SHARDS = 8


@pytest.fixture(autouse=True)
def waits_are_short(monkeypatch):
    monkeypatch.setattr(objects, "WAITS", (0.0,) * 8)


# ---- which work a worker takes ----


@pytest.mark.parametrize("world_size", [1, 3, 7])
def test_workers_that_all_live_make_every_piece_once(world_size):
    done: set[int] = set()
    takers = [
        claims(20, rank, world_size, lambda: set(done), done.__contains__)
        for rank in range(world_size)
    ]
    made = []
    while takers:
        for taker in list(takers):
            piece = next(taker, None)
            if piece is None:
                takers.remove(taker)
            else:
                made.append(piece)
                done.add(piece)
    assert sorted(made) == list(range(20))


def test_a_worker_that_hangs_makes_nothing_again_but_what_it_has_in_hand():
    done: set[int] = set()
    straggler = claims(20, 0, 3, lambda: set(done), done.__contains__)
    in_hand = next(straggler)
    for rank in (1, 2):
        for piece in claims(20, rank, 3, lambda: set(done), done.__contains__):
            done.add(piece)
    assert done == set(range(20)), "the others have taken over its share, and what it has in hand"
    assert in_hand in done and next(straggler, None) is None


def test_one_worker_of_many_makes_everything_and_its_own_share_first():
    for rank in range(7):
        order = order_of(20, rank, 7)
        assert sorted(order) == list(range(20))
        assert order[: len(range(rank, 20, 7))] == list(range(rank, 20, 7))
    assert len({tuple(order_of(20, rank, 7)) for rank in range(7)}) == 7


@pytest.mark.parametrize("count, world_size", [(20, 7), (3, 7), (21, 1)])
def test_shares_of_neighbours_are_runs_that_cover_everything(count, world_size):
    orders = [neighbours_first(count, rank, world_size) for rank in range(world_size)]
    assert all(sorted(order) == list(range(count)) for order in orders)
    starts = [rank * count // world_size for rank in range(world_size + 1)]
    own = [order[: starts[r + 1] - starts[r]] for r, order in enumerate(orders)]
    assert [piece for share in own for piece in share] == list(range(count))
    jumps = [sum(abs(b - a) > 1 for a, b in zip(o[:-1], o[1:], strict=True)) for o in orders]
    assert max(jumps) < world_size, "one for every other worker's share"


# ---- the same bytes ----


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 3])
def test_stages_by_workers_leave_the_bytes_of_one_process(world_size, settings, reference, url):
    """The last workers never come: the others make their shares."""
    for rank in range(max(1, world_size - 1)):
        work(settings, url, "maps", rank=rank, world_size=world_size)
    work(settings, url, "plan")
    for rank in range(max(1, world_size - 1)):
        work(settings, url, "shards", rank=rank, world_size=world_size)
    if world_size > 1:
        work(settings, url, "files", rank=1, world_size=world_size)
        assert "sgdmix/default/manifest.json" not in stored(url), "not complete yet"
    work(settings, url, "finish")
    assert stored(url) == reference
    before = stored(url, "state")
    work(settings, url, "all", verify=True)
    assert stored(url, "state") == before, "a finished run is left alone"


@pytest.mark.slow
def test_one_command_does_all_stages_in_a_store_too(settings, reference, url):
    work(settings, url)
    assert stored(url) == reference


@pytest.mark.slow
def test_files_of_several_shards_are_those_of_a_disk(settings, url, tmp_path, monkeypatch):
    limited = partial(files_of, file_bytes=70_000)
    monkeypatch.setattr(published_files, "files_of", limited)
    work(settings, tmp_path / "run")
    work(settings, url)
    reference = digests(tmp_path / "run" / "repo")
    assert stored(url) == reference
    assert 1 < sum(name.endswith(".parquet") for name in reference) < SHARDS


@pytest.mark.slow
def test_large_maps_are_read_block_by_block_and_checked(settings, reference, url, monkeypatch):
    monkeypatch.setattr(row_store, "WHOLE_BYTES", 0)
    work(settings, url, "plan")
    work(settings, url, "shards")
    work(settings, url, "finish")
    assert stored(url) == reference
    (maps,) = (name for name in stored(url, "state") if name.endswith("values.npy"))
    change(url, f"state/{maps}", seed=1)
    fsspec.filesystem("memory").rm(place(url, "repo/sgdmix/default/manifest.json"))
    with pytest.raises(UserError, match=r"values\.npy is torn"):
        work(settings, url, "finish")


@pytest.mark.slow
def test_workers_share_a_folder_without_a_lock(settings, reference, tmp_path):
    output = tmp_path / "run"
    work(settings, output, "plan")
    state = output / "state"
    write_json(state / "error-shards-1.json", {"exit_code": 2, "message": "of another worker"})
    with lock_folder(state):
        for rank in (2, 0):
            work(settings, output, "shards", rank=rank, world_size=3)
    work(settings, output, "finish")
    assert digests(output / "repo") == reference
    assert (state / "error-shards-1.json").exists() and not (state / "error.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 3, 7])
def test_kills_and_a_bad_store_change_no_byte(world_size, settings, reference, url, monkeypatch):
    """Listings lack objects, requests fail, writes come twice, and workers die while they write."""
    bad = url.replace("memory", "unreliable")
    monkeypatch.setenv("UNRELIABLE_SEED", str(world_size))
    monkeypatch.setenv("UNRELIABLE_KILLS", "0.08")
    rng = random.Random(world_size)

    def survive(stage: str, **more) -> int:
        for kills in range(50):
            try:
                work(settings, bad, stage, **more)
            except unreliable.Killed:
                monkeypatch.setenv("UNRELIABLE_SEED", str(rng.random()))
                if stage == "shards":  # another one goes on
                    more["rank"] = rng.randrange(world_size)
                continue
            return kills
        raise AssertionError("no worker came through")

    kills = survive("maps", rank=0, world_size=world_size)
    kills += survive("plan")
    kills += survive("shards", rank=world_size - 1, world_size=world_size)
    for _ in range(10):
        try:
            kills += survive("finish")
            break
        except UserError as error:  # of a late listing: it makes nothing that is there again
            assert "are not finished" in str(error)
            kills += survive("shards", rank=0, world_size=world_size)
    assert kills > 0
    assert stored(url) == reference


# ---- damage ----


@pytest.mark.slow
def test_damage_in_a_store_is_found_by_its_hash_and_made_again(
    settings, stages_made, reference, url, capsys
):
    stages_made(url, "plan", "shards")
    change(url, "state/plan.parquet")
    change(url, "state/shards/shard-00002.json")
    change(url, "state/shards/shard-00003-")
    with pytest.raises(UserError, match="--stage plan"):
        work(settings, url, "finish")
    work(settings, url, "plan")
    after = "run the same command with --stage shards, then with --stage finish"
    with pytest.raises(UserError, match=rf"1 of 8 shards are not finished \(2\): {after}"):
        work(settings, url, "finish")
    work(settings, url, "shards")
    with pytest.raises(UserError, match=f"shard-00003-.* is torn .*: {after}"):
        work(settings, url, "finish")
    work(settings, url, "shards")
    work(settings, url, "finish")
    assert stored(url) == reference
    told = capsys.readouterr().out
    assert f"{url}/state/plan.parquet is torn" in told and "sgdmix_hub-" not in told


@pytest.mark.slow
def test_the_line_about_a_damaged_shard_names_the_command_that_helps(settings, reference, tmp_path):
    """On a shared disk too, and to a worker that makes files; a run that is no stage makes it."""
    output = tmp_path / "run"
    for stage in ("plan", "shards"):
        work(settings, output, stage)
    flip(output / "state" / "shards" / "shard-00003.parquet", 0)
    with pytest.raises(
        UserError, match=r"shard-00003\.parquet is torn .* with --stage shards, then"
    ):
        work(settings, output, "finish")
    (output / "state" / "shards" / "shard-00002.parquet").unlink()
    with pytest.raises(UserError, match=r"\(2, 3\): run .* with --stage shards, then"):
        work(settings, output, "finish")
    work(settings, output, "shards")
    work(settings, output, "finish")
    assert digests(output / "repo") == reference


@pytest.mark.slow
def test_a_stored_file_that_changed_is_made_again_as_its_line_says(settings, reference, url):
    work(settings, url)
    output, store = OutputFolder(local_folder(url)), store_of(url)
    damage = str(
        StoredFile(store, output.repo / "data" / "train-00003-of-00008.parquet", 1, "").damage
    )
    assert "remove it and, if it is there, repo/sgdmix/*/manifest.json, then" in damage
    for start in ("repo/data/train-00003", "repo/sgdmix/default/manifest.json"):
        fsspec.filesystem("memory").rm(place(url, start))
    work(settings, url, "finish")
    assert stored(url) == reference


@pytest.mark.slow
def test_a_run_that_is_written_down_nowhere_begins_with_its_plan(settings, reference, url):
    for stage in ("plan", "shards"):
        work(settings, url, stage)
    names = ("state/run.json", "state/plan.json")
    for name in names:
        change(url, name)
    with pytest.raises(UserError, match="remove both and plan.parquet, .* with --stage plan"):
        work(settings, url, "finish")
    for name in (*names, "state/plan.parquet"):
        fsspec.filesystem("memory").rm(place(url, name))
    before = stored(url, "state/shards")
    work(settings, url, "plan")
    work(settings, url, "finish")
    assert stored(url) == reference and stored(url, "state/shards") == before


@pytest.mark.slow
def test_the_manifest_is_the_last_object_that_a_store_gets(settings, url):
    """A run that is killed before it is there begins anew; after it, nothing is missing."""
    work(settings, url)
    files = fsspec.filesystem("memory")
    written = {name: files.modified(name) for name in files.find(url.removeprefix("memory:/"))}
    last = max(written, key=lambda name: written[name])
    assert last.endswith("repo/sgdmix/default/manifest.json")


@pytest.mark.slow
def test_verify_reads_every_byte_of_a_store(settings, stages_made, url):
    stages_made(url, "all")
    change(url, "repo/data/train-00003")
    work(settings, url)  # the size is right
    with pytest.raises(UserError, match="train-00003"):
        work(settings, url, verify=True)


@pytest.mark.slow
def test_shards_of_different_devices_are_told(settings, stages_made, url, caplog):
    stages_made(url, "plan", "shards")
    files, name = fsspec.filesystem("memory"), place(url, "state/shards/shard-00001.json")
    record = json.loads(files.cat_file(name))
    record["environment"]["device"] = "another device"
    files.pipe_file(name, json.dumps(sealed(record)).encode())
    work(settings, url, "finish")
    assert "7 on" in caplog.text and "1 on another device" in caplog.text


# ---- what is refused, and what is left ----


@pytest.mark.parametrize(
    "wrong, named",
    [
        ({"output_dir": "s3://key:secret@bucket/run"}, "environment"),
        ({"output_dir": "s3://bucket/run?token=1"}, "environment"),
        ({"output_dir": "file:///tmp/run"}, "the folder itself"),
        ({"output_dir": "hf://datasets/org/name"}, "hf://buckets"),
        ({"output_dir": "s3://"}, "s3://bucket/folder"),
        ({"output_dir": "s3://bucket/../run"}, ".."),
        ({"output_dir": "nothing://bucket/run"}, "nothing"),
        ({"output_dir": "s3://[bucket/run"}, "s3://bucket/folder"),
        ({"output_dir": "s3://bucket/run::file:///etc"}, "::"),
        ({"stage": "shards", "rank": 3, "world_size": 3}, "world_size"),
        ({"stage": "plan", "world_size": 3}, "--stage shards"),
        ({"stage": "plan", "dry_run": True}, "--stage"),
        ({"saliency_dir": "maps"}, "saliency_dir"),
        ({"stage": "shards"}, "--stage plan first"),
        ({"stage": "finish"}, "--stage plan first"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(wrong, named, settings, url):
    with pytest.raises(UserError, match=named) as refused:
        augment.main(AugmentSettings(**settings | {"output_dir": url} | wrong))
    assert "secret" not in str(refused.value)


def test_a_store_that_never_answers_ends_in_one_line(settings, monkeypatch):
    monkeypatch.setattr(unreliable.Unreliable, "_may_fail", lambda self: 1 / 0)
    with pytest.raises(UserError, match="run the same command again"):
        work(settings, "unreliable://bucket/run")


def test_other_programs_refuse_a_store():
    from sgdmix_hub.settings.training import ClassifierSettings

    with pytest.raises(UserError, match="only sgdmix augment and sgdmix evaluate write"):
        ClassifierSettings(dataset_name="a/b", output_dir="s3://bucket/run").validate()


@pytest.mark.slow
def test_scratch_is_bounded_and_gone_at_the_end(settings, url, monkeypatch, tmp_path):
    """A worker keeps no shard that it has stored."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    shards_here, put = [], MemoryFileSystem.put_file

    def watched(self, lpath, rpath, **options):
        shards_here.append(len(list(tmp_path.rglob("*.parquet"))))
        put(self, lpath, rpath, **options)

    monkeypatch.setattr(MemoryFileSystem, "put_file", watched)
    work(settings, url)
    (scratch,) = tmp_path.glob("sgdmix_hub-*")
    assert max(shards_here) <= 3, "the plan, a shard, and a file of several shards"
    assert list(scratch.iterdir()) == [] and scratch.stat().st_mode & 0o077 == 0
