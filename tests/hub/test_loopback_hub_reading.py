"""Reading from the loopback Hub through huggingface_hub, datasets and fsspec."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_files import FILES, write_files
from loopback_hub import STRANGER_TOKEN, run_client


@pytest.fixture
def folder(tmp_path):
    return write_files(tmp_path / "model")


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
    assert hub.calls_of("GET", "/lfs/")
    assert all(call.user is None for call in hub.calls_of("GET", "/lfs/"))


LOAD = """
from datasets import load_dataset
repo = api.create_repo("birds/data", repo_type="dataset").repo_id
for version, path in zip(["v1.0.0", "v2.0.0"], sys.argv[1:]):
    api.upload_file(
        repo_id=repo,
        repo_type="dataset",
        path_in_repo="data/train-00000-of-00001.parquet",
        path_or_fileobj=path,
    )
    api.create_tag(repo, tag=version, repo_type="dataset")
versions = ["v1.0.0", "v2.0.0", None]
loaded = [load_dataset(repo, revision=version, split="train") for version in versions]
print(json.dumps([rows["row"][:] for rows in loaded]))
"""


def test_load_dataset_gives_the_rows_of_a_tag(hub, tmp_path):
    for rows in (3, 7):
        pq.write_table(pa.table({"row": list(range(rows))}), tmp_path / f"{rows}.parquet")
    seen = run_client(hub, LOAD, tmp_path / "3.parquet", tmp_path / "7.parquet")
    assert [len(rows) for rows in seen] == [3, 7, 7]


PUSH = """
from datasets import Dataset, load_dataset

repo, datasets = "birds/data", {}
for version, length in [("v1.0.0", 6), ("v2.0.0", 8)]:
    dataset = Dataset.from_dict({"row": list(range(length))})
    dataset.push_to_hub(repo, num_shards=2, commit_message=version)
    api.create_tag(repo, tag=version, repo_type="dataset")
    datasets[version] = [
        load_dataset(repo, revision=version, split="train", streaming=streaming)
        for streaming in (False, True)
    ]
print(json.dumps({
    version: [[row["row"] for row in dataset] for dataset in both]
    for version, both in datasets.items()
}))
"""


@pytest.mark.parametrize("with_xet", [False, True], ids=["lfs", "xet"])
def test_a_pushed_dataset_is_loaded_and_streamed_by_its_tag(hub, tmp_path, with_xet):
    hub.xet_storage = tmp_path / "xet" if with_xet else None
    seen = run_client(hub, PUSH)
    assert seen == {"v1.0.0": [list(range(6))] * 2, "v2.0.0": [list(range(8))] * 2}
    # Streaming reads parts of files.
    assert any(call.status == 206 for call in hub.calls_of("GET", "/lfs/"))
    assert [call.status for call in hub.calls if call.status and call.status >= 500] == []


FILE_SYSTEM = """
from huggingface_hub import HfFileSystem

repo = api.create_repo("birds/data", repo_type="dataset").repo_id
first = api.upload_folder(
    repo_id=repo, folder_path=sys.argv[1], repo_type="dataset", commit_message="first"
).oid
api.create_tag(repo, tag="v1/a", repo_type="dataset")
files = HfFileSystem()
root = "datasets/birds/data"
with files.open(f"{root}/weights/model.safetensors") as file:
    file.seek(250)
    part = list(file.read(10))
with files.open(f"{root}/config.json", "w") as file:
    file.write("[]")
files.cp_file(f"{root}/weights/model.safetensors", f"{root}/copy.safetensors")
files.rm(f"{root}/weights", recursive=True)
old = f"{root}@v1%2Fa"
weights = f"{old}/weights/model.safetensors"
absent = [f"{root}/none", f"{root}@v2/config.json", "datasets/birds/none"]
print(json.dumps({
    "part": part,
    "now": files.find(root),
    "then": [files.cat_file(f"{old}/config.json").decode(), *files.glob(f"{old}/**/*.safetensors")],
    "ends": [list(files.cat_file(weights, *ends)) for ends in [(0, 2), (10238, None)]],
    "empty": files.cat_file(f"{old}/weights/notes.txt").decode(),
    "commit": files.info(f"{old}/weights", expand_info=True)["last_commit"].oid == first,
    "title": files.info(f"{root}/config.json", expand_info=True)["last_commit"].title,
    "missing": [files.exists(path) for path in absent],
}))
"""


def test_the_file_system_reads_parts_and_writes_copies_and_removes(hub, folder):
    seen = run_client(hub, FILE_SYSTEM, folder)
    assert seen["part"] == [250, 251, 252, 253, 254, 255, 0, 1, 2, 3]
    assert seen["ends"] == [[0, 1], [254, 255]]
    names = [".gitattributes", "README.md", "config.json", "copy.safetensors"]
    assert seen["now"] == [f"datasets/birds/data/{name}" for name in names]
    assert seen["then"] == ["{}", "datasets/birds/data@v1%2Fa/weights/model.safetensors"]
    assert seen["empty"] == ""
    assert seen["commit"] is True
    assert seen["title"].startswith("Upload config.json")
    assert seen["missing"] == [False] * 3
    assert (
        hub.content("dataset", "birds/data")["copy.safetensors"]
        == FILES["weights/model.safetensors"]
    )


RANGES = """
from huggingface_hub.utils import get_session

