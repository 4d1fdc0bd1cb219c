"""What the Hub answers, told in one line: a busy Hub is waited for; a moved tag, a wrong checksum
and no network are said.
"""

import pytest
import yaml
from hub_process import HubProcess
from loopback_hub import READ_TOKEN, loopback_hub, run_python
from published_versions import local_rows, repository
from untrusted import HONEST

FOR_EVER = 10**6
PUSH = """
import sys
from sgdmix_hub.hub.push import push_folder

for folder, repo_id, repo_type in zip(*[iter(sys.argv[1:])] * 3):
    print(push_folder(folder, repo_id, repo_type).revision)
"""


@pytest.fixture(scope="module")
def attackers(tmp_path_factory):
    """A dataset repository with configurations that ask for too much; nothing lies beside them."""
    folder = tmp_path_factory.mktemp("eve") / "recipes"
    folder.mkdir()
    values = {
        "honest": {},
        "card": {"card": "/etc/passwd"},
        "push": {"push_to_hub": True, "hub_dataset_id": "ada/x", "tag": "v1.0.0"},
    }
    values |= {
        "path": {"dataset_name": "/home/ada/photos"},
        "saliency": {"saliency_dir": "/home/ada/.ssh"},
    }
    for name, more in values.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(HONEST | more))
    return folder


@pytest.fixture(scope="module")
def served(attackers, evil_source, classifier):
    """A Hub, the commits of what was pushed to it, and a process that reads it."""
    with loopback_hub() as hub:
        pushed = [
            attackers,
            "birds/recipes",
            "dataset",
            evil_source,
            "birds/plain",
            "dataset",
            classifier,
            "birds/model",
            "model",
        ]
        done = run_python(hub, PUSH, *pushed)
        assert done.returncode == 0, done.stderr
        process = HubProcess(hub, READ_TOKEN)
        yield hub, dict(zip(pushed[1::3], done.stdout.split(), strict=True)), process
        process.close()


@pytest.fixture
def hub(served):
    served[0].faults.clear()
    yield served[0]
    served[0].faults.clear()


@pytest.fixture
def ask(served):
    return served[2]


@pytest.fixture
def commits(served):
    return served[1]


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("card", "card"),
        ("push", "hub_dataset_id, push_to_hub, tag"),
        ("path", "dataset_name"),
        ("saliency", "saliency_dir"),
    ],
)
def test_a_configuration_from_the_hub_may_not_name_places_or_pushes(hub, ask, name, named):
    words = f"['--config', 'hf://datasets/birds/recipes@main/{name}.yaml', '--output_dir=out']"
    done = ask(f"parse_settings(AugmentSettings, {words})")
    assert named in done["error"]
    assert f"hf://datasets/birds/recipes@main/{name}.yaml" in done["error"]
    done = ask(
        f"parse_settings(AugmentSettings, {words.replace(name + '.yaml', 'honest.yaml')}).seed"
    )
    assert done["value"] == HONEST["seed"]


# Every request that stands behind what is asked, each busy once, then for good.
READS = {
    "resolve('birds/plain', 'dataset').revision": "/api/datasets/birds/plain",
    "resolve('birds/model@main').revision": "/api/models/birds/model",
    "fetch_config('hf://datasets/birds/recipes/honest.yaml')": "/api/datasets/birds/recipes",
}


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("expression", READS)
def test_a_busy_hub_is_waited_for_as_long_as_it_asks(hub, ask, expression, status):
    hub.fail(
        "GET",
        f"^{READS[expression]}(/revision/main)?$",
        status=status,
        headers={"Retry-After": "7"},
    )
    done = ask(expression)
    assert done["error"] is None and 7 in done["waited"] and hub.faults[0].times == 0


@pytest.mark.parametrize("expression", READS)
def test_a_hub_that_stays_busy_is_told_with_its_status(hub, ask, expression):
    hub.fail("GET", f"^{READS[expression]}", status=429, times=FOR_EVER)
    done = ask(expression)
    assert "the Hub is busy (status 429)" in done["error"] and "Request ID" not in done["error"]
    assert len(done["waited"]) == 4


