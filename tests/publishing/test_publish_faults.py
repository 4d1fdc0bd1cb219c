"""Every request that publishing makes x everything that can go wrong with it -> how it ends.

Whatever happens: the version is tagged and holds exactly its files, or no tag has changed and
`main` is one whole commit ahead at most; the local folder is as it was; and the same command
finishes the work.
"""

import re

import pytest
from generations import digests
from published_versions import data_of, history, local_files, pushed, repository
from publishing import another

FOR_EVER = 10**6
TIMEOUT = 0.6
FAULTS = {
    "500 once": {"status": 500},
    "429 once": {"status": 429, "headers": {"Retry-After": "7"}},
    "cut once": {"cut": True},
    "reply lost": {"lose_reply": True},
    "hangs once": {"delay": 2 * TIMEOUT},
    "500 for ever": {"status": 500, "times": FOR_EVER},
    "cut for ever": {"cut": True, "times": FOR_EVER},
    "replies lost for ever": {"lose_reply": True, "times": FOR_EVER},
    "hangs for ever": {"delay": 2 * TIMEOUT, "times": FOR_EVER},
}
# The requests of a version on top of another one, in their order. `test_these_are_all_requests`
# says when they are others.
REQUESTS = {
    "create": ("POST", "/api/repos/create", 1),
    "info": ("GET", "/api/datasets/{repo_id}", 1),
    "refs": ("GET", "/api/datasets/{repo_id}/refs", 1),
    "tree of the head": ("GET", "/api/datasets/{repo_id}/tree/{oid}", 1),
    "card": ("GET", "/datasets/{repo_id}/resolve/{oid}/README.md", 1),
    "preupload": ("POST", "/api/datasets/{repo_id}/preupload/main", 1),
    "LFS batch": ("POST", "/datasets/{repo_id}.git/info/lfs/objects/batch", 1),
    "LFS upload": ("PUT", "/lfs/{oid}", 5),
    "LFS verify": ("POST", "/datasets/{repo_id}.git/info/lfs/verify", 5),
    "validate": ("POST", "/api/validate-yaml", 1),
    "commit": ("POST", "/api/datasets/{repo_id}/commit/main", 1),
    "tree of the commit": ("GET", "/api/datasets/{repo_id}/tree/{oid}", 2),
    "tag": ("POST", "/api/datasets/{repo_id}/tag/{oid}", 1),
    "refs with the tag": ("GET", "/api/datasets/{repo_id}/refs", 2),
}
# What a version on a branch that is not there yet takes besides.
BRANCH_REQUESTS = {
    "branch": ("POST", "/api/datasets/{repo_id}/branch/next", 1),
    "info of the branch": ("GET", "/api/datasets/{repo_id}/revision/next", 1),
}
SOAK = pytest.mark.soak
PASSING = [fault for fault in FAULTS if not fault.endswith("ever")]
# Two passing faults a request, in turn, so that all meet five or six requests. The rest is soaked.
CELLS = [
    (request, fault)
    if fault in (PASSING[number % 5], PASSING[(number + 2) % 5])
    else pytest.param(request, fault, marks=SOAK)
    for number, request in enumerate(REQUESTS)
    for fault in FAULTS
]


def pattern(path, repo_id):
    return (
        "^"
        + re.escape(path)
        .replace(r"\{repo_id\}", re.escape(repo_id))
        .replace(r"\{oid\}", "[0-9a-f]+")
        + "$"
    )


def plan(hub, repo_id, request, fault):
    """The fault, at the request of that kind that is meant; of those that threads make, at the
    first.
    """
    method, path, number = (REQUESTS | BRANCH_REQUESTS)[request]
    skip = 0 if method == "PUT" or "verify" in path else number - 1
    hub.fail(method, pattern(path, repo_id), skip=skip, **FAULTS[fault])


@pytest.fixture(scope="module")
def template(publisher, first_version):
    publisher.published(first_version, "birds/template")
    return "birds/template"


@pytest.fixture
def repo(publisher, template, repo_id):
    """A repository that holds v1.0.0."""
    another(publisher.hub, template, repo_id)
    publisher.hub.lfs_objects = {  # nothing of the second version is there
        sha256: content
        for sha256, content in publisher.hub.lfs_objects.items()
        if sha256 in objects_of(publisher.hub, repo_id)
    }
    yield repo_id
    publisher.hub.faults.clear()