repo = api.create_repo("birds/model").repo_id
added = [CommitOperationAdd(name, b"0123456789") for name in ("a.txt", "a.bin")]
api.create_commit(repo, added, commit_message="1")
wanted = ["bytes=0-0", "bytes=3-", "bytes=-2", "bytes=8-20", "bytes=10-"]
wanted += ["bytes=0-1,3-4", "lines=1-2"]

def part(name, text, kind="resolve"):
    answer = get_session().get(f"{api.endpoint}/{repo}/{kind}/main/{name}", headers={"Range": text})
    return [answer.status_code, answer.text, answer.headers.get("Content-Range")]

parts = {name: [part(name, text) for text in wanted] for name in ("a.txt", "a.bin")}
print(json.dumps(parts | {"pointer": part("a.bin", "bytes=0-6", "raw")}))
"""


def test_parts_of_files_are_sent_when_asked_for(hub):
    seen = run_client(hub, RANGES)
    assert seen.pop("pointer")[:2] == [206, "version"]
    for parts in seen.values():
        assert parts[:4] == [
            [206, "0", "bytes 0-0/10"],
            [206, "3456789", "bytes 3-9/10"],
            [206, "89", "bytes 8-9/10"],
            [206, "89", "bytes 8-9/10"],
        ]
        assert parts[4] == [416, "", "bytes */10"]
        assert parts[5:] == [[200, "0123456789", None]] * 2


PAGES = """
repo = api.create_repo("birds/data", repo_type="dataset").repo_id
kind = {"repo_type": "dataset"}
names = [f"data/part {number}/a.txt" for number in range(4)]
for name in names:
    api.upload_file(
        repo_id=repo, path_in_repo=name, path_or_fileobj=b"1", commit_message=name, **kind
    )
api.create_branch(repo, branch="next/try", **kind)
tree = lambda **more: list(api.list_repo_tree(repo, recursive=True, **more, **kind))
branch = {"revision": "next/try", **kind}
inside = api.list_repo_tree(repo, "data/part 2", **branch)
commits = api.list_repo_commits(repo, formatted=True, **branch)
paths = api.get_paths_info(repo, ["data", names[0]], expand=True, **kind)
info, head = api.dataset_info(repo, expand=["sha", "usedStorage"]), api.dataset_info(repo).sha
print(json.dumps({
    "tree": [entry.path for entry in tree(revision="next/try")],
    "inside": [entry.path for entry in inside],
    "commits": [commit.title for commit in commits],
    "changed by": {entry.path: entry.last_commit.title for entry in tree(expand=True)},
    "path changed by": [entry.last_commit.title for entry in paths],
    "picked": [info.sha == head, info.used_storage > 4, info.siblings, info.author],
    "bad pick": status(api.dataset_info, repo, expand=["nothing"]),
}))
"""


def test_long_listings_come_in_pages(hub):
    hub.page_size = 3
    seen = run_client(hub, PAGES)
    folders = [f"data/part {number}" for number in range(4)]
    assert sorted(seen["tree"]) == sorted(
        [".gitattributes", "data", *folders, *(f"{name}/a.txt" for name in folders)]
    )
    assert seen["inside"] == ["data/part 2/a.txt"]
    assert seen["commits"] == [f"{name}/a.txt" for name in reversed(folders)] + ["initial commit"]
    assert seen["changed by"] == {
        ".gitattributes": "initial commit",
        "data": "data/part 3/a.txt",
    } | {path: f"{name}/a.txt" for name in folders for path in (name, f"{name}/a.txt")}
    assert seen["path changed by"] == ["data/part 3/a.txt", "data/part 0/a.txt"]
    assert seen["picked"] == [True, True, None, None]
    assert seen["bad pick"] == ["BadRequestError", 400]
    assert len(hub.calls_of("GET", "/tree/next%2Ftry$")) == 4
    assert len(hub.calls_of("GET", "/commits/")) == 2


LISTS = """
if sys.argv[1:]:
    card = (
        b"---\\nlicense: mit\\ntags: [birds]\\n"
        b"size_categories: [n<1K]\\ncreated: 2025-01-01\\n---\\n"
    )
    for name in ("birds/one", "birds/two", "three"):
        api.create_repo(name, repo_type="dataset", private=name == "birds/two")
    api.upload_file(
        repo_id="birds/one", repo_type="dataset", path_in_repo="README.md", path_or_fileobj=card
    )
    api.create_repo("birds/model")
ids = lambda **how: [dataset.id for dataset in api.list_datasets(**how)]
print(json.dumps([
    ids(),
    ids(author="birds"),
    ids(search="TH"),
    ids(filter=["license:mit", "birds"]),
    ids(limit=1, expand=["sha"]),
]))
"""


def test_datasets_are_listed_by_owner_name_and_tag(hub):
    hub.page_size = 2
    assert run_client(hub, LISTS, "make") == [
        ["ada/three", "birds/two", "birds/one"],
        ["birds/two", "birds/one"],
        ["ada/three"],
        ["birds/one"],
        ["ada/three"],
    ]
    assert run_client(hub, LISTS, token=STRANGER_TOKEN)[0] == ["ada/three", "birds/one"]
