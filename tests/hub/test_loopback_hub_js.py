"""The loopback Hub under @huggingface/hub, the Hub's own JavaScript client, which was written
independently of the Python client.

Where the two differ, and how the loopback Hub answers:

- Trying again: Python repeats preupload, LFS calls and listings that fail for a moment; JavaScript
  repeats nothing. A fault of one call ends its upload.
- No change: Python reads from `preupload` what is there, and sends no commit that changes nothing.
  JavaScript sends it, and the Hub makes an empty commit: an upload repeated after a lost reply
  leaves two.
- Cards: Python asks `validate-yaml` first; JavaScript does not, so the commit itself refuses a
  README.md that cannot be read.
- Upload modes: JavaScript sends `.gitattributes` along with `preupload` when the commit has one,
  Python `.gitignore`; either counts more than the file that is there.
- LFS: JavaScript calls the algorithm sha_256, names Xet among its transfers and takes LFS when it
  is offered that (Python does not negotiate), sends parts side by side, and never calls `verify`:
  the storage itself refuses what has another SHA-256.
- Addresses: Python quotes revisions and paths as one part each. JavaScript does not in `tree` and
  `commits`, so that `tree/next/try/data` has to be split by the names of branches and tags.
- `paths-info` is a form from Python and JSON from JavaScript; dataset info of JavaScript names the
  facts it wants (`expand`) and the revision `HEAD`.
- Listings: both follow `Link`, JavaScript only an absolute address with a quoted rel="next"; it
  sets `limit` and counts commits by X-Total-Count.
- Downloads: Python asks HEAD and reads size and SHA-256 off the redirect, which it follows no
  further. JavaScript gets the first byte, is redirected without seeing it, and reads Content-Range
  and ETag off the storage's answer. Of an empty file there is no first byte (416), so JavaScript
  cannot read one. Whether a file exists it asks of `raw`, Python of `resolve`.
- Repositories: JavaScript may send first files and reads an `id`, Python only the `url`. Branches
  may be empty or overwritten by JavaScript alone; tags it can only read. Without a token it still
  sends one, the word "undefined", to make and delete repositories.
"""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hub_files import write_files
from loopback_hub import READ_TOKEN, STRANGER_TOKEN, WRITE_TOKEN, run_client

pytestmark = pytest.mark.slow

