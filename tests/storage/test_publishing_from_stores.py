"""A version that goes from an object store to the Hub through a small local folder."""

import hashlib
import json

import pytest
from generations import digests
from loopback_hub import run_python

PUBLISH = """
import json, sys, tempfile
from pathlib import Path

import fsspec
from huggingface_hub import HfApi

from sgdmix_hub import publish_dataset
from sgdmix_hub.errors import UserError
from sgdmix_hub.hub import push, staging
from sgdmix_hub.settings.programs import PublishSettings

output, repo_id = sys.argv[1:]
tempfile.tempdir = tempfile.mkdtemp()
push.BYTES_AT_ONCE = staging.COMMIT_FILES = 1
files = fsspec.filesystem("memory")
files.put(f"{output}/repo", "/bucket/run/repo", recursive=True)
here, upload = [], HfApi.preupload_lfs_files

def watched(self, *words, **options):
    shards = list(Path(tempfile.tempdir).rglob("train-*.parquet"))
    here.append(len(shards))
    return upload(self, *words, **options)

HfApi.preupload_lfs_files = watched

def publish(repo_id, folder="memory://bucket/run"):
    settings = PublishSettings(
        folder=folder, hub_dataset_id=repo_id, tag="v1.0.0", allow_local_inputs=True
    )
    settings.validate()
    try:
        publish_dataset.main(settings)
    except UserError as error:
        return str(error)

said = [publish(repo_id), publish(repo_id), publish(repo_id + "-repo", "memory://bucket/run/repo")]
(shard,) = [name for name in files.find("/bucket/run") if "train-00001" in name]
content = bytearray(files.cat_file(shard))
content[len(content) // 2] ^= 1
files.pipe_file(shard, bytes(content))
said += [publish(repo_id), publish(repo_id + "-other"), publish(repo_id, "memory://bucket/nothing")]
left = [str(path) for path in Path(tempfile.tempdir).glob("*/*")]
print(json.dumps([said, here, left]))
"""


@pytest.mark.slow
def test_a_version_in_a_store_is_published_as_one_on_a_disk(hub, first_version):
    done = run_python(hub, PUBLISH, first_version, "birds/from-a-store")
    assert done.returncode == 0, done.stderr
    said, shards_here, left = json.loads(done.stdout.splitlines()[-1])
    *fine, same, damaged, nothing = said
    assert fine == [None, None, None]
    assert same is None, "the version is there already, and a version never changes"
    assert "train-00001" in damaged and "--stage finish" in damaged
    assert "holds no finished generation" in nothing
    assert max(shards_here) == 1 and left == []
    local = digests(first_version / "repo")
    for repo_id in ("birds/from-a-store", "birds/from-a-store-repo"):
        published = hub.content("dataset", repo_id, "v1.0.0")
        assert {
            name: hashlib.sha256(content).hexdigest()
            for name, content in published.items()
            if name not in ("README.md", ".gitattributes")
        } == {name: digest for name, digest in local.items() if name != "README.md"}
    assert "v1.0.0" not in hub.repository("dataset", "birds/from-a-store-other").tags
