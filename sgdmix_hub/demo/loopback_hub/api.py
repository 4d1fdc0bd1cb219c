"""Calls about repositories, as huggingface_hub and @huggingface/hub make them."""

import base64
import json
import re
from urllib.parse import parse_qs

import yaml

from .access import (
    check_may_write,
    find_repository,
    may_see,
    readable_repository,
    writable_repository,
)
from .attributes import is_ignored, upload_mode
from .http import HubError, Response, error_response, file_response, json_response, page_response
from .listings import commit_facts, entry_at, expanded, picked_facts, repository_facts, tree
from .repositories import Repository, front_matter, regular_file
from .storage import git_type
from .xet import xet_headers

TREE_PAGE, EXPANDED_PAGE, COMMITS_PAGE = 1000, 50, 50


def web_url(hub, repository):
    folder = "" if repository.repo_type == "model" else f"{repository.repo_type}s/"
    return f"{hub.url}/{folder}{repository.repo_id}"


def create_repository(hub, request):
    wanted = request.json()
    repo_type = wanted.get("type") or "model"
    if request.account is None:
        raise HubError(401, "Invalid username or password.")
    namespace = wanted.get("organization") or request.account.user
    key = (repo_type, f"{namespace}/{wanted['name']}")
    exists = key in hub.repositories
    check_may_write(request.account, namespace)
    if repo_type == "space" and not wanted.get("sdk"):
        raise HubError(400, "A Space needs an sdk: gradio, docker or static")
    if not exists:
        hub.repositories[key] = new_repository(key, wanted, request.account.user)
    repository = hub.repositories[key]
    reply = {
        "url": web_url(hub, repository),
        "name": key[1],
        "id": repository_facts(repository, repository.commit_at("main"))["_id"],
    }
    if exists:
        return json_response(
            reply | {"error": f"You already created this {repo_type} repo: {key[1]}"}, 409
        )
    return json_response(reply)


def new_repository(key, wanted, author):
    """The repository that a call asks for. The JavaScript client may send its first files along."""
    if not re.fullmatch(r"(?!.*(?:\.\.|--))[\w][\w.-]{0,95}(?<![.-])", wanted["name"]):
        raise HubError(400, f"Invalid repo name: {key[1]}")
    private = wanted.get("visibility") == "private" or wanted.get("private", False)
    files = {
        file["path"]: regular_file(base64.b64decode(file["content"]))
        for file in wanted.get("files") or ()
    }
    if wanted.get("license"):
        files.setdefault(
            "README.md", regular_file(f"---\nlicense: {wanted['license']}\n---\n".encode())
        )
    return Repository(*key, private, author, first_files=files)


def delete_repository(hub, request):
    wanted = request.json()
    if request.account is None:
        raise HubError(401, "Invalid username or password.")
    key = (
        wanted.get("type") or "model",
        f"{wanted.get('organization') or request.account.user}/{wanted['name']}",
    )
    writable_repository(hub, request, *key)
    del hub.repositories[key]
    return json_response({})


def change_settings(hub, request, repo_type, repo_id):
    repository = writable_repository(hub, request, repo_type, repo_id)
    wanted = request.json()
    if wanted.get("visibility", "public") not in ("public", "private") or wanted.get(
        "gated", False
    ) not in (False, "auto", "manual"):
        raise HubError(400, f"Invalid settings: {wanted}")
    if "visibility" in wanted:
        repository.private = wanted["visibility"] == "private"
    repository.gated = wanted.get("gated", repository.gated)
    return json_response({"private": repository.private, "gated": repository.gated})


def validate_yaml(hub, request):
    try:
        card_data = front_matter(request.json()["content"])
    except yaml.YAMLError as error:
        return json_response({"errors": [{"message": f"bad YAML: {error}"}], "warnings": []}, 400)
    warnings = [] if card_data else [{"message": "empty or missing yaml metadata in repo card"}]
    return json_response({"errors": [], "warnings": warnings})


def list_repositories(hub, request, repo_type):
    """All visible repositories of a type, newest first, filtered by owner, words and tags."""
    found = []
    for repository in reversed(hub.repositories.values()):
        facts = repository_facts(repository, repository.commit_at("main"))
        words = [word.lower() for word in request.options("search")]
        fits = request.option("author") in ("", repository.namespace) and all(
            word in repository.repo_id.lower() for word in words
        )
        if repository.repo_type == repo_type and may_see(request.account, repository) and fits:
            found.append(facts)
    tagged = [facts for facts in found if set(request.options("filter")) <= set(facts["tags"])]
    return page_response(
        hub,
        request,
        [picked_facts(facts, request.options("expand")) for facts in tagged],
        TREE_PAGE,
    )


def info(hub, request, repo_type, repo_id, revision="main"):
    repository = find_repository(hub, request, repo_type, repo_id)
    facts = repository_facts(repository, repository.commit_at(revision), request.is_on("blobs"))
    return json_response(picked_facts(facts, request.options("expand")))


def list_tree(hub, request, repo_type, repo_id, revision_and_folder):
    repository = find_repository(hub, request, repo_type, repo_id)
    commit, folder = repository.split_revision(revision_and_folder)
    entries = tree(commit, folder, request.is_on("recursive"))
    if not request.is_on("expand"):
        return page_response(hub, request, entries, TREE_PAGE)
    history = repository.ancestry(commit)
    return page_response(
        hub, request, [expanded(entry, history) for entry in entries], EXPANDED_PAGE
    )


