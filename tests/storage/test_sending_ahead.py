"""Files that workers send to the Hub before the version is published: nothing is sent twice, nobody
sees them, and the version is the one that is published from a disk.
"""

import hashlib
import json

import pytest
from loopback_hub import run_python

WORKERS = """
import json, sys

import fsspec
from huggingface_hub import HfApi

from sgdmix_hub import augment
from sgdmix_hub.errors import UserError
from sgdmix_hub.hub import push
from sgdmix_hub.settings.generation import AugmentSettings

settings, repo_id, dies_at = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
push.BYTES_AT_ONCE = 1  # a commit a file
sent, commits, upload, create_commit = [], [], HfApi.preupload_lfs_files, HfApi.create_commit

def watched(self, repo_id, additions, **options):
    sent.extend(each.path_in_repo for each in additions if each.path_in_repo.endswith("parquet"))
    return upload(self, repo_id, additions, **options)

def counted(self, repo_id, operations, **options):
    if len(commits) == dies_at:
        commits.append(["died", 0])
        raise RuntimeError("killed")
    before = len(sent)
    made = create_commit(self, repo_id, operations, **options)
    del sent[before:]  # the client asks once more whether it has sent everything
    commits.append([options["revision"], len(operations)])
    return made

HfApi.preupload_lfs_files, HfApi.create_commit = watched, counted

def work(stage, **more):
    asked = AugmentSettings(**settings, output_dir="memory://run", stage=stage, **more)
    asked.validate()
    augment.main(asked)

to_hub = {"push_to_hub": True, "hub_dataset_id": repo_id, "tag": "v1.0.0"}
to_hub |= {"allow_local_inputs": True, "license": "mit"}
work("plan")
work("shards")
try:
    work("files", rank=0, world_size=2, **to_hub)
except RuntimeError:
    pass
after_one = len(sent)
work("files", rank=1, world_size=2, **to_hub)
ahead = list(sent)
work("files", rank=0, world_size=2, **to_hub)
assert sent == ahead, "everything is there"
tags = [ref.name for ref in HfApi().list_repo_refs(repo_id, repo_type="dataset").tags]
shown = HfApi().list_repo_files(repo_id, repo_type="dataset")
sent.clear()
work("finish", license="mit")
work("finish", **to_hub)
work("files", rank=0, world_size=2, **to_hub)
files = fsspec.filesystem("memory")
repo = {name: files.cat_file(name).hex() for name in files.find("/run/repo")}
print(json.dumps([after_one, ahead, tags, shown, sent, commits, repo]))
"""
NEVER = -1
SHARDS = 8


@pytest.mark.slow
@pytest.mark.parametrize("dies_at", [NEVER, 3])
def test_what_workers_have_sent_is_not_sent_again(hub, settings, dies_at):
    repo_id = f"birds/ahead-{dies_at + 1}"
    done = run_python(hub, WORKERS, json.dumps(settings), repo_id, dies_at)
    assert done.returncode == 0, done.stderr
    after_one, ahead, tags, shown, sent, commits, repo = json.loads(done.stdout.splitlines()[-1])
    assert after_one == (SHARDS if dies_at == NEVER else dies_at + 1)
    # what was sent without a commit is sent again: the Hub may have it, but shows it nowhere
    assert len(ahead) == SHARDS + (dies_at != NEVER) and len(set(ahead)) == SHARDS
    assert tags == [] and not [name for name in shown if name.endswith(".parquet")]
    assert [name for name in sent if name.startswith("data/")] == [], "the version only copies"
    staging = [["sgdmix-staging-v1.0.0", 1]] * SHARDS
    assert [each for each in commits if each[0] != "died"][:-1] == staging
    assert commits[-1][0] == "main"
    twin = hub.repository("dataset", repo_id)
    assert list(twin.branches) == ["main"] and list(twin.tags) == ["v1.0.0"]
    made = {
        name.removeprefix("/run/repo/"): hashlib.sha256(bytes.fromhex(content)).hexdigest()
        for name, content in repo.items()
    }
    published = {
        name: hashlib.sha256(content).hexdigest()
        for name, content in hub.content("dataset", repo_id, "v1.0.0").items()
    }
    assert {name: made[name] for name in made if name != "README.md"} == {
        name: published[name] for name in published if name not in ("README.md", ".gitattributes")
    }


TOGETHER = """
import json, sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import fsspec

from sgdmix_hub.files import file_sha256
from sgdmix_hub.hub import push
from sgdmix_hub.hub.client import hub_client
from sgdmix_hub.hub.push import known_contents, prepare_repository
from sgdmix_hub.hub.staging import stage_claimed
from sgdmix_hub.storage.objects import Objects
from sgdmix_hub.storage.stores import ObjectStore, StoredFile

repo_id, folder = sys.argv[1], Path(sys.argv[2])
push.BYTES_AT_ONCE = 1
contents = {f"data/train-{n:05d}-of-00012.parquet": b"%d" % n * 2000 for n in range(12)}
for name, content in contents.items():
    fsspec.filesystem("memory").pipe_file(f"/run/{name}", content)

def worker(rank):
    own = folder / str(rank)
    store = ObjectStore(Objects("memory://run", own / "fetching"), own, False)
    files = {}
    for n in range(12):
        name = list(contents)[(n * 3 + rank * 5) % 12 if rank else n]
        path = own / name
        store.bring(path)
        files[name] = StoredFile(store, path, path.stat().st_size, file_sha256(path))
        store.release(path)
    with hub_client(repo_id, None, 60) as api:
        stage_claimed(api, repo_id, "dataset", files, "staging", "files")
    return True

with hub_client(repo_id, None, 60) as api:
    prepare_repository(api, repo_id, "dataset", False)
with ProcessPoolExecutor(3) as workers:
    assert all(workers.map(worker, range(3)))
with hub_client(repo_id, None, 60) as api:
    held = known_contents(api, repo_id, "dataset", "staging")
print(json.dumps(sorted(name for name in held if name in contents)))
"""


@pytest.mark.slow
def test_workers_that_send_at_the_same_time_lose_nothing(hub, tmp_path):
    done = run_python(hub, TOGETHER, "birds/together", tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout.splitlines()[-1])) == 12
    held = hub.content("dataset", "birds/together", "staging")
    for number in range(12):
        assert held[f"data/train-{number:05d}-of-00012.parquet"] == b"%d" % number * 2000