def objects_of(hub, repo_id):
    commits = repository(hub, repo_id).commits.values()
    return {file.sha256 for commit in commits for file in commit.files.values() if file.sha256}


def test_these_are_all_requests(publisher, repo, second_version):
    """In this order; those of uploads, which threads make, only by their number."""
    publisher.published(second_version, repo, tag="v1.1.0")
    made = [
        (call.method, re.sub("/[0-9a-f]{40,64}", "/{oid}", call.path).replace(repo, "{repo_id}"))
        for call in publisher.hub.calls
    ]
    expected = [
        (method, path)
        for method, path, number in REQUESTS.values()
        for _ in range(5 if number == 5 else 1)
    ]
    assert sorted(made) == sorted(expected)
    assert [call for call in made if "lfs" not in call[1]] == [
        call for call in expected if "lfs" not in call[1]
    ]


def is_published(hub, repo_id, output):
    twin = repository(hub, repo_id)
    head, before, initial = history(hub, repo_id)
    assert twin.tags == {"v1.0.0": before.oid, "v1.1.0": head.oid} and initial.parent is None
    assert pushed(hub, repo_id, "v1.1.0") == local_files(output)
    assert [
        entry["version"] for entry in data_of(hub, repo_id)["sgdmix"]["default"]["history"]
    ] == ["v1.0.0", "v1.1.0"]


@pytest.mark.parametrize(("request_name", "fault"), CELLS)
def test_published_or_not_at_all_and_the_same_command_finishes(
    publisher, repo, request_name, fault, first_version, second_version
):
    hub, before = publisher.hub, digests(second_version)
    tag_before = repository(hub, repo).tags["v1.0.0"]
    plan(hub, repo, request_name, fault)
    outcome = publisher.publish(
        second_version, repo, tag="v1.1.0", timeout=TIMEOUT if "hangs" in fault else 30
    )
    assert all(fault.times <= 0 or fault.times > 10**5 for fault in hub.faults), (
        "the fault did not happen"
    )
    hub.faults.clear()
    twin = repository(hub, repo)
    if outcome.error is None:
        is_published(hub, repo, second_version)
    else:
        assert "run the same command again" in outcome.error
        assert len(outcome.error.splitlines()) == 1
        assert twin.tags["v1.0.0"] == tag_before
        head, *older = history(hub, repo)
        if "v1.1.0" in twin.tags:  # the tag was set, and no reply said so
            is_published(hub, repo, second_version)
        elif head.oid != tag_before:
            assert older[0].oid == tag_before and pushed(hub, repo) == local_files(second_version)
        else:
            assert pushed(hub, repo) == local_files(first_version)
    if not fault.endswith("ever"):
        assert outcome.error is None, outcome.error
    if fault == "429 once":
        assert any(7 <= seconds <= 8 for seconds in outcome.waited), outcome.waited
    assert digests(second_version) == before
    assert (
        publisher.published(second_version, repo, tag="v1.1.0") == f"{repo}@{twin.tags['v1.1.0']}"
    )
    is_published(hub, repo, second_version)


@pytest.mark.parametrize("request_name", BRANCH_REQUESTS)
@pytest.mark.parametrize(
    "fault", [pytest.param(fault, marks=SOAK if fault.endswith("ever") else ()) for fault in FAULTS]
)
def test_a_branch_that_is_made_on_the_way_holds_the_version_in_the_end(
    publisher, repo, request_name, fault, second_version
):
    hub = publisher.hub
    main, tags = repository(hub, repo).branches["main"], dict(repository(hub, repo).tags)
    plan(hub, repo, request_name, fault)
    words = {"tag": "v1.1.0", "hub_branch": "next", "timeout": TIMEOUT if "hangs" in fault else 30}
    outcome = publisher.publish(second_version, repo, **words)
    assert all(fault.times <= 0 or fault.times > 10**5 for fault in hub.faults), (
        "the fault did not happen"
    )
    hub.faults.clear()
    if outcome.error is not None:
        assert fault.endswith("ever")
        assert "run the same command again" in outcome.error
        assert repository(hub, repo).tags == tags
    pin = publisher.published(second_version, repo, **words)
    twin = repository(hub, repo)
    assert twin.tags == tags | {"v1.1.0": twin.branches["next"]}
    assert pin == f"{repo}@{twin.branches['next']}"
    assert twin.branches["main"] == main
    assert pushed(hub, repo, "v1.1.0") == local_files(second_version)
    assert len(history(hub, repo, "next")) == len(history(hub, repo)) + 1
