"""Permissions on the loopback Hub: tokens, private and gated repositories, settings, deletion."""

import pytest
from loopback_hub import READ_TOKEN, STRANGER_TOKEN, WRITE_TOKEN, Account, run_client

ACCESS = """
def commit(name):
    return status(api.upload_file, repo_id="birds/open", path_in_repo=name, path_or_fileobj=b"1")

print(json.dumps({
    "who": status(api.whoami, token=sys.argv[1]) if sys.argv[1] else None,
    "read": status(api.model_info, "birds/open"),
    "read private": status(api.model_info, "birds/closed"),
    "create": status(api.create_repo, "birds/new"),
    "commit": commit("a.txt"),
    "commit by LFS": commit("a.bin"),
    "tag": status(api.create_tag, "birds/open", tag="v1"),
    "check": status(api.auth_check, "birds/open", write=True),
}))
"""
WRITES = ("create", "commit", "commit by LFS", "tag", "check")


@pytest.mark.parametrize(
    ("token", "seen_private", "refused_writes"),
    [
        (WRITE_TOKEN, None, None),
        (READ_TOKEN, None, 403),
        (STRANGER_TOKEN, 404, 403),
        ("", 401, 401),
        ("hf_unknown", 401, 401),
    ],
)
def test_tokens_open_what_they_may(hub, token, seen_private, refused_writes):
    run_client(
        hub,
        'api.create_repo("birds/open"); api.create_repo("birds/closed", private=True); print(0)',
    )
    before = hub.content("model", "birds/open")
    seen = run_client(hub, ACCESS, token, token=token)
    unknown = token == "hf_unknown"
    assert seen["who"] == seen["read"] == (["HfHubHTTPError", 401] if unknown else None)
    assert (seen["read private"] or [None])[-1] == seen_private
    assert {(seen[call] or [None])[-1] for call in WRITES} == {refused_writes}
    assert (hub.content("model", "birds/open") == before) is (refused_writes is not None)
    assert (("model", "birds/new") in hub.repositories) is (refused_writes is None)


def test_a_member_with_the_role_read_sees_private_repositories_and_changes_none(hub):
    hub.accounts["hf_member"] = Account("bob", readable=("birds",))
    run_client(
        hub,
        'api.create_repo("birds/open"); api.create_repo("birds/closed", private=True); print(0)',
    )
    seen = run_client(hub, ACCESS, "", token="hf_member")
    assert seen["read"] is seen["read private"] is None
    assert {seen[call][-1] for call in WRITES} == {403}
    assert (
        run_client(
            hub,
            'api.create_repo("mine"); print(json.dumps(api.whoami()["name"]))',
            token="hf_member",
        )
        == "bob"
    )
    assert ("model", "bob/mine") in hub.repositories


FINE_GRAINED = """
def commit(repo):
    return status(api.upload_file, repo_id=repo, path_in_repo="a.txt", path_or_fileobj=b"1")

print(json.dumps({
    "there": api.create_repo("birds/open", exist_ok=True),
    "not there": status(api.create_repo, "birds/new", exist_ok=True),
    "commit": commit("birds/open"),
    "elsewhere": commit("birds/closed"),
    "role": api.whoami()["auth"]["accessToken"]["role"],
}))
"""


def test_a_fine_grained_token_writes_to_its_repositories_alone(hub):
    hub.accounts["hf_fine"] = Account("ada", ("birds",), only=("birds/open",))
    run_client(
        hub,
        'api.create_repo("birds/open"); api.create_repo("birds/closed", private=True); print(0)',
    )
    seen = run_client(hub, FINE_GRAINED, token="hf_fine")
    assert seen["there"] == f"{hub.url}/birds/open" and seen["role"] == "fineGrained"
    assert seen["commit"] is None
    assert seen["not there"] == seen["elsewhere"] == ["HfHubHTTPError", 403]
    assert hub.content("model", "birds/open")["a.txt"] == b"1"
    assert "a.txt" not in hub.content("model", "birds/closed")


GATE = """
repo = api.create_repo("birds/data", repo_type="dataset").repo_id
api.upload_file(repo_id=repo, repo_type="dataset", path_in_repo="a.txt", path_or_fileobj=b"1")
api.update_repo_settings(repo, repo_type="dataset", gated="manual")
print(json.dumps(api.dataset_info(repo).gated))
"""
GATED = """
url = f"{api.endpoint}/datasets/birds/data/resolve/main/a.txt"
print(json.dumps({
    "info": status(api.dataset_info, "birds/data"),
    "files": api.list_repo_files("birds/data", repo_type="dataset"),
    "read": status(api.get_hf_file_metadata, url=url),
    "check": status(api.auth_check, "birds/data", repo_type="dataset"),
}))
"""


def test_a_gated_dataset_is_seen_by_all_and_read_by_those_who_may(hub):
    assert run_client(hub, GATE) == "manual"
    for token, answer in [
        (WRITE_TOKEN, None),
        (STRANGER_TOKEN, ["GatedRepoError", 403]),
        ("", ["GatedRepoError", 401]),
    ]:
        seen = run_client(hub, GATED, token=token)
        assert seen["info"] is None and seen["files"] == [".gitattributes", "a.txt"]
        assert seen["read"] == seen["check"] == answer
    hub.repository("dataset", "birds/data").readers.add("eve")
    assert run_client(hub, GATED, token=STRANGER_TOKEN)["read"] is None


SETTINGS = """
repo = api.create_repo("birds/data", repo_type="dataset").repo_id
kind = {"repo_type": "dataset"}
facts = [api.dataset_info(repo).private]
api.update_repo_settings(repo, private=True, **kind)
facts.append(api.dataset_info(repo).private)
stranger, reader = sys.argv[1:]
seen = {
    "private": facts,
    "by a stranger": status(api.update_repo_settings, repo, private=False, token=stranger, **kind),
    "by a reader": status(api.update_repo_settings, repo, private=False, token=reader, **kind),
    "delete by a reader": status(api.delete_repo, repo, token=reader, **kind),
    "exists": api.repo_exists(repo, **kind),
}
api.delete_repo(repo, **kind)
seen["deleted"] = [api.repo_exists(repo, **kind), status(api.delete_repo, repo, **kind)]
api.delete_repo(repo, missing_ok=True, **kind)
print(json.dumps(seen))
"""


def test_settings_are_changed_and_repositories_deleted_by_those_who_write(hub):
    seen = run_client(hub, SETTINGS, STRANGER_TOKEN, READ_TOKEN)
    assert seen["private"] == [False, True] and seen["exists"] is True
    assert seen["by a stranger"] == ["RepositoryNotFoundError", 404]
    assert seen["by a reader"] == seen["delete by a reader"] == ["HfHubHTTPError", 403]
    assert seen["deleted"] == [False, ["RepositoryNotFoundError", 404]] and not hub.repositories
