"""The loopback Hub under the real clients: what it keeps, what it refuses, how it fails."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from loopback_hub import READ_TOKEN, STRANGER_TOKEN, WRITE_TOKEN, run_python

FILES = {
    "README.md": b"---\nlicense: mit\n---\n# Birds\n",
    "config.json": b"{}",
    "weights/model.safetensors": bytes(range(256)) * 40,
    "weights/notes.txt": b"",
}
# Every script starts with this, and prints one line of JSON.
CLIENT = """
import json, sys
from pathlib import Path
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError

api = HfApi()

def status(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except HfHubHTTPError as error:
        return [type(error).__name__, error.response.status_code]
"""


@pytest.fixture
def folder(tmp_path):
    for name, content in FILES.items():
        (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / name).write_bytes(content)
    return tmp_path / "model"


def run_client(hub, code, *args, token=WRITE_TOKEN):
    """What a script printed last, parsed."""
    finished = run_python(hub, CLIENT + code, *args, token=token)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


UPLOAD = """
api.create_repo("birds/model")
api.create_repo("birds/model", exist_ok=True)
uploaded = api.upload_folder(repo_id="birds/model", folder_path=sys.argv[1], commit_message="all of it")
again = api.upload_folder(repo_id="birds/model", folder_path=sys.argv[1])
info = api.model_info("birds/model", files_metadata=True)
checked = api.verify_repo_checksums("birds/model", local_dir=sys.argv[1])
print(json.dumps({
    "user": api.whoami()["name"],
    "commits": [uploaded.oid, again.oid, info.sha],
    "license": info.card_data.license,
    "sizes": {file.rfilename: file.size for file in info.siblings},
    "lfs": [file.rfilename for file in info.siblings if file.lfs],
    "top": [entry.path for entry in api.list_repo_tree("birds/model")],
    "inside": [entry.path for entry in api.list_repo_tree("birds/model", "weights")],
    "paths": [entry.path for entry in api.get_paths_info("birds/model", ["weights", "config.json", "nothing"])],
    "titles": [[commit.title, *commit.authors] for commit in api.list_repo_commits("birds/model")],
    "checked": [checked.checked_count, len(checked.mismatches), checked.missing_paths],
}))
"""


def test_a_folder_is_uploaded_listed_and_verified(hub, folder):
    seen = run_client(hub, UPLOAD, folder)
    assert hub.content("model", "birds/model") == FILES | {".gitattributes": hub.content("model", "birds/model")[".gitattributes"]}
    assert seen["user"] == "ada" and seen["license"] == "mit"
    assert len(set(seen["commits"])) == 1 and len(seen["commits"][0]) == 40
    assert {name: seen["sizes"][name] for name in FILES} == {name: len(content) for name, content in FILES.items()}
    assert seen["lfs"] == ["weights/model.safetensors"]
    assert seen["top"] == [".gitattributes", "README.md", "config.json", "weights"]
    assert seen["inside"] == ["weights/model.safetensors", "weights/notes.txt"]
    assert seen["paths"] == ["weights", "config.json"]
    assert seen["titles"] == [["all of it", "ada"], ["initial commit", "ada"]]
    assert seen["checked"] == [len(FILES), 0, [".gitattributes"]]
    assert len(hub.calls_of("PUT", "/lfs/")) == 1 and len(hub.calls_of("POST", "/commit/")) == 1
    assert all(call.user is None for call in hub.calls_of("PUT", "/lfs/"))  # another origin gets no token


COMMITS = """
def with_card(text):
    try:
        api.upload_file(repo_id=repo, path_in_repo="README.md", path_or_fileobj=text)
    except ValueError as error:
        return str(error)

repo = api.create_repo("birds/model").repo_id
add = lambda text: [CommitOperationAdd("a/b.txt", text), CommitOperationAdd("c.txt", b"3")]
first = api.model_info(repo).sha
second = api.create_commit(repo, add(b"1"), commit_message="1", parent_commit=first).oid
stale = status(api.create_commit, repo, add(b"2"), commit_message="2", parent_commit=first)
third = api.create_commit(repo, add(b"2"), commit_message="2", parent_commit=second).oid
deleted = api.create_commit(repo, [CommitOperationDelete("a/"), CommitOperationDelete("c.txt")], commit_message="3").oid
print(json.dumps({
    "stale": stale,
    "made": [deleted, third, second, first],
    "listed": [commit.commit_id for commit in api.list_repo_commits(repo)],
    "missing": status(api.delete_file, "c.txt", repo),
    "bad card": with_card(b"---\\nlicense: [mit\\n---\\n"),
}))
"""


def test_commits_have_one_parent_which_may_be_demanded(hub):
    seen = run_client(hub, COMMITS)
    assert seen["stale"] == ["HfHubHTTPError", 412]
    assert seen["listed"] == seen["made"]
    assert seen["missing"] == ["RemoteEntryNotFoundError", 404]
    assert "Invalid metadata in README.md" in seen["bad card"]
    assert list(hub.content("model", "birds/model")) == [".gitattributes"]


REFS = """
repo = api.create_repo("birds/data", repo_type="dataset").repo_id
kind = {"repo_type": "dataset"}
first = api.upload_file(repo_id=repo, path_in_repo="a.txt", path_or_fileobj=b"1", **kind).oid
api.create_tag(repo, tag="v1.0.0", **kind)
api.create_branch(repo, branch="next/try", revision=first, **kind)
second = api.upload_file(repo_id=repo, path_in_repo="a.txt", path_or_fileobj=b"2", revision="next/try", **kind).oid
refs = api.list_repo_refs(repo, **kind)
print(json.dumps({
    "tag again": status(api.create_tag, repo, tag="v1.0.0", **kind),
    "branch again": status(api.create_branch, repo, branch="next/try", **kind),
    "refs": {ref.name: ref.target_commit for ref in refs.branches + refs.tags},
    "commits": [first, second],
    "by tag": api.dataset_info(repo, revision="v1.0.0").sha,
    "by branch": api.dataset_info(repo, revision="next/try").sha,
    "no revision": status(api.dataset_info, repo, revision="v2"),
    "no file": status(api.hf_hub_download, repo, "b.txt", **kind),
    "no folder": status(lambda: list(api.list_repo_tree(repo, "b", **kind))),
    "no repository": status(api.dataset_info, "birds/none"),
    "no such type": status(api.model_info, repo),
}))
"""


def test_tags_and_branches_are_made_once_and_lead_to_their_commits(hub):
    seen = run_client(hub, REFS)
    first, second = seen["commits"]
    assert seen["refs"] == {"main": first, "v1.0.0": first, "next/try": second}
    assert [seen["by tag"], seen["by branch"]] == [first, second]
    assert seen["tag again"] == seen["branch again"] == ["HfHubHTTPError", 409]
    assert seen["no revision"] == ["RevisionNotFoundError", 404]
    assert seen["no file"] == seen["no folder"] == ["RemoteEntryNotFoundError", 404]
    assert seen["no repository"] == seen["no such type"] == ["RepositoryNotFoundError", 404]


ACCESS = """
print(json.dumps({
    "who": status(api.whoami, token=sys.argv[1]) if sys.argv[1] else None,
    "read": status(api.model_info, "birds/open"),
    "read private": status(api.model_info, "birds/closed"),
    "create": status(api.create_repo, "birds/new"),
    "commit": status(api.upload_file, repo_id="birds/open", path_in_repo="a.txt", path_or_fileobj=b"1"),
    "commit by LFS": status(api.upload_file, repo_id="birds/open", path_in_repo="a.bin", path_or_fileobj=b"1"),
    "tag": status(api.create_tag, "birds/open", tag="v1"),
    "check": status(api.auth_check, "birds/open", write=True),
}))
"""
WRITES = ("create", "commit", "commit by LFS", "tag", "check")


@pytest.mark.parametrize(
    ("token", "seen_private", "refused_writes"),
    [(WRITE_TOKEN, None, None), (READ_TOKEN, None, 403), (STRANGER_TOKEN, 404, 403), ("", 401, 401), ("hf_unknown", 401, 401)],
)
def test_tokens_open_what_they_may(hub, token, seen_private, refused_writes):
    run_client(hub, 'api.create_repo("birds/open"); api.create_repo("birds/closed", private=True); print(0)')
    before = hub.content("model", "birds/open")
    seen = run_client(hub, ACCESS, token, token=token)
    unknown = token == "hf_unknown"
    assert seen["who"] == seen["read"] == (["HfHubHTTPError", 401] if unknown else None)
    assert (seen["read private"] or [None])[-1] == seen_private
    assert {(seen[call] or [None])[-1] for call in WRITES} == {refused_writes}
    assert (hub.content("model", "birds/open") == before) is (refused_writes is not None)
    assert (("model", "birds/new") in hub.repositories) is (refused_writes is None)


DOWNLOAD = """
repo = api.create_repo("birds/model").repo_id
api.upload_folder(repo_id=repo, folder_path=sys.argv[1])
api.create_tag(repo, tag="v1.0.0")
api.upload_file(repo_id=repo, path_in_repo="config.json", path_or_fileobj=b"later")
api.snapshot_download(repo, revision="v1.0.0", local_dir=sys.argv[2])
print(json.dumps(Path(api.hf_hub_download(repo, "config.json")).read_text()))
"""


def test_files_come_back_as_they_were_at_a_tag(hub, folder, tmp_path):
    assert run_client(hub, DOWNLOAD, folder, tmp_path / "copy") == "later"
    assert {name: (tmp_path / "copy" / name).read_bytes() for name in FILES} == FILES
    assert hub.calls_of("GET", "/lfs/") and all(call.user is None for call in hub.calls_of("GET", "/lfs/"))


LOAD = """
from datasets import load_dataset
repo = api.create_repo("birds/data", repo_type="dataset").repo_id
for version, path in zip(["v1.0.0", "v2.0.0"], sys.argv[1:]):
    api.upload_file(repo_id=repo, repo_type="dataset", path_in_repo="data/train-00000-of-00001.parquet", path_or_fileobj=path)
    api.create_tag(repo, tag=version, repo_type="dataset")
versions = ["v1.0.0", "v2.0.0", None]
print(json.dumps([load_dataset(repo, revision=version, split="train")["row"][:] for version in versions]))
"""


def test_load_dataset_gives_the_rows_of_a_tag(hub, tmp_path):
    for rows in (3, 7):
        pq.write_table(pa.table({"row": list(range(rows))}), tmp_path / f"{rows}.parquet")
    seen = run_client(hub, LOAD, tmp_path / "3.parquet", tmp_path / "7.parquet")
    assert [len(rows) for rows in seen] == [3, 7, 7]


FAULTS = """
import time
import httpx2

def lost(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except httpx2.TransportError as error:
        return type(error).__name__

started = time.monotonic()
seen = {"delayed": lost(api.create_repo, "birds/model")}
seen["seconds"] = time.monotonic() - started
api.upload_folder(repo_id="birds/model", folder_path=sys.argv[1])
seen["no reply"] = lost(api.upload_file, repo_id="birds/model", path_in_repo="config.json", path_or_fileobj=b"new")
seen["refused"] = [status(api.list_repo_refs, "birds/model") for _ in range(3)]
api.snapshot_download("birds/model", local_dir=sys.argv[2])
seen["differing"] = [file["path"] for file in api.verify_repo_checksums("birds/model", local_dir=sys.argv[2]).mismatches]
print(json.dumps(seen))
"""


def test_planned_faults_happen_as_often_as_planned(hub, folder, tmp_path):
    hub.fail("POST", "/repos/create", delay=0.5)
    hub.fail("POST", "/preupload/", status=503)
    hub.fail("PUT", "/lfs/", cut=True)
    hub.fail("GET", "/refs", status=418, times=2)
    hub.fail("GET", "/lfs/", rewrite=lambda body: body[:-1] + b"!")
    # The first commit, with its name changed on the way, and then one that is made while its answer is lost.
    hub.fail("POST", "/commit/", rewrite=lambda body: body.replace(b"Upload folder", b"Renamed folder"))
    hub.fail("POST", "/commit/", lose_reply=True)
    seen = run_client(hub, FAULTS, folder, tmp_path / "copy")
    assert seen["delayed"] is None and seen["seconds"] >= 0.5
    assert [call.status for call in hub.calls_of("POST", "/preupload/")][:2] == [503, 200]
    assert [call.status for call in hub.calls_of("PUT", "/lfs/")] == [None, 200]
    assert seen["no reply"] == "RemoteProtocolError"
    assert seen["refused"] == [["HfHubHTTPError", 418], ["HfHubHTTPError", 418], None]
    assert seen["differing"] == ["weights/model.safetensors"]
    assert hub.content("model", "birds/model")["config.json"] == b"new"
    titles = [commit.title for commit in hub.repository("model", "birds/model").history("main")]
    assert titles[1:] == ["Renamed folder using huggingface_hub", "initial commit"]
