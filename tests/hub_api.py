"""The Hub's HTTP calls, as huggingface_hub makes them: each function answers one of them from `loopback_hub`'s state."""

import base64
import hashlib
import json
import re
import time
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote

import yaml
from hub_repositories import HubError, Repository, entry_at, front_matter, repository_facts, tree, upload_mode

API = r"/api/(?P<repo_type>model|dataset)s/(?P<repo_id>[^/]+/[^/]+)"
GIT = r"/(?P<repo_type>datasets/)?(?P<repo_id>[^/]+/[^/]+)"
ROUTES = []


@dataclass
class Request:
    """A call as it came in. `account` is None without a token that is known."""

    method: str
    path: str
    query: str
    headers: dict
    body: bytes
    account: object

    def json(self):
        return json.loads(self.body)

    def option(self, name):
        """A value of the query string, or an empty text."""
        return parse_qs(self.query).get(name, [""])[0]


@dataclass
class Response:
    status: int = 200
    body: bytes = b""
    headers: dict = field(default_factory=dict)


def json_response(value, status=200):
    return Response(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


def error_response(error):
    """An error as the Hub words it, in headers and body."""
    response = json_response({"error": str(error)}, error.status)
    response.headers["X-Error-Message"] = str(error)
    if error.code:
        response.headers["X-Error-Code"] = error.code
    return response


def route(method, pattern):
    """Makes a function the answer to a method and a path; the path's named parts are its arguments."""

    def register(function):
        ROUTES.append((method, re.compile(pattern), function))
        return function

    return register


def answer(hub, request):
    """The response to a request, errors included."""
    try:
        if request.headers.get("authorization") and request.account is None:
            raise HubError(401, "Invalid credentials in Authorization header")
        for method, pattern, function in ROUTES:
            if method == request.method and (match := pattern.fullmatch(request.path)):
                return function(hub, request, **{name: unquote(value or "") for name, value in match.groupdict().items()})
        raise HubError(404, f"no such call: {request.method} {request.path}")
    except HubError as error:
        return error_response(error)


def find_repository(hub, request, repo_type, repo_id):
    """The repository of a call that only reads. The Hub hides what may not be read behind the answer for what does not exist."""
    repository = hub.repositories.get((repo_type, repo_id))
    account = request.account
    if repository is None or (repository.private and (account is None or repository.namespace not in account.namespaces)):
        if account is None:
            raise HubError(401, "Invalid username or password.", "RepoNotFound")
        raise HubError(404, "Repository not found", "RepoNotFound")
    return repository


def writable_repository(hub, request, repo_type, repo_id):
    """The repository of a call that writes."""
    repository = find_repository(hub, request, repo_type, repo_id)
    check_may_write(request.account, repository.namespace)
    return repository


def check_may_write(account, namespace):
    if account is None:
        raise HubError(401, "Invalid username or password.")
    if not account.may_write or namespace not in account.namespaces:
        raise HubError(403, f"You don't have the rights to write under the namespace {namespace!r}.")


def git_type(prefix):
    return "dataset" if prefix else "model"


def web_url(hub, repository):
    return f"{hub.url}/{'datasets/' if repository.repo_type == 'dataset' else ''}{repository.repo_id}"


@route("GET", "/api/whoami-v2")
def whoami(hub, request):
    account = request.account
    if account is None:
        raise HubError(401, "Invalid username or password.")
    token = {"displayName": "loopback", "role": "write" if account.may_write else "read"}
    organizations = [{"type": "org", "name": name, "roleInOrg": "write"} for name in account.organizations]
    return json_response({"type": "user", "name": account.user, "orgs": organizations, "auth": {"accessToken": token}})


@route("POST", "/api/repos/create")
def create_repository(hub, request):
    wanted = request.json()
    repo_type = wanted.get("type") or "model"
    if request.account is None:
        raise HubError(401, "Invalid username or password.")
    namespace = wanted.get("organization") or request.account.user
    check_may_write(request.account, namespace)
    key = (repo_type, f"{namespace}/{wanted['name']}")
    exists = key in hub.repositories
    if not exists:
        private = wanted.get("visibility") == "private" or wanted.get("private", False)
        hub.repositories[key] = Repository(*key, private, request.account.user)
    reply = {"url": web_url(hub, hub.repositories[key]), "name": key[1]}
    if exists:
        return json_response(reply | {"error": f"You already created this {repo_type} repo: {key[1]}"}, 409)
    return json_response(reply)


@route("POST", "/api/validate-yaml")
def validate_yaml(hub, request):
    try:
        card_data = front_matter(request.json()["content"])
    except yaml.YAMLError as error:
        return json_response({"errors": [{"message": f"bad YAML: {error}"}], "warnings": []}, 400)
    warnings = [] if card_data else [{"message": "empty or missing yaml metadata in repo card"}]
    return json_response({"errors": [], "warnings": warnings})


@route("GET", API + "/auth-check/write")
def check_write(hub, request, repo_type, repo_id):
    writable_repository(hub, request, repo_type, repo_id)
    return json_response({})


@route("GET", API)
@route("GET", API + "/revision/(?P<revision>[^/]+)")
def info(hub, request, repo_type, repo_id, revision="main"):
    repository = find_repository(hub, request, repo_type, repo_id)
    return json_response(repository_facts(repository, revision, request.option("blobs").lower() == "true"))


@route("GET", API + "/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?")
def list_tree(hub, request, repo_type, repo_id, revision, folder):
    commit = find_repository(hub, request, repo_type, repo_id).commit_at(revision)
    return json_response(tree(commit, folder, request.option("recursive").lower() == "true"))


@route("POST", API + "/paths-info/(?P<revision>[^/]+)")
def paths_info(hub, request, repo_type, repo_id, revision):
    commit = find_repository(hub, request, repo_type, repo_id).commit_at(revision)
    paths = parse_qs(request.body.decode())["paths"]
    return json_response([entry for path in paths if (entry := entry_at(commit, path.rstrip("/")))])


@route("GET", API + "/refs")
def refs(hub, request, repo_type, repo_id):
    repository = find_repository(hub, request, repo_type, repo_id)
    branches = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid} for name, oid in repository.branches.items()]
    tags = [{"name": name, "ref": f"refs/tags/{name}", "targetCommit": oid} for name, oid in repository.tags.items()]
    return json_response({"branches": branches, "converts": [], "tags": tags})


