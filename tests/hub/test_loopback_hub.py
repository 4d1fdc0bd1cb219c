"""The loopback Hub under the real client: what is uploaded and committed arrives, and what it
refuses changes nothing.
"""

import pytest
from hub_files import FILES, write_files
from loopback_hub import run_client


@pytest.fixture
def folder(tmp_path):
    return write_files(tmp_path / "model")


UPLOAD = """
api.create_repo("birds/model")
api.create_repo("birds/model", exist_ok=True)
uploaded = api.upload_folder(
    repo_id="birds/model", folder_path=sys.argv[1], commit_message="all of it"
)
again = api.upload_folder(repo_id="birds/model", folder_path=sys.argv[1])
info = api.model_info("birds/model", files_metadata=True)
checked = api.verify_repo_checksums("birds/model", local_dir=sys.argv[1])
wanted = ["weights", "config.json", "nothing"]
print(json.dumps({
    "user": api.whoami()["name"],
    "commits": [uploaded.oid, again.oid, info.sha],
    "license": info.card_data.license,
    "sizes": {file.rfilename: file.size for file in info.siblings},
    "lfs": [file.rfilename for file in info.siblings if file.lfs],
    "top": [entry.path for entry in api.list_repo_tree("birds/model")],
    "inside": [entry.path for entry in api.list_repo_tree("birds/model", "weights")],
    "paths": [entry.path for entry in api.get_paths_info("birds/model", wanted)],
    "titles": [[commit.title, *commit.authors] for commit in api.list_repo_commits("birds/model")],
    "checked": [checked.checked_count, len(checked.mismatches), checked.missing_paths],
}))
"""


def test_a_folder_is_uploaded_listed_and_verified(hub, folder):
    seen = run_client(hub, UPLOAD, folder)
    assert hub.content("model", "birds/model") == FILES | {
        ".gitattributes": hub.content("model", "birds/model")[".gitattributes"]
    }
    assert seen["user"] == "ada" and seen["license"] == "mit"
    assert len(set(seen["commits"])) == 1 and len(seen["commits"][0]) == 40
    assert {name: seen["sizes"][name] for name in FILES} == {
        name: len(content) for name, content in FILES.items()
    }
    assert seen["lfs"] == ["weights/model.safetensors"]
    assert seen["top"] == [".gitattributes", "README.md", "config.json", "weights"]
    assert seen["inside"] == ["weights/model.safetensors", "weights/notes.txt"]
    assert seen["paths"] == ["weights", "config.json"]
    assert seen["titles"] == [["all of it", "ada"], ["initial commit", "ada"]]
    assert seen["checked"] == [len(FILES), 0, [".gitattributes"]]
    assert len(hub.calls_of("PUT", "/lfs/")) == 1 and len(hub.calls_of("POST", "/commit/")) == 1
    # Another origin gets no token.
    assert all(call.user is None for call in hub.calls_of("PUT", "/lfs/"))


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
removals = [CommitOperationDelete("a/"), CommitOperationDelete("c.txt")]
deleted = api.create_commit(repo, removals, commit_message="3").oid
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


RACE = """
from concurrent.futures import ThreadPoolExecutor

repo = api.create_repo("birds/model").repo_id
parent = api.model_info(repo).sha

def commit(number):
    added = [CommitOperationAdd(f"{number}.txt", b"1")]
    return status(api.create_commit, repo, added, commit_message=str(number), parent_commit=parent)

with ThreadPoolExecutor(8) as pool:
    print(json.dumps(list(pool.map(commit, range(8)))))
"""


def test_of_many_commits_at_once_on_one_parent_one_is_made(hub):
    seen = run_client(hub, RACE)
    assert seen.count(None) == 1 and seen.count(["HfHubHTTPError", 412]) == 7
    head, first = hub.repository("model", "birds/model").history("main")
    assert set(head.files) - set(first.files) == {f"{seen.index(None)}.txt"}


PARTS = """
repo = api.create_repo("birds/data", repo_type="dataset").repo_id
Path(sys.argv[1]).write_bytes(bytes(range(250)) * 100)
operations = [
    CommitOperationAdd("whole.bin", bytes(10_000)),
    CommitOperationAdd("parts.bin", sys.argv[1]),
]
api.create_commit(repo, operations, commit_message="two", repo_type="dataset")
folder = Path(sys.argv[1]).parent
checked = api.verify_repo_checksums(repo, repo_type="dataset", local_dir=folder)
print(json.dumps(checked.mismatches))
"""


