"""What users and strangers do to a run in a store: one line each, and no byte of another run."""

import errno
import hashlib
import json
import platform
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import numpy as np
import pytest
import unreliable
from forking import run_forked
from generations import SCRIPT, arguments, one_line
from launching import launch_environment
from stored_runs import place, stored, work

from sgdmix_hub.errors import UserError
from sgdmix_hub.files import sealed
from sgdmix_hub.generation.shards import Shards
from sgdmix_hub.storage import objects
from sgdmix_hub.storage.scratch import local_folder
from sgdmix_hub.storage.stores import store_of

SECRET = "very-secret-key-of-a-store"


@pytest.fixture(autouse=True)
def waits_are_short(monkeypatch):
    monkeypatch.setattr(objects, "WAITS", (0.0,) * 2)


def rewrite(url: str, start: str, edit) -> None:
    """Replaces a sealed JSON object by an edited one, with a right seal."""
    files, name = fsspec.filesystem("memory"), place(url, start)
    values = json.loads(files.cat_file(name))
    edit(values)
    files.pipe_file(name, json.dumps(sealed(values)).encode())


# ---- places ----


@pytest.mark.slow
@pytest.mark.parametrize("below", ["", "/", "/deep/er/", "/V\u00f6gel \u9ce5", "/100%/a+b&c=d"])
def test_odd_names_of_folders_change_nothing(below, settings, reference, url):
    work(settings, url + below)
    assert stored(url.rstrip("/") + below.rstrip("/")) == reference


@pytest.mark.slow
def test_two_runs_side_by_side_and_one_in_the_other_do_not_meet(settings, reference, url):
    for place_of in (url, f"{url}-2", f"{url}/below"):
        work(settings, place_of, "plan")
    for place_of in (f"{url}/below", url, f"{url}-2"):
        work(settings, place_of)
    assert stored(url) == stored(f"{url}-2") == stored(f"{url}/below") == reference


# ---- other settings, another order ----


@pytest.mark.slow
def test_a_stage_with_other_settings_is_refused_and_touches_nothing(settings, reference, url):
    work(settings, url, "plan")
    work(settings, url, "shards", rank=0, world_size=2)
    before = stored(url, "state")
    # maps are kept by what they depend on, so that stage cannot spoil anything
    for stage in ("plan", "shards", "files", "finish", "all"):
        with pytest.raises(UserError, match="other settings .*seed 0 -> 7"):
            work(settings, url, stage, seed=7)
    assert stored(url, "state") == before
    work(settings, url, "finish")
    assert stored(url) == reference


@pytest.mark.slow
def test_another_number_of_workers_in_every_stage_changes_nothing(settings, reference, url):
    work(settings, url, "maps", rank=2, world_size=3)
    work(settings, url, "plan")
    work(settings, url, "shards", rank=4, world_size=7)
    work(settings, url, "files", rank=1, world_size=2)
    work(settings, url, "shards", rank=0, world_size=100)
    work(settings, url, "maps")
    work(settings, url, "finish")
    work(settings, url, "shards", rank=4, world_size=7)
    assert stored(url) == reference


@pytest.mark.slow
def test_files_and_finish_before_the_shards_are_refused(settings, stages_made, url):
    stages_made(url, "plan")
    for stage in ("files", "finish"):
        with pytest.raises(UserError, match="8 of 8 shards are not finished"):
            work(settings, url, stage)


@pytest.mark.slow
def test_the_state_of_another_version_is_refused(settings, stages_made, url):
    stages_made(url, "plan")
    rewrite(url, "state/run.json", lambda run: run.update(format=1))
    for stage in ("shards", "finish", "all"):
        with pytest.raises(UserError, match="another version of sgdmix_hub"):
            work(settings, url, stage)


# ---- other devices ----


def make_again(settings: dict, url: str, number: int) -> None:
    """Makes a shard as a worker of another device class would: one value differs in its last bit,
    and its record names the device.
    """
    output, store = local_folder(url), store_of(url)
    plan = output / "state" / "plan.parquet"
    store.bring(plan)
    shards = Shards(output / "state" / "shards", plan, settings["rows_per_shard"], store)
    assert shards.is_recorded(number)
    record, table = shards.record(number), shards.table(number)
    rows = table.to_pylist()
    distance = np.nextafter(rows[0]["saliency_distance"], 1, dtype=np.float32)
    rows[0]["saliency_distance"] = float(distance)
    facts = {key: record[key] for key in ("skipped", "seconds")}
    facts["environment"] = record["environment"] | {"device": "another device"}
    shards.write(number, rows, table.schema, facts)


@pytest.mark.slow
@pytest.mark.parametrize("with_files", [False, True])
def test_a_shard_made_again_on_another_device_is_told_and_whole(
    with_files, settings, stages_made, reference, url, caplog
):
    """Whichever record was written last, the published file is the one that it names."""
    stages_made(url, "plan", "shards")
    if with_files:
        work(settings, url, "files")
    make_again(settings, url, 3)
    work(settings, url, "finish")
    assert "7 on" in caplog.text and "1 on another device" in caplog.text
    work(settings, url, "all", verify=True)
    (changed,) = (
        name
        for name, digest in stored(url).items()
        if name.startswith("data/") and reference[name] != digest
    )
    assert "train-00003" in changed
    manifest = json.loads(
        fsspec.filesystem("memory").cat_file(place(url, "repo/sgdmix/default/manifest.json"))
    )
    devices = {made["device"] for made in manifest["environments"]}
    assert devices == {"another device", f"{platform.machine()} cpu"}