@route("GET", API + "/commits/(?P<revision>[^/]+)")
def commits(hub, request, repo_type, repo_id, revision):
    return json_response(
        [
            {"id": commit.oid, "title": commit.title, "message": commit.message, "date": commit.date, "authors": [{"user": commit.author}]}
            for commit in find_repository(hub, request, repo_type, repo_id).history(revision)
        ]
    )


@route("POST", API + "/preupload/(?P<revision>[^/]+)")
def preupload(hub, request, repo_type, repo_id, revision):
    commit = writable_repository(hub, request, repo_type, repo_id).commit_at(revision)
    answers = []
    for file in request.json()["files"]:
        mode = upload_mode(file["path"], base64.b64decode(file["sample"]), file["size"])
        facts = {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
        if file["path"] in commit.files:
            facts["oid"] = commit.files[file["path"]].known_oid
        answers.append(facts)
    return json_response({"files": answers})


@route("POST", GIT + r"\.git/info/lfs/objects/batch")
def lfs_batch(hub, request, repo_type, repo_id):
    writable_repository(hub, request, git_type(repo_type), repo_id)
    objects = []
    for wanted in request.json()["objects"]:
        actions = {
            "upload": {"href": f"{hub.storage_url}/lfs/{wanted['oid']}"},
            "verify": {"href": f"{hub.url}/{repo_type}{repo_id}.git/info/lfs/verify"},
        }
        objects.append(wanted if wanted["oid"] in hub.lfs_objects else wanted | {"actions": actions})
    return json_response({"transfer": "basic", "objects": objects})


@route("PUT", "/lfs/(?P<sha256>[0-9a-f]{64})")
def lfs_upload(hub, request, sha256):
    if hashlib.sha256(request.body).hexdigest() != sha256:
        raise HubError(400, "the content does not have the announced SHA-256")
    hub.lfs_objects[sha256] = request.body
    return Response()


@route("POST", GIT + r"\.git/info/lfs/verify")
def lfs_verify(hub, request, repo_type, repo_id):
    writable_repository(hub, request, git_type(repo_type), repo_id)
    announced = request.json()
    if len(hub.lfs_objects.get(announced["oid"], b"")) != announced["size"]:
        raise HubError(404, "the object was not uploaded")
    return json_response({})


@route("GET", "/lfs/(?P<sha256>[0-9a-f]{64})")
def lfs_download(hub, request, sha256):
    return Response(body=hub.lfs_objects[sha256], headers={"Content-Type": "application/octet-stream"})


@route("GET", API + "/xet-write-token/(?P<revision>[^/]+)")
def xet_write_token(hub, request, repo_type, repo_id, revision):
    """Where Xet's client shall put its chunks: it writes to a folder as it does to a server."""
    writable_repository(hub, request, repo_type, repo_id)
    if hub.xet_storage is None:
        raise HubError(404, "no Xet storage here")
    return json_response({"casUrl": f"local://{hub.xet_storage}", "exp": int(time.time()) + 3600, "accessToken": "xet"})


@route("POST", API + "/commit/(?P<branch>[^/]+)")
def commit(hub, request, repo_type, repo_id, branch):
    repository = writable_repository(hub, request, repo_type, repo_id)
    lines = [json.loads(line) for line in request.body.splitlines() if line]
    made = repository.commit(branch, lines, request.account.user, hub.is_stored)
    return json_response({"success": True, "commitOid": made.oid, "commitUrl": f"{web_url(hub, repository)}/commit/{made.oid}"})


@route("POST", API + "/tag/(?P<revision>[^/]+)")
def create_tag(hub, request, repo_type, repo_id, revision):
    writable_repository(hub, request, repo_type, repo_id).add_tag(request.json()["tag"], revision)
    return json_response({})


@route("POST", API + "/branch/(?P<branch>[^/]+)")
def create_branch(hub, request, repo_type, repo_id, branch):
    writable_repository(hub, request, repo_type, repo_id).add_branch(branch, request.json().get("startingPoint") or "main")
    return json_response({})


@route("HEAD", GIT + "/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
@route("GET", GIT + "/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def resolve(hub, request, repo_type, repo_id, revision, path):
    """A file's bytes; those of LFS objects are elsewhere, at an address that needs no token."""
    repository = find_repository(hub, request, git_type(repo_type), repo_id)
    oid = repository.commit_at(revision).oid
    try:
        file = repository.file_at(revision, path)
    except HubError as error:
        response = error_response(error)
        response.headers["X-Repo-Commit"] = oid  # lets clients remember that the file is not there
        return response
    if file.sha256 is None:
        return Response(body=file.blob, headers={"X-Repo-Commit": oid, "ETag": f'"{file.oid}"', "Content-Type": "application/octet-stream"})
    linked = {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size), "Location": f"{hub.storage_url}/lfs/{file.sha256}"}
    return Response(302, headers={"X-Repo-Commit": oid} | linked)