def test_a_large_file_is_uploaded_in_parts(hub, tmp_path):
    hub.part_size = 10_000
    hub.fail("PUT", "/lfs/[0-9a-f]{16}/2", cut=True)
    (tmp_path / "folder").mkdir()
    assert run_client(hub, PARTS, tmp_path / "folder" / "parts.bin") == []
    assert hub.content("dataset", "birds/data")["parts.bin"] == bytes(range(250)) * 100
    parts = hub.calls_of("PUT", "/lfs/[0-9a-f]{16}/")
    assert [(call.path[-1], call.status) for call in parts] == [
        ("1", 200),
        ("2", None),
        ("2", 200),
        ("3", 200),
    ]
    # Signed URLs need no token.
    assert all(call.user is None for call in parts + hub.calls_of("POST", "/complete-multipart/"))
    assert len(hub.calls_of("PUT", "/lfs/[0-9a-f]{64}")) == 1 and not hub.parted_uploads


WRONG_PARTS = """
from huggingface_hub.utils import build_hf_headers, get_session

api.create_repo("birds/model")
oid, headers = "ab" * 32, build_hf_headers(token=api.token)
batch = {"operation": "upload", "transfers": ["multipart"], "objects": [{"oid": oid, "size": 15}]}
url = f"{api.endpoint}/birds/model.git/info/lfs/objects/batch"
answer = get_session().post(url, json=batch, headers=headers).json()
upload = answer["objects"][0]["actions"]["upload"]
etags = [
    get_session().put(upload["header"][part], content=b"x" * 10).headers["etag"]
    for part in ("00001", "00002")
]

def complete(etags):
    parts = [{"partNumber": number, "etag": etag} for number, etag in enumerate(etags, 1)]
    answer = get_session().post(upload["href"], json={"oid": oid, "parts": parts})
    return answer.status_code

print(json.dumps([complete(etags[:1]), complete(["wrong", etags[1]]), complete(etags)]))
"""


def test_parts_that_do_not_make_the_announced_object_are_refused(hub):
    hub.part_size = 10
    assert run_client(hub, WRONG_PARTS) == [400, 400, 400] and not hub.lfs_objects


XET = """
repo = api.create_repo("birds/data", repo_type="dataset").repo_id
content = bytes(range(256)) * 40
api.upload_file(repo_id=repo, repo_type="dataset", path_in_repo="a.bin", path_or_fileobj=content)
copy = api.hf_hub_download(repo, "a.bin", repo_type="dataset")
print(json.dumps(Path(copy).read_bytes() == content))
"""


def test_with_xet_large_files_go_up_and_down_by_it(hub, tmp_path):
    hub.xet_storage = tmp_path / "xet"
    assert run_client(hub, XET) is True
    assert hub.calls_of("GET", "/xet-write-token/") and hub.calls_of("GET", "/xet-read-token/")
    assert not hub.calls_of("PUT", "/lfs/") and not hub.calls_of("GET", "/lfs/")
    assert hub.content("dataset", "birds/data")["a.bin"] == bytes(range(256)) * 40
    # A client without Xet reads the same bytes.
    again = XET.replace("create_repo(", "create_repo(exist_ok=True, repo_id=")
    assert run_client(hub, again, HF_HUB_DISABLE_XET="1") is True
    assert [call.status for call in hub.calls_of("GET", "/lfs/")] == [200]


ATTRIBUTES = """
repo = api.create_repo("birds/model").repo_id
api.create_repo(repo, repo_type="dataset")
for kind in ("model", "dataset"):
    files = [CommitOperationAdd(name, b"text") for name in ("a.txt", "a.parquet", "a.png")]
    api.create_commit(repo, files, commit_message="by name", repo_type=kind)
attributes = b"*.txt filter=lfs diff=lfs merge=lfs -text\\n"
api.upload_file(repo_id=repo, path_in_repo=".gitattributes", path_or_fileobj=attributes)
api.upload_file(repo_id=repo, path_in_repo=".gitignore", path_or_fileobj=b"*.log\\nstate/\\n")
names = ["b.txt", "b.parquet", "b.log", "state/b.txt", "more/state.txt"]
files = [CommitOperationAdd(name, b"text") for name in names]
api.create_commit(repo, files, commit_message="by attributes")

def by_lfs(kind):
    tree = api.list_repo_tree(repo, recursive=True, repo_type=kind)
    return [file.path for file in tree if getattr(file, "lfs", None)]

print(json.dumps([by_lfs("model"), by_lfs("dataset"), api.list_repo_files(repo)]))
"""


