"""Repositories as the Hub keeps them: commits, branches, tags, regular and LFS files. The state behind `loopback_hub`."""

import base64
import hashlib
import json
import time
from dataclasses import dataclass, field
from fnmatch import fnmatch

import yaml

REGULAR_LIMIT = 10 * 1024 * 1024
LFS_PATTERNS = ("*.arrow", "*.bin", "*.npy", "*.npz", "*.parquet", "*.pt", "*.safetensors", "*.zip")
GIT_ATTRIBUTES = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LFS_PATTERNS).encode()


class HubError(Exception):
    """What the Hub answers with an error status. `code` is its X-Error-Code."""

    def __init__(self, status, message, code=None):
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True)
class File:
    """A file of a commit. `blob` is what git holds: the content, or the pointer to an LFS object of `size` bytes."""

    blob: bytes
    size: int
    sha256: str | None = None

    @property
    def oid(self):
        """The git blob id."""
        return hashlib.sha1(b"blob %d\0" % len(self.blob) + self.blob).hexdigest()

    @property
    def known_oid(self):
        """What a client compares its own file with: sha256 for LFS, git's sha1 for regular files."""
        return self.sha256 or self.oid


@dataclass(frozen=True)
class Commit:
    """A snapshot of all files and where it came from."""

    oid: str
    parent: str | None
    title: str
    message: str
    author: str
    date: str
    files: dict[str, File]


def regular_file(content):
    return File(content, len(content))


def lfs_file(sha256, size):
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
    return File(pointer.encode(), size, sha256)


def upload_mode(path, sample, size):
    """How the Hub wants a file: binary, large and listed ones by LFS, empty ones never."""
    by_lfs = any(fnmatch(path, pattern) for pattern in LFS_PATTERNS) or b"\0" in sample or size > REGULAR_LIMIT
    return "lfs" if by_lfs and size > 0 else "regular"


def front_matter(text):
    """The YAML at the top of a card, or an empty dictionary. Raises `yaml.YAMLError`."""
    if not text.startswith("---\n"):
        return {}
    return yaml.safe_load(text[4:].partition("\n---")[0]) or {}


@dataclass
class Repository:
    """A model or dataset with its history. It starts as the Hub's do: one commit that holds .gitattributes."""

    repo_type: str
    repo_id: str
    private: bool
    author: str
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        self._add_commit("main", None, "initial commit", "", self.author, {".gitattributes": regular_file(GIT_ATTRIBUTES)})

    @property
    def namespace(self):
        return self.repo_id.partition("/")[0]

    def commit_at(self, revision):
        """The commit of a branch, a tag or an id."""
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        if oid not in self.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def history(self, revision):
        """The commits behind a revision, newest first."""
        commit = self.commit_at(revision)
        found = [commit]
        while commit.parent:
            commit = self.commits[commit.parent]
            found.append(commit)
        return found

    def commit(self, branch, lines, author, is_stored):
        """Applies the lines of a commit request on a branch; `is_stored` tells which LFS objects there are. What changes nothing makes no
        commit."""
        header, *operations = [(line["key"], line["value"]) for line in lines]
        head = self.commit_at(branch)
        if not head.oid.startswith(header[1].get("parentCommit") or ""):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        for key, value in operations:
            apply_operation(files, key, value, is_stored)
        if files == head.files:
            return head
        return self._add_commit(branch, head.oid, header[1]["summary"], header[1].get("description", ""), author, files)

    def _add_commit(self, branch, parent, title, message, author, files):
        listing = sorted((path, file.oid) for path, file in files.items())
        oid = hashlib.sha1(json.dumps([self.repo_id, parent, title, author, listing]).encode()).hexdigest()
        date = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        self.commits[oid] = Commit(oid, parent, title, message, author, date, files)
        self.branches[branch] = oid
        return self.commits[oid]

    def add_tag(self, tag, revision):
        oid = self.commit_at(revision).oid
        if tag in self.tags:
            raise HubError(409, f"Tag reference exists already: {tag}")
        self.tags[tag] = oid

    def add_branch(self, branch, starting_point):
        oid = self.commit_at(starting_point).oid
        if branch in self.branches:
            raise HubError(409, f"Reference already exists: {branch}")
        self.branches[branch] = oid

    def file_at(self, revision, path):
        files = self.commit_at(revision).files
        if path not in files:
            raise HubError(404, "Entry not found", "EntryNotFound")
        return files[path]


def apply_operation(files, key, value, is_stored):
    """One line of a commit, on a dictionary of files."""
    path = value["path"]
    if key == "file":
        files[path] = regular_file(base64.b64decode(value["content"]))
    elif key == "lfsFile":
        if not is_stored(value["oid"]):
            raise HubError(400, f"LFS pointer pointed to a file that does not exist: {path}")
        files[path] = lfs_file(value["oid"], value["size"])
    elif key == "deletedFile":
        if files.pop(path, None) is None:
            raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
    elif key == "deletedFolder":
        for name in [name for name in files if name.startswith(path.rstrip("/") + "/")]:
            del files[name]
    else:
        raise HubError(400, f"unknown operation: {key}")


def tree(commit, folder, recursive):
    """The entries of a folder as the Hub lists them, subfolders among them."""
    prefix = folder.rstrip("/") + "/" if folder else ""
    inside = {path: file for path, file in commit.files.items() if path.startswith(prefix)}
    if folder and not inside:
        raise HubError(404, f"{folder} does not exist on this revision", "EntryNotFound")
    folders = {prefix + "/".join(parts[:depth]) for parts in relative_parts(inside, prefix) for depth in range(1, len(parts))}
    entries = [folder_entry(name, commit) for name in folders] + [file_entry(name, file) for name, file in inside.items()]
    shown = [entry for entry in entries if recursive or "/" not in entry["path"].removeprefix(prefix)]
    return sorted(shown, key=lambda entry: entry["path"])


def relative_parts(paths, prefix):
    return [path.removeprefix(prefix).split("/") for path in paths]


def entry_at(commit, path):
    """One path's entry in a tree, or None."""
    if path in commit.files:
        return file_entry(path, commit.files[path])
    return folder_entry(path, commit) if any(name.startswith(path + "/") for name in commit.files) else None


def folder_entry(name, commit):
    return {"type": "directory", "path": name, "oid": hashlib.sha1(f"{commit.oid} {name}".encode()).hexdigest(), "size": 0}


def file_entry(name, file):
    entry = {"type": "file", "path": name, "oid": file.oid, "size": file.size}
    if file.sha256:
        entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": len(file.blob)}
    return entry


def sibling(name, file, with_blobs):
    """A file as repo info lists it."""
    if not with_blobs:
        return {"rfilename": name}
    facts = {"rfilename": name, "size": file.size, "blobId": file.oid}
    if file.sha256:
        facts["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": len(file.blob)}
    return facts


def repository_facts(repository, revision, with_blobs):
    """What GET /api/models/org/name tells."""
    commit = repository.commit_at(revision)
    readme = commit.files.get("README.md", regular_file(b""))
    history = repository.history(revision)
    return {
        "id": repository.repo_id,
        "author": repository.namespace,
        "sha": commit.oid,
        "private": repository.private,
        "gated": False,
        "disabled": False,
        "createdAt": history[-1].date,
        "lastModified": commit.date,
        "tags": [],
        "downloads": 0,
        "likes": 0,
        "cardData": front_matter(readme.blob.decode()),
        "siblings": [sibling(name, file, with_blobs) for name, file in sorted(commit.files.items())],
    }