# ---- secrets ----


@pytest.mark.slow
def test_a_secret_is_in_no_object_no_line_and_no_error(settings, url, monkeypatch, capfd, caplog):
    for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "AZURE_STORAGE_CONNECTION_STRING"):
        monkeypatch.setenv(name, SECRET)
    work(settings, url)
    files, root = fsspec.core.url_to_fs(url)
    for name in files.find(root):
        assert SECRET.encode() not in files.cat_file(name), name

    def refuse(self):
        raise OSError(f"PUT http://somebody:{SECRET}@store/run?signature={SECRET} failed")

    monkeypatch.setattr(unreliable.Unreliable, "_may_fail", refuse)
    with pytest.raises(UserError, match="AZURE|AWS|HF_TOKEN") as refused:
        work(settings, "unreliable://bucket/run")
    said = capfd.readouterr()
    assert SECRET not in str(refused.value) + said.out + said.err + caplog.text
    assert "somebody" not in str(refused.value)


# ---- no room ----


@pytest.mark.slow
def test_a_full_store_is_told_as_the_store(settings, reference, url, monkeypatch):
    """And once there is room again, the same command does the rest."""
    bad = url.replace("memory", "unreliable")
    monkeypatch.setenv("UNRELIABLE_FAULTS", "0")
    work(settings, bad, "plan")
    put = unreliable.Unreliable.put_file

    def full(self, lpath, rpath, **options):
        if "shard-00004" in rpath:
            raise OSError(errno.ENOSPC, "no space left in the bucket")
        put(self, lpath, rpath)

    with monkeypatch.context() as patched:
        patched.setattr(unreliable.Unreliable, "put_file", full)
        with pytest.raises(UserError, match="unreliable://.*no space left in the bucket"):
            work(settings, bad, "shards")
    work(settings, bad, "shards")
    work(settings, bad, "finish")
    assert stored(url) == reference


# ---- a stranger who may write to the store ----


@pytest.mark.slow
@pytest.mark.parametrize(
    "edit",
    [
        lambda record: record.update(sha256="../../../../" + "a" * 52),
        lambda record: record.update(sha256=hashlib.sha256(b"").hexdigest()),
        lambda record: record.update(plan_sha256="0" * 64),
        lambda record: record.clear(),
        lambda record: record.update(bytes="many"),
        lambda record: record.update(sha256=None),
        lambda record: record.pop("environment"),
        lambda record: record.update(statistics=[]),
    ],
)
def test_a_crafted_record_is_made_again(
    edit, settings, stages_made, reference, url, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    stages_made(url, "plan", "shards")
    rewrite(url, "state/shards/shard-00002.json", edit)
    for _ in range(3):
        try:
            work(settings, url, "finish")
            break
        except UserError as error:
            assert "--stage shards" in str(error) or "made" in str(error) or "makes" in str(error)
            work(settings, url, "shards")
    assert stored(url) == reference
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.slow
def test_a_shard_of_another_content_is_found_by_its_hash(settings, stages_made, reference, url):
    stages_made(url, "plan", "shards")
    files = fsspec.filesystem("memory")
    shard, other = place(url, "state/shards/shard-00002-"), place(url, "state/shards/shard-00003-")
    files.pipe_file(shard, files.cat_file(other))
    with pytest.raises(UserError, match="shard-00002-"):
        work(settings, url, "finish")
    work(settings, url, "shards")
    work(settings, url, "finish")
    assert stored(url) == reference


def test_names_that_lead_out_of_a_folder_are_not_listed(url, tmp_path):
    """An object of a store may be called ../../.bashrc, and listings name what is fetched."""
    files, root = fsspec.core.url_to_fs(url)
    for name in ("repo/README.md", "repo/a/b"):
        files.pipe_file(f"{root}/{name}", b"words")
    for name in ("repo/../../../evil", "repo//evil", "repo/./evil"):
        files.store[f"{root}/{name}"] = files.store[f"{root}/repo/README.md"]
    assert len(files.find(f"{root}/repo")) == 5
    store = objects.Objects(url, tmp_path)
    assert set(store.sizes("repo")) == {"README.md", "a/b"}


class Refusing(BaseHTTPRequestHandler):
    """A Hub that knows nobody, and quotes the token in what it says."""

    def do_GET(self):
        self.send_response(int(self.server.status))
        for name, value in {
            "X-Error-Message": f"unknown: {self.headers['authorization']}",
            "Content-Length": "0",
        }.items():
            self.send_header(name, value)
        self.end_headers()

    do_POST = do_HEAD = do_GET

    def log_message(self, *words):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("status", [401, 403])
def test_a_bucket_of_the_hub_without_access_is_one_line(status, settings):
    """As far as the client goes: it asks for the bucket before anything else."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    server.status = status
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = launch_environment(
        {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_TOKEN": SECRET,
            "HF_HUB_OFFLINE": "0",
        }
    )
    words = arguments(settings | {"output_dir": "hf://buckets/somebody/cub/run"})
    done = run_forked([SCRIPT, *words], environment)
    server.shutdown()
    server.server_close()
    one_line(done, "no access to hf://buckets/somebody/cub/run", "credentials")
    assert SECRET not in done.stdout + done.stderr
