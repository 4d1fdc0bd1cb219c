"""What a repository's commits contain, as the Hub lists it."""

import hashlib

from .http import HubError
from .repositories import front_matter

CARD_TAGS = ("license", "task_categories", "size_categories", "language", "source_datasets")


def tree(commit, folder, recursive):
    """The entries of a folder as the Hub lists them, subfolders among them."""
    prefix = folder.rstrip("/") + "/" if folder else ""
    inside = {path: file for path, file in commit.files.items() if path.startswith(prefix)}
    if folder and not inside:
        raise HubError(404, f"{folder} does not exist on this revision", "EntryNotFound")
    parts = [path.removeprefix(prefix).split("/") for path in inside]
    folders = {
        prefix + "/".join(names[:depth]) for names in parts for depth in range(1, len(names))
    }
    entries = [folder_entry(name, commit) for name in folders] + [
        file_entry(name, file) for name, file in inside.items()
    ]
    shown = [
        entry for entry in entries if recursive or "/" not in entry["path"].removeprefix(prefix)
    ]
    return sorted(shown, key=lambda entry: entry["path"])


def entry_at(commit, path):
    """One path's entry in a tree, or None."""
    if path in commit.files:
        return file_entry(path, commit.files[path])
    return (
        folder_entry(path, commit)
        if any(name.startswith(path + "/") for name in commit.files)
        else None
    )


def folder_entry(name, commit):
    inside = sorted(
        (path, file.oid) for path, file in commit.files.items() if path.startswith(name + "/")
    )
    return {
        "type": "directory",
        "path": name,
        "oid": hashlib.sha1(repr(inside).encode()).hexdigest(),
        "size": 0,
    }


def file_entry(name, file):
    entry = {"type": "file", "path": name, "oid": file.oid, "size": file.size}
    if file.sha256:
        entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": len(file.blob)}
    return entry


def expanded(entry, history):
    """An entry with its newest commit in `history` and the state of the virus scan."""
    last, oid = history[0], entry["oid"]
    for commit in history:
        found = entry_at(commit, entry["path"])
        if found is None or found["oid"] != oid:
            break
        last = commit
    more = {"lastCommit": {"id": last.oid, "title": last.title, "date": last.date}}
    if entry["type"] == "file":
        more["securityFileStatus"] = {
            "status": "unscanned",
            "avScan": None,
            "pickleImportScan": None,
        }
    return entry | more


def commit_facts(commit, formatted):
    """A commit as the list of commits has it."""
    author = {"user": commit.author, "avatar": f"/avatars/{commit.author}.svg"}
    facts = {
        "id": commit.oid,
        "title": commit.title,
        "message": commit.message,
        "date": commit.date,
        "authors": [author],
    }
    return (
        facts | {"formatted": {"title": commit.title, "message": commit.message}}
        if formatted
        else facts
    )


def sibling(name, file, with_blobs):
    """A file as repo info lists it."""
    if not with_blobs:
        return {"rfilename": name}
    facts = {"rfilename": name, "size": file.size, "blobId": file.oid}
    if file.sha256:
        facts["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": len(file.blob)}
    return facts


def card_tags(card):
    """The tags that the Hub makes of a card's metadata, by which it can be searched."""
    values = [(name, card.get(name)) for name in CARD_TAGS]
    named = [
        f"{name}:{value}"
        for name, listed in values
        if listed
        for value in (listed if isinstance(listed, list) else [listed])
    ]
    return named + list(card.get("tags") or [])


def used_storage(repository):
    """Bytes of all that the repository ever held."""
    return sum(
        {
            file.known_oid: file.size
            for commit in repository.commits.values()
            for file in commit.files.values()
        }.values()
    )


def repository_facts(repository, commit, with_blobs=False):
    """What GET /api/models/org/name tells of a commit."""
    card = front_matter(commit.text_of("README.md"))
    name = f"{repository.repo_type} {repository.repo_id}"
    return {
        "_id": hashlib.sha1(name.encode()).hexdigest()[:24],
        "id": repository.repo_id,
        "author": repository.namespace,
        "sha": commit.oid,
        "private": repository.private,
        "gated": repository.gated,
        "disabled": False,
        "createdAt": repository.ancestry(commit)[-1].date,
        "lastModified": commit.date,
        "tags": card_tags(card),
        "downloads": 0,
        "downloadsAllTime": 0,
        "likes": 0,
        "description": None,
        "usedStorage": used_storage(repository),
        "cardData": card,
        "siblings": [
            sibling(name, file, with_blobs) for name, file in sorted(commit.files.items())
        ],
    }


def picked_facts(facts, names):
    """The facts that a client asked for by name; all when it named none."""
    unknown = set(names) - set(facts)
    if unknown:
        raise HubError(400, f"Invalid value for expand: {', '.join(sorted(unknown))}")
    return {name: facts[name] for name in ("_id", "id", *names)} if names else facts