def paths_info(hub, request, repo_type, repo_id, revision):
    """The entries of existing paths. The Python client sends a form, the JavaScript client JSON."""
    repository = find_repository(hub, request, repo_type, repo_id)
    commit = repository.commit_at(revision)
    if "json" in request.headers.get("content-type", ""):
        wanted = request.json()
        paths, expand = wanted["paths"], wanted.get("expand")
    else:
        form = parse_qs(request.body.decode())
        paths, expand = form.get("paths", []), form.get("expand", [""])[0].lower() == "true"
    entries = [entry for path in paths if (entry := entry_at(commit, path.rstrip("/")))]
    return json_response(
        [expanded(entry, repository.ancestry(commit)) for entry in entries] if expand else entries
    )


def refs(hub, request, repo_type, repo_id):
    """All branches and tags: no client asks for a second page of them."""
    repository = find_repository(hub, request, repo_type, repo_id)
    branches = [
        {"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid}
        for name, oid in repository.branches.items()
    ]
    tags = [
        {"name": name, "ref": f"refs/tags/{name}", "targetCommit": oid}
        for name, oid in repository.tags.items()
    ]
    facts = {"branches": branches, "converts": [], "tags": tags}
    return json_response(facts | {"pullRequests": []} if request.is_on("include_prs") else facts)


def commits(hub, request, repo_type, repo_id, revision):
    history = find_repository(hub, request, repo_type, repo_id).history(revision)
    formatted = "formatted" in request.options("expand")
    return page_response(
        hub, request, [commit_facts(commit, formatted) for commit in history], COMMITS_PAGE
    )


def preupload(hub, request, repo_type, repo_id, revision):
    """How to send each file, by .gitattributes and .gitignore: those in the call come first."""
    refuse_pull_request(request)
    commit = writable_repository(hub, request, repo_type, repo_id).commit_at(revision)
    wanted = request.json()
    attributes = wanted.get("gitAttributes") or commit.text_of(".gitattributes")
    ignore = wanted.get("gitIgnore") or commit.text_of(".gitignore")
    answers = []
    for file in wanted["files"]:
        mode = upload_mode(attributes, file["path"], base64.b64decode(file["sample"]), file["size"])
        facts = {
            "path": file["path"],
            "uploadMode": mode,
            "shouldIgnore": is_ignored(ignore, file["path"]),
        }
        if file["path"] in commit.files:
            facts["oid"] = commit.files[file["path"]].known_oid
        answers.append(facts)
    return json_response({"files": answers, "commitOid": commit.oid})


def refuse_pull_request(request):
    """Rather than a commit where none was asked for."""
    if request.is_on("create_pr"):
        raise HubError(400, "the loopback Hub keeps no pull requests")


def create_commit(hub, request, repo_type, repo_id, branch):
    refuse_pull_request(request)
    repository = writable_repository(hub, request, repo_type, repo_id)
    lines = [json.loads(line) for line in request.body.splitlines() if line]
    made = repository.commit(branch, lines, request.account.user, hub.is_stored)
    url = f"{web_url(hub, repository)}/commit/{made.oid}"
    return json_response(
        {"success": True, "commitOid": made.oid, "commitUrl": url, "hookOutput": ""}
    )


def super_squash(hub, request, repo_type, repo_id, branch):
    writable_repository(hub, request, repo_type, repo_id).squash(
        branch, request.json()["message"], request.account.user
    )
    return json_response({})


def create_tag(hub, request, repo_type, repo_id, revision):
    writable_repository(hub, request, repo_type, repo_id).add_tag(request.json()["tag"], revision)
    return json_response({})


def delete_tag(hub, request, repo_type, repo_id, tag):
    writable_repository(hub, request, repo_type, repo_id).delete_tag(tag)
    return json_response({})


def create_branch(hub, request, repo_type, repo_id, branch):
    wanted = request.json()
    how = {"empty": wanted.get("emptyBranch", False), "overwrite": wanted.get("overwrite", False)}
    writable_repository(hub, request, repo_type, repo_id).add_branch(
        branch, wanted.get("startingPoint"), **how
    )
    return json_response({})


def delete_branch(hub, request, repo_type, repo_id, branch):
    writable_repository(hub, request, repo_type, repo_id).delete_branch(branch)
    return json_response({})


def resolve(hub, request, prefix, repo_id, revision, path):
    """A file's bytes; those of LFS objects are elsewhere, at an address that needs no token."""
    repository = readable_repository(hub, request, git_type(prefix), repo_id)
    oid = repository.commit_at(revision).oid
    try:
        file = repository.file_at(revision, path)
    except HubError as error:
        response = error_response(error)
        response.headers["X-Repo-Commit"] = oid  # lets clients remember that the file is not there
        return response
    if file.sha256 is None:
        return file_response(request, file.blob, {"X-Repo-Commit": oid, "ETag": f'"{file.oid}"'})
    linked = {
        "X-Linked-Etag": f'"{file.sha256}"',
        "X-Linked-Size": str(file.size),
        "Location": f"{hub.storage_url}/lfs/{file.sha256}",
    }
    return Response(
        302,
        headers={"X-Repo-Commit": oid} | linked | xet_headers(hub, repository, oid, file.sha256),
    )


def raw(hub, request, prefix, repo_id, revision, path):
    """What git holds of a file: the pointer, where the content is by LFS."""
    repository = readable_repository(hub, request, git_type(prefix), repo_id)
    file = repository.file_at(revision, path)
    return file_response(
        request,
        file.blob,
        {"X-Repo-Commit": repository.commit_at(revision).oid, "ETag": f'"{file.oid}"'},
    )
