"""Repositories as the Hub keeps them: commits, branches, tags, regular and LFS files."""

import base64
import hashlib
import json
import re
import time
from dataclasses import dataclass, field

import yaml

from .attributes import REGULAR_LIMIT, first_attributes
from .http import HubError

DEFAULT_BRANCH = "main"
# git-check-ref-format, for the names that anybody would try
REF_NAME = re.compile(
    r"(?!.*(?:\.\.|//|@\{|\.lock$|[./]$))[^\s~^:?*\[\\\x00-\x1f\x7f./-][^\s~^:?*\[\\\x00-\x1f\x7f]*"
)


@dataclass(frozen=True)
class File:
    """A file of a commit.

    `blob`: git's content, or the pointer to an LFS object of `size` bytes.
    """

    blob: bytes
    size: int
    sha256: str | None = None

    @property
    def oid(self):
        """The git blob id."""
        return hashlib.sha1(b"blob %d\0" % len(self.blob) + self.blob).hexdigest()

    @property
    def known_oid(self):
        """The hash that a client compares: sha256 for LFS, git's sha1 for regular files."""
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

    def text_of(self, path):
        """A regular file's content, or an empty text."""
        return self.files[path].blob.decode(errors="replace") if path in self.files else ""


def regular_file(content):
    return File(content, len(content))


def lfs_file(sha256, size):
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
    return File(pointer.encode(), size, sha256)


def front_matter(text):
    """The YAML at the top of a card, or an empty dictionary. Raises `yaml.YAMLError`."""
    if not text.startswith("---\n"):
        return {}
    metadata = yaml.safe_load(text[4:].partition("\n---")[0]) or {}
    if not isinstance(metadata, dict):
        raise yaml.YAMLError("the metadata is not a map")
    return metadata