@pytest.mark.parametrize("number", range(3))
def test_files_at_a_commit_are_fetched_from_a_busy_hub(hub, ask, commits, number, tmp_path):
    """Whatever request of the download is refused."""
    hub.calls.clear()
    hub.fail(
        "GET" if number == 0 else "HEAD",
        "birds/model",
        status=429,
        headers={"Retry-After": "2"},
        skip=max(0, number - 1),
    )
    done = ask(
        "len(list(__import__('pathlib').Path("
        f"local_folder(Pin('birds/model', '{commits['birds/model']}'), ['*.json'])).iterdir()))"
    )
    assert done["error"] is None and done["value"] >= 2, done


def test_without_a_network_the_line_names_the_commit_that_would_do(hub, commits, tmp_path):
    """Of what this machine has: by its branch, by the only commit of it, and as a form to fill in
    where it has nothing.
    """
    fetch = (
        "from huggingface_hub import snapshot_download as s; import sys; "
        "s('birds/plain', repo_type='dataset'); s('birds/model', revision=sys.argv[1])"
    )
    done = run_python(hub, fetch, commits["birds/model"], token=READ_TOKEN, HF_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    offline = HubProcess(hub, READ_TOKEN, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    try:
        for name, repo_type, commit in (
            ("birds/plain", "dataset", commits["birds/plain"]),
            ("birds/plain@main", "dataset", commits["birds/plain"]),
            ("birds/model@v7", "model", commits["birds/model"]),
            ("birds/recipes", "dataset", "<40 hex>"),
        ):
            error = offline(f"resolve('{name}', '{repo_type}')")["error"]
            advice = (
                "name the commit, which needs no Hub when it is cached: "
                f"{name.partition('@')[0]}@{commit}"
            )
            assert "offline mode" in error and error.endswith(advice)
        done = offline(f"str(resolve('birds/plain@{commits['birds/plain']}', 'dataset'))")
        assert done["value"] == f"birds/plain@{commits['birds/plain']}"
        assert (
            "needs no Hub when it is cached: birds/recipes@"
            in offline("fetch_config('hf://datasets/birds/recipes/honest.yaml')")["error"]
        )
    finally:
        offline.close()


def test_a_tag_that_its_owner_moved_is_told_and_the_commit_pins_for_good(
    publisher, first_version, repo_id
):
    hub = publisher.hub
    pin = publisher.published(first_version, repo_id)
    reader = HubProcess(hub, READ_TOKEN)
    try:
        rows = f"load_published('{repo_id}@v1.0.0').pin"
        assert reader(rows) == {"value": pin, "error": None, "waited": [], "warned": []}
        assert reader(rows)["warned"] == []
        twin = repository(hub, repo_id)
        moved = next(
            oid
            for oid in twin.commits
            if oid not in pin and "README.md" not in twin.commits[oid].files
        )
        twin.tags["v1.0.0"] = moved
        done = reader(rows)
        assert len(done["warned"]) == 1 and moved in done["warned"][0] and pin in done["warned"][0]
        assert "holds no augmented dataset" in done["error"]
        done = reader(f"len(load_published('{pin}').rows)")
        assert done == {
            "value": len(local_rows(first_version)),
            "error": None,
            "waited": [],
            "warned": [],
        }
    finally:
        reader.close()


def test_a_checksum_that_stays_wrong_is_the_hubs_and_is_told_as_that(
    publisher, first_version, second_version, repo_id
):
    hub = publisher.hub
    publisher.published(first_version, repo_id)
    path = f"/datasets/{repo_id}/resolve/[0-9a-f]+/README.md"
    hub.fail("GET", path, rewrite=lambda content: content + b"x", times=1)
    # The reply was damaged once only.
    assert publisher.publish(second_version, repo_id, tag="v1.1.0").error is None
    hub.fail("GET", path, rewrite=lambda content: content + b"x", times=FOR_EVER)
    error = publisher.refused(first_version, repo_id, tag="v1.2.0")
    assert "twice the same" in error and "run the same command again" not in error
    hub.faults.clear()
    cut = iter(range(1, 100))
    hub.fail("GET", path, rewrite=lambda content: content[: -next(cut)], times=FOR_EVER)
    assert "did not arrive whole: run the same command again" in publisher.refused(
        first_version, repo_id, tag="v1.2.0"
    )
    assert "v1.2.0" not in repository(hub, repo_id).tags
