"""A version with too many files for one commit: whole and in one step for everybody who looks, in
commits of bounded size for the Hub.
"""

import json

import pytest
from loopback_hub import run_python
from published_versions import history, local_files, pushed, repository

PUBLISH = """
import json, os, sys

from huggingface_hub import HfApi

from sgdmix_hub.errors import UserError
from sgdmix_hub.hub import staging
from sgdmix_hub.publishing.versions import publish_version
from sgdmix_hub.settings.programs import PublishSettings

output, repo_id, tag, branch, dies_at, kind = sys.argv[1:]
staging.COMMIT_FILES = 1
commits, create_commit = [], HfApi.create_commit

def watched(self, repo_id, operations, **options):
    number = len(commits)
    if number == int(dies_at) and kind == "before":
        os._exit(9)
    made = create_commit(self, repo_id, operations, **options)
    commits.append([options["revision"], sorted(type(each).__name__ for each in operations)])
    if number == int(dies_at):
        os._exit(9)
    return made

HfApi.create_commit = watched
settings = PublishSettings(
    folder=output, hub_dataset_id=repo_id, tag=tag, hub_branch=branch, allow_local_inputs=True
)
pin = publish_version(output, settings, 0.01)
print(json.dumps(commits))
"""
NEVER = -1


def publish(hub, output, repo_id, tag="v1.0.0", branch="main", dies_at=NEVER, kind="before"):
    done = run_python(hub, PUBLISH, output, repo_id, tag, branch, dies_at, kind)
    if dies_at != NEVER:
        assert done.returncode == 9, done.stderr
        return None
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def shards(first_version):
    return sorted(path.name for path in first_version.glob("repo/data/train-*"))


@pytest.mark.slow
def test_a_large_version_becomes_visible_in_one_commit(hub, first_version, second_version, shards):
    repo_id = "birds/large"
    commits = publish(hub, first_version, repo_id)
    staging = "sgdmix-staging-v1.0.0"
    assert commits[:-1] == [[staging, ["CommitOperationAdd"]]] * len(shards)
    branch, operations = commits[-1]
    assert branch == "main" and operations.count("CommitOperationCopy") == len(shards)
    twin = repository(hub, repo_id)
    version, initial = history(hub, repo_id)
    assert initial.parent is None and twin.tags == {"v1.0.0": version.oid}
    assert list(twin.branches) == ["main"], "the staging branch is deleted"
    assert pushed(hub, repo_id, "v1.0.0") == local_files(first_version)
    assert publish(hub, first_version, repo_id) == []
    publish(hub, second_version, repo_id, tag="v1.1.0")
    assert pushed(hub, repo_id, "v1.1.0") == local_files(second_version), "old shards are removed"
    assert [commit.oid for commit in history(hub, repo_id)][1:] == [version.oid, initial.oid]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["before", "after"])
@pytest.mark.parametrize("dies_at", [0, 1, 3])
def test_a_killed_publication_shows_nothing_and_continues(
    hub, first_version, shards, dies_at, kind
):
    assert len(shards) == 3, "the fourth commit makes the version visible"
    repo_id = f"birds/killed-{kind}-{dies_at}"
    publish(hub, first_version, repo_id, dies_at=dies_at, kind=kind)
    twin = repository(hub, repo_id)
    assert twin.tags == {}
    if (dies_at, kind) == (3, "after"):
        assert pushed(hub, repo_id) == local_files(first_version)
    else:
        assert pushed(hub, repo_id) == {}
    made = dies_at + (kind == "after")
    staged = history(hub, repo_id, "sgdmix-staging-v1.0.0")
    assert len(staged) == 1 + min(made, len(shards))
    commits = publish(hub, first_version, repo_id)
    assert len(commits) == max(len(shards) + 1 - made, 0), "nothing is staged twice"
    assert pushed(hub, repo_id, "v1.0.0") == local_files(first_version)
    assert list(twin.branches) == ["main"]


@pytest.mark.slow
def test_a_large_version_on_a_branch_leaves_main_alone(hub, first_version):
    repo_id = "birds/large-next"
    publish(hub, first_version, repo_id, branch="next")
    twin = repository(hub, repo_id)
    assert len(history(hub, repo_id)) == 1 and set(twin.branches) == {"main", "next"}
    assert twin.tags == {"v1.0.0": twin.branches["next"]}
    assert pushed(hub, repo_id, "v1.0.0") == local_files(first_version)