JS = Path(__file__).parent / "js"
REPO = ("dataset", "birds/data")
ROWS = bytes(index % 250 for index in range(25_000))
OUT_OF_REACH = (
    "ECONNREFUSED",
    "ECONNRESET",
    "EAI_AGAIN",
    "ENOTFOUND",
    "ENETUNREACH",
    "ETIMEDOUT",
    "ERR_SOCKET_TIMEOUT",
    "network",
)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A folder with the script and the client installed from the lock file; skips where that cannot
    be had.
    """
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("js")
    for name in ("client.mjs", "package.json", "package-lock.json"):
        shutil.copy(JS / name, folder)
    command = [
        "npm",
        "ci",
        "--omit=optional",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--cache",
        str(folder / "cache"),
    ]
    try:
        installed = subprocess.run(
            [*command, "--fetch-retries=1"], cwd=folder, capture_output=True, text=True, timeout=120
        )
    except subprocess.TimeoutExpired:
        pytest.skip("npm's registry does not answer")
    if installed.returncode and any(sign in installed.stderr for sign in OUT_OF_REACH):
        pytest.skip("npm's registry is out of reach")
    assert installed.returncode == 0, installed.stderr
    return folder


def run_js(hub, client, scenario, token=WRITE_TOKEN, **environment):
    """What a scenario of client.mjs printed, parsed."""
    # Nothing of the environment but what finds programs: neither proxies nor tokens.
    base = {
        name: os.environ[name]
        for name in ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH")
        if name in os.environ
    }
    finished = subprocess.run(
        ["node", "client.mjs", scenario],
        cwd=client,
        env=base | {"HUB_URL": hub.url, "HUB_TOKEN": token} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr
    assert not token or token not in finished.stdout + finished.stderr
    return json.loads(finished.stdout)


@pytest.mark.parametrize("use_xet", ["0", "1"])
def test_what_it_uploads_arrives_and_comes_back(hub, client, use_xet):
    hub.part_size, hub.page_size = 10_000, 3
    seen = run_js(hub, client, "publish", USE_XET=use_xet)
    content = hub.content(*REPO)
    head, first = hub.repository(*REPO).history("main")
    expected = {
        "README.md": b"---\nlicense: mit\n---\n# Birds\n",
        "notes.txt": b"some notes",
        "empty.txt": b"",
    }
    expected |= {"data/a folder/train.parquet": ROWS, "data/small.parquet": b"few"}
    assert {name: content[name] for name in content if name != ".gitattributes"} == expected
    assert {name for name, file in head.files.items() if file.sha256} == {
        "data/a folder/train.parquet",
        "data/small.parquet",
    }
    assert seen["made"] == {"repoUrl": f"{hub.url}/datasets/birds/data", "id": seen["info"]["id"]}
    assert seen["oid"] == seen["info"]["sha"] == head.oid
    assert head.title == "all of it"
    assert "README.md" in first.files
    assert seen["info"]["cardData"] == {"license": "mit"}
    assert seen["info"]["tags"] == ["license:mit"]
    entries = {entry["path"]: entry for entry in seen["entries"]}
    assert set(entries) == {*content, "data", "data/a folder"}
    assert {name: entries[name]["size"] for name in content} == {
        name: len(content[name]) for name in content
    }
    assert {name: entries[name]["lastCommit"]["title"] for name in ("README.md", "data")} == {
        "README.md": "initial commit",
        "data": "all of it",
    }
    large = head.files["data/a folder/train.parquet"]
    assert entries["data/a folder/train.parquet"]["lfs"] == {
        "oid": large.sha256,
        "size": 25_000,
        "pointerSize": len(large.blob),
    }
    assert seen["inside"] == ["data/a folder/train.parquet"]
    assert (seen["download"]["size"], seen["download"]["etag"]) == (25_000, f'"{large.sha256}"')
    assert seen["part"] == [*range(240, 250), 0, 1] and seen["large"] is True
    assert (seen["small"], seen["regular"]) == ("few", "some notes")
    assert seen["pointer"].encode() == head.files["data/small.parquet"].blob
    assert seen["missing"] == [None, False]
    assert seen["exists"] is True
    assert seen["known"] == [True, False]
    assert seen["empty"] == 416  # it asks for the first byte of every file before it reads
    assert seen["who"]["name"] == "ada" and seen["who"]["auth"]["accessToken"]["role"] == "write"
    assert [call.status for call in hub.calls_of("PUT", "/lfs/[0-9a-f]{16}/")] == [200] * 3
    assert all(
        call.user is None for method in ("PUT", "GET") for call in hub.calls_of(method, "^/lfs/")
    )
    assert [call.path for call in hub.calls if call.status in (400, 500)] == []


def test_commits_stand_on_their_parents(hub, client):
    seen = run_js(hub, client, "commits")
    history = hub.repository(*REPO).history("main")
    titles = ["deleted", "again", "second", "first", "initial commit"]
    # "again" commits without a change: this client does not check for one first.
    assert [commit.title for commit in history] == titles
    assert [commit["oid"] for commit in seen["listed"]] == [commit.oid for commit in history]
    assert seen["listed"][0]["authors"][0]["username"] == "ada" and seen["count"] == 5
    assert [commit.oid for commit in history[1:4]] == seen["made"]
    assert (seen["stale"], seen["noFile"], seen["badCard"]) == (412, 404, 400)
    assert (seen["then"], seen["now"]) == ("1", None)
    assert hub.content(*REPO)["a.txt"] == b"2" and len(hub.calls_of("GET", "/commits/")) == 4


def test_branches_are_made_filled_and_deleted(hub, client):
    seen = run_js(hub, client, "branches")
    assert seen["again"] == [409, None]
    assert seen["paths"] == [".gitattributes", "data", "data/a.txt", "data/b.txt"]
    assert seen["inside"] == ["data/a.txt", "data/b.txt"]
    assert seen["titles"] == ["Add data/b.txt", "Add data/a.txt", "initial commit"]
    assert seen["texts"] == ["2", None]
    assert seen["bare"] == [None, []]
    assert seen["deleted"] == 404 and seen["refused"] == [404, 403]
    assert list(hub.repository(*REPO).branches) == ["main", "bare"]


PUBLISH = """
kind = {"repo_type": "dataset"}
repo = api.create_repo("birds/data", private=True, **kind).repo_id
api.upload_folder(
    repo_id=repo,
    folder_path=sys.argv[1],
    commit_message="all of it",
    ignore_patterns="*notes.txt",
    **kind,
)
api.create_tag(repo, tag="v1.0.0", **kind)
api.upload_file(repo_id=repo, path_in_repo="config.json", path_or_fileobj=b"later", **kind)
print(0)
"""


def test_it_reads_by_tag_what_the_python_client_published(hub, client, tmp_path):
    hub.page_size = 2
    run_client(hub, PUBLISH, write_files(tmp_path / "folder"))
    seen = run_js(hub, client, "read", token=READ_TOKEN, CACHE=str(tmp_path / "cache"))
    tagged = hub.repository(*REPO).commit_at("v1.0.0")
    contents = {name: base64.b64decode(content) for name, content in seen["contents"].items()}
    assert contents == hub.content(*REPO, "v1.0.0")
    assert seen["info"]["sha"] == tagged.oid
    assert seen["info"]["author"] == "birds"
    assert seen["info"]["private"] is True
    assert {entry["path"]: entry["oid"] for entry in seen["paths"]} == {
        name: file.oid for name, file in tagged.files.items()
    }
    assert seen["commits"] == ["all of it", "initial commit"] and seen["datasets"] == ["birds/data"]


@pytest.mark.parametrize(
    ("token", "unseen", "refused"),
    [(READ_TOKEN, None, 403), (STRANGER_TOKEN, 404, 403), ("", 401, 401), ("hf_unknown", 401, 401)],
)
def test_without_the_permission_it_changes_nothing(hub, client, token, unseen, refused):
    for name in ("data", "closed", "gated"):
        hub.make_repository("dataset", f"birds/{name}", private=name == "closed").gated = (
            "auto" if name == "gated" else False
        )
    before = (
        dict(hub.repositories),
        [hub.repository(*key).branches.copy() for key in hub.repositories],
    )
    seen = run_js(hub, client, "access", token)
    unknown = token == "hf_unknown"
    # Without a token it sends the word "undefined" for one where it cannot do without.
    assert {seen.pop(name) for name in ("create", "createAgain", "commit", "branch")} == {refused}
    assert seen.pop("readPrivate") == unseen and seen.pop("read") == (401 if unknown else None)
    assert seen.pop("delete") == (unseen or refused)
    assert seen.pop("gated") == {READ_TOKEN: None, STRANGER_TOKEN: 403}.get(token, 401) and not seen
    assert before == (
        dict(hub.repositories),
        [hub.repository(*key).branches for key in hub.repositories],
    )


def test_who_may_write_is_told_what_is_there(hub, client):
    hub.make_repository(*REPO)
    seen = run_js(hub, client, "access")
    calls = ("create", "createAgain", "commit", "branch", "delete")
    assert [seen[call] for call in calls] == [None, 409, None, None, 404]


FAULTS = [
    ("POST", "/preupload/", {"status": 503}, 503, 1),
    ("POST", "/commit/", {"status": 429, "headers": {"Retry-After": "1"}}, 429, 1),
    ("PUT", "/lfs/", {"cut": True}, "TypeError", 1),
    ("POST", "/commit/", {"lose_reply": True}, "TypeError", 2),
]


@pytest.mark.parametrize(("method", "path", "fault", "failure", "commits"), FAULTS)
def test_it_tries_nothing_again_by_itself(hub, client, method, path, fault, failure, commits):
    hub.make_repository(*REPO)
    hub.fail(method, path, **fault)
    assert run_js(hub, client, "twice") == [failure, None]
    history = hub.repository(*REPO).history("main")
    assert len(history) == 1 + commits and hub.content(*REPO)["a.parquet"] == b"content"
