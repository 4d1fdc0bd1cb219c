"""Tags, branches and histories on the loopback Hub, by the real client."""

from loopback_hub import run_client

REFS = """
repo = api.create_repo("birds/data", repo_type="dataset").repo_id
kind = {"repo_type": "dataset"}
first = api.upload_file(repo_id=repo, path_in_repo="a.txt", path_or_fileobj=b"1", **kind).oid
api.create_tag(repo, tag="v1.0.0", **kind)
api.create_branch(repo, branch="next/try", revision=first, **kind)
second = api.upload_file(
    repo_id=repo, path_in_repo="a.txt", path_or_fileobj=b"2", revision="next/try", **kind
).oid
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


DELETED = """
repo = api.create_repo("birds/data", repo_type="dataset").repo_id
kind = {"repo_type": "dataset"}
first = api.dataset_info(repo).sha
second = api.upload_file(repo_id=repo, path_in_repo="a.txt", path_or_fileobj=b"1", **kind).oid
api.create_tag(repo, tag="v1.0.0", revision=first[:7], tag_message="the first", **kind)
api.create_tag(repo, tag="v1.0.0", revision=second, exist_ok=True, **kind)
api.create_branch(repo, branch="next", revision="v1.0.0", **kind)
api.create_branch(repo, branch="next", exist_ok=True, **kind)
api.create_branch(repo, branch="v1.0.0", **kind)
refs = api.list_repo_refs(repo, **kind)
before = {ref.ref: ref.target_commit for ref in refs.branches + refs.tags}
bad_tags = ("a tag", "a..b", "a~1", "refs/tags/a", "a.lock", ".a", "a/")
seen = {
    "retag": status(api.create_tag, repo, tag="v1.0.0", revision=second, **kind),
    "tag nowhere": status(api.create_tag, repo, tag="v2.0.0", revision="nowhere", **kind),
    "bad tags": [status(api.create_tag, repo, tag=tag, **kind) for tag in bad_tags],
    "bad branch": status(api.create_branch, repo, branch="refs/pr/1", **kind),
    "delete main": status(api.delete_branch, repo, branch="main", **kind),
    "delete no branch": status(api.delete_branch, repo, branch="nowhere", **kind),
    "delete no tag": status(api.delete_tag, repo, tag="main", **kind),
}
api.delete_branch(repo, branch="v1.0.0", **kind)
api.delete_branch(repo, branch="next", **kind)
api.delete_tag(repo, tag="v1.0.0", **kind)
seen["gone"] = [status(api.dataset_info, repo, revision=name) for name in ("v1.0.0", "next")]
api.create_tag(repo, tag="v1.0.0", revision=second, **kind)
refs = api.list_repo_refs(repo, include_pull_requests=True, **kind)
after = {ref.ref: ref.target_commit for ref in refs.branches + refs.tags}
print(json.dumps(seen | {"commits": [first, second], "before": before, "after": after}))
"""


def test_tags_are_never_moved_and_what_is_deleted_is_gone(hub):
    seen = run_client(hub, DELETED)
    first, second = seen["commits"]
    branches = {"refs/heads/main": second, "refs/heads/next": first, "refs/heads/v1.0.0": second}
    assert seen["before"] == branches | {"refs/tags/v1.0.0": first}
    assert seen["after"] == {"refs/heads/main": second, "refs/tags/v1.0.0": second}
    assert seen["retag"] == ["HfHubHTTPError", 409]
    assert seen["bad tags"] == [["BadRequestError", 400]] * 7
    assert seen["bad branch"] == ["BadRequestError", 400]
    assert seen["delete main"] == ["HfHubHTTPError", 403]
    not_found = ["RevisionNotFoundError", 404]
    assert seen["tag nowhere"] == seen["delete no branch"] == seen["delete no tag"] == not_found
    assert seen["gone"] == [not_found, not_found]


SQUASH = """
repo = api.create_repo("birds/model").repo_id
for text in (b"1", b"2"):
    api.upload_file(repo_id=repo, path_in_repo="a.txt", path_or_fileobj=text)
    api.create_tag(repo, tag=f"v{text.decode()}")
api.super_squash_history(repo, commit_message="all in one")
print(json.dumps({
    "titles": [commit.title for commit in api.list_repo_commits(repo)],
    "tagged": [commit.title for commit in api.list_repo_commits(repo, revision="v1")],
    "text": Path(api.hf_hub_download(repo, "a.txt")).read_text(),
    "tagged text": Path(api.hf_hub_download(repo, "a.txt", revision="v1")).read_text(),
}))
"""


def test_a_squashed_history_is_one_commit_and_tags_keep_theirs(hub):
    seen = run_client(hub, SQUASH)
    assert seen["titles"] == ["all in one"] and len(seen["tagged"]) == 2
    assert (seen["text"], seen["tagged text"]) == ("2", "1")