def test_attributes_and_ignored_files_are_heeded(hub):
    by_lfs, by_lfs_of_dataset, names = run_client(hub, ATTRIBUTES)
    assert by_lfs == ["a.parquet", "b.txt", "more/state.txt"]
    assert by_lfs_of_dataset == ["a.parquet", "a.png"]
    assert not {"b.log", "state/b.txt"} & set(names)
    assert {"b.txt", "b.parquet", "more/state.txt"} <= set(names)


COPIES = """
repo = api.create_repo("birds/model").repo_id
files = [CommitOperationAdd("a.txt", b"1"), CommitOperationAdd("a.bin", b"2")]
first = api.create_commit(repo, files, commit_message="1").oid
removals = [CommitOperationDelete("a.txt"), CommitOperationDelete("a.bin")]
api.create_commit(repo, removals, commit_message="2")
copies = [
    CommitOperationCopy("a.txt", "folder/b.txt", src_revision=first),
    CommitOperationCopy("a.bin", "folder/b.bin", src_revision=first),
]
api.create_commit(repo, copies, commit_message="3")
copied = api.get_paths_info(repo, ["folder/b.txt", "folder/b.bin"])
print(json.dumps([file.size for file in copied]))
"""


def test_files_are_copied_from_other_revisions(hub):
    assert run_client(hub, COPIES) == [1, 1]
    content = hub.content("model", "birds/model")
    assert (content["folder/b.txt"], content["folder/b.bin"]) == (b"1", b"2")
    assert "a.txt" not in content


# Plain HTTP: the client itself would refuse most of these commits.
REFUSALS = """
from huggingface_hub.utils import build_hf_headers, get_session

repo = api.create_repo("birds/model").repo_id
api.create_tag(repo, tag="v1.0.0")

def commit(*lines, branch="main", query=""):
    lines = [("header", {"summary": "by hand"}), *lines]
    body = b"".join(
        json.dumps({"key": key, "value": value}).encode() + b"\\n" for key, value in lines
    )
    headers = build_hf_headers(token=api.token) | {"Content-Type": "application/x-ndjson"}
    url = f"{api.endpoint}/api/models/{repo}/commit/{branch}{query}"
    return get_session().post(url, content=body, headers=headers).status_code

added = ("file", {"path": "a.txt", "content": "MQ==", "encoding": "base64"})
absent = ("lfsFile", {"path": "a.bin", "algo": "sha256", "oid": "ab" * 32, "size": 1})
card = {"content": "---\\nlicense: [mit\\n---\\n", "encoding": "utf-8"}
print(json.dumps({
    "nothing": commit(),
    "outside": commit(("file", {"path": "../a.txt", "content": ""})),
    "not uploaded": commit(absent),
    "bad card": commit(("file", {"path": "README.md", **card})),
    "large": commit(("file", {"path": "a.txt", "content": "QUFB" * 4_000_000})),
    "to a tag": commit(added, branch="v1.0.0"),
    "to an id": commit(added, branch=api.model_info(repo).sha),
    "to nowhere": commit(added, branch="next"),
    "pull request": commit(added, query="?create_pr=1"),
    "fine": commit(added),
    "again": commit(added),
}))
"""


def test_what_the_hub_cannot_keep_is_refused(hub):
    seen = run_client(hub, REFUSALS)
    assert (seen.pop("fine"), seen.pop("again")) == (200, 200)
    assert {seen.pop(name) for name in ("to a tag", "to an id", "to nowhere")} == {404}
    assert seen.pop("outside") == 422
    assert set(seen.values()) == {400} and len(seen) == 5
    # As on the real Hub, a commit may change nothing: clients that want none ask first.
    assert [commit.title for commit in hub.repository("model", "birds/model").history("main")] == [
        "by hand",
        "by hand",
        "initial commit",
    ]