@dataclass
class Repository:
    """A model or dataset with its history; it starts with one commit that adds .gitattributes."""

    repo_type: str
    repo_id: str
    private: bool
    author: str
    # "auto", "manual" or False. If gated, only its namespace and `readers` may read file contents.
    gated: str | bool = False
    readers: set[str] = field(default_factory=set)
    first_files: dict[str, File] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        files = {
            ".gitattributes": regular_file(first_attributes(self.repo_type))
        } | self.first_files
        self._add_commit(DEFAULT_BRANCH, None, "initial commit", "", self.author, files)

    @property
    def namespace(self):
        return self.repo_id.partition("/")[0]

    def find(self, revision) -> Commit | None:
        """The commit of a branch, a tag, an id or its first seven digits or more."""
        name = DEFAULT_BRANCH if revision == "HEAD" else revision
        oid = self.branches.get(name.removeprefix("refs/heads/")) or self.tags.get(
            name.removeprefix("refs/tags/")
        )
        if oid is None and re.fullmatch("[0-9a-f]{7,40}", revision):
            oid = next((known for known in self.commits if known.startswith(revision)), None)
        return self.commits.get(oid)

    def commit_at(self, revision) -> Commit:
        commit = self.find(revision)
        if commit is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def split_revision(self, text):
        """Splits `revision/path`; a client may not have quoted slashes in a branch's name."""
        parts = text.split("/")
        for length in range(1, len(parts) + 1):
            commit = self.find("/".join(parts[:length]))
            if commit:
                return commit, "/".join(parts[length:])
        raise HubError(404, f"Invalid rev id: {parts[0]}", "RevisionNotFound")

    def history(self, revision):
        """The commits behind a revision, newest first."""
        return self.ancestry(self.commit_at(revision))

    def ancestry(self, commit):
        found = [commit]
        while commit.parent:
            commit = self.commits[commit.parent]
            found.append(commit)
        return found

    def commit(self, branch, lines, author, is_stored):
        """Applies the lines of a commit request to a branch.

        `is_stored` tells which LFS objects exist. An empty change still makes a commit: clients
        that want none ask first.
        """
        if not lines or lines[0]["key"] != "header" or len(lines) == 1:
            raise HubError(
                400,
                "A commit is a line with the key `header`, then lines with `lfsFile`, `file` or "
                "`deletedFile`",
            )
        head = self.head_of(branch)
        header = lines[0]["value"]
        if not head.oid.startswith(header.get("parentCommit") or ""):
            raise HubError(
                412,
                "The branch was updated since you opened this page. Please refresh and try again.",
            )
        files = dict(head.files)
        for line in lines[1:]:
            apply_operation(files, line["key"], self._with_size(line["value"]), is_stored)
        check_card(files)
        return self._add_commit(
            branch, head.oid, header["summary"], header.get("description", ""), author, files
        )

    def _with_size(self, value):
        """Adds the size of a copied LFS file, which clients do not send."""
        if "oid" not in value or "size" in value:
            return value
        sizes = [
            file.size
            for commit in self.commits.values()
            for file in commit.files.values()
            if file.sha256 == value["oid"]
        ]
        return value | {"size": sizes[0] if sizes else None}

    def head_of(self, branch) -> Commit:
        """The newest commit of a branch: neither tags nor ids can be committed to."""
        if branch not in self.branches:
            raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        return self.commits[self.branches[branch]]

    def squash(self, branch, message, author):
        """Squashes a branch into one commit without a parent; tags and other branches stay."""
        self._add_commit(branch, None, message, "", author, self.head_of(branch).files)

    def _add_commit(self, branch, parent, title, message, author, files):
        listing = sorted((path, file.oid) for path, file in files.items())
        oid = hashlib.sha1(
            json.dumps([self.repo_id, parent, title, author, listing]).encode()
        ).hexdigest()
        date = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        self.commits[oid] = Commit(oid, parent, title, message, author, date, files)
        self.branches[branch] = oid
        return self.commits[oid]

    def add_tag(self, tag, revision):
        oid = self.commit_at(revision).oid
        check_ref_name(tag, "tag")
        if tag in self.tags:
            raise HubError(409, f"Tag reference exists already: {tag}")
        self.tags[tag] = oid

    def delete_tag(self, tag):
        if self.tags.pop(tag, None) is None:
            raise HubError(404, f"Invalid rev id: {tag}", "RevisionNotFound")

    def add_branch(self, branch, starting_point=None, empty=False, overwrite=False):
        """Adds a branch from a revision (default: the default branch), or without files."""
        check_ref_name(branch, "branch")
        if branch in self.branches and not overwrite:
            raise HubError(409, f"Reference refs/heads/{branch} already exists")
        if empty:
            self._add_commit(branch, None, "initial commit", "", self.author, {})
        elif starting_point or branch not in self.branches:
            self.branches[branch] = self.commit_at(starting_point or DEFAULT_BRANCH).oid

    def delete_branch(self, branch):
        if branch == DEFAULT_BRANCH:
            raise HubError(403, f"Cannot delete refs/heads/{branch}")
        self.head_of(branch)
        del self.branches[branch]

    def file_at(self, revision, path) -> File:
        files = self.commit_at(revision).files
        if path not in files:
            raise HubError(404, "Entry not found", "EntryNotFound")
        return files[path]


def check_ref_name(name, kind):
    if name.startswith("refs/") or not REF_NAME.fullmatch(name):
        raise HubError(400, f"Invalid reference for a {kind}: {name}")


def check_card(files):
    """The Hub refuses a card whose metadata it cannot read, whatever the client asked before."""
    try:
        front_matter(
            files["README.md"].blob.decode(errors="replace") if "README.md" in files else ""
        )
    except yaml.YAMLError as error:
        raise HubError(400, f"Invalid YAML in README.md: {error}".replace("\n", " ")) from None


def apply_operation(files, key, value, is_stored):
    """One line of a commit, on a dictionary of files."""
    path = value["path"]
    if "\\" in path or any(
        part in ("", ".", "..", ".git") for part in path.removesuffix("/").split("/")
    ):
        raise HubError(422, f"Invalid path: {path}")
    if key == "file":
        files[path] = sent_file(path, value)
    elif key == "lfsFile":
        if value["size"] is None or not is_stored(value["oid"]):
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


def sent_file(path, value):
    """A file whose content is in the commit's line."""
    content = (
        value["content"].encode()
        if value.get("encoding") == "utf-8"
        else base64.b64decode(value["content"])
    )
    if len(content) > REGULAR_LIMIT:
        raise HubError(400, f"{path} is larger than 10 MiB: it has to go by LFS")
    return regular_file(content)
