"""Files pushed to the Hub: uploaded, one commit on top of the head that was read before, the commit
verified.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status
from tqdm.auto import tqdm

from sgdmix_hub.errors import UserError
from sgdmix_hub.output_folder import STATE

from .client import (
    AGAIN,
    TIMEOUT_SECONDS,
    attempts,
    hub_client,
    is_passing,
    patiently,
    seconds_to_wait,
    status_of,
)
from .pins import Pin

MAIN = "main"
UPLOADED_AT_ONCE = 16  # files: the bar moves after each such group
Digests = dict[str, set[str]]


def push_folder(
    folder: str | Path,
    repo_id: str,
    repo_type: str = "model",
    private: bool = False,
    token: str | None = None,
    message: str = "Upload with sgdmix_hub",
    timeout: float = TIMEOUT_SECONDS,
) -> Pin:
    """Pushes a folder's files to the head of `main` in one commit and checks at that commit that
    they are there, byte for byte.

    What the repository holds under other names stays. Content that is there already makes no
    commit, so a push whose end was not seen is finished by the same call.

    Args:
        folder: its regular files are pushed, without hidden ones and without a top-level `state/`.
        repo_id: `org/name`; created when it is missing.
        repo_type: "model" or "dataset".
        private: create the repository private. When False the namespace's default holds, which is
            public unless an organization says otherwise.
        token: one with write permission; that of HF_TOKEN or `hf auth login` when not given.
        message: the commit's title.
        timeout: seconds without a byte after which a call to the Hub is given up.

    Returns:
        The repository at the commit that holds the files.

    Raises:
        UserError: no file to push, bad name, no or wrong token, no permission, a public repository
            where a private one was asked for, a push by somebody else in between, Hub out of reach,
            or other content at the commit than here.
    """
    files = files_to_push(Path(folder))
    with hub_client(repo_id, token, timeout) as api:
        head = prepare_repository(api, repo_id, repo_type, private)
        digests = {name: content_digests(path) for name, path in files.items()}
        changed = differing_files(known_contents(api, repo_id, repo_type, head), digests)
        if not changed:
            return Pin(name=repo_id, revision=head)
        commit = upload(
            api, repo_id, repo_type, {name: files[name] for name in changed}, digests, head, message
        )
    return Pin(name=repo_id, revision=commit)


def check_can_push(
    repo_id: str,
    token: str | None = None,
    repo_type: str = "model",
    private: bool = False,
    timeout: float = TIMEOUT_SECONDS,
) -> None:
    """Fails now, in the first second of a long run, where `push_folder` would fail at its end.

    It creates the repository when it is missing, as `transformers.Trainer` does: only that shows
    for certain that the token may, and the name is taken. A run that dies leaves it empty.
    Arguments are those of `push_folder`.

    Raises:
        UserError: bad name, no or wrong token, no permission to write, a public repository where a
            private one was asked for, Hub out of reach.
    """
    with hub_client(repo_id, token, timeout) as api:
        prepare_repository(api, repo_id, repo_type, private)
        # By hand: older clients have no `auth_check(write=True)`.
        url = f"{api.endpoint}/api/{repo_type}s/{repo_id}/auth-check/write"

        def ask() -> None:
            response = get_session().get(url, headers=build_hf_headers(token=api.token))
            if (
                response.status_code != 404
            ):  # the repository was there a moment ago: this is a mirror that has no such call
                hf_raise_for_status(response)

        patiently(ask)


def files_to_push(folder: Path) -> dict[str, Path]:
    """A folder's files by their names in the repository. Raises `UserError` when there are none."""
    files = {
        path.relative_to(folder): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }
    chosen = {name.as_posix(): path for name, path in files.items() if is_published(name)}
    if not chosen:
        raise UserError(f"{folder} holds no file that could be pushed")
    return chosen


def is_published(name: Path) -> bool:
    in_state = name.parts[0] == STATE and len(name.parts) > 1
    return not in_state and not any(part.startswith(".") for part in name.parts)


def content_digests(content: Path | bytes) -> set[str]:
    """What the Hub may know a file's content by: sha256 of LFS files, git's sha1 of regular ones."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    sha256, git_sha1 = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    for block in _blocks(content):
        sha256.update(block)
        git_sha1.update(block)
    return {sha256.hexdigest(), git_sha1.hexdigest()}


def _blocks(content: Path | bytes) -> Iterable[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with open(content, "rb") as file:
        while block := file.read(1 << 20):
            yield block


def known_contents(api: HfApi, repo_id: str, repo_type: str, commit: str) -> dict[str, str]:
    """The files of a commit and the digests that the Hub knows them by."""
    entries = api.list_repo_tree(repo_id, recursive=True, revision=commit, repo_type=repo_type)
    return {
        entry.path: entry.lfs.sha256 if entry.lfs else entry.blob_id
        for entry in entries
        if isinstance(entry, RepoFile)
    }


def differing_files(known: dict[str, str], digests: Digests) -> list[str]:
    """Names of the files that a commit lacks or has with other content."""
    return [name for name, expected in digests.items() if known.get(name) not in expected]


def prepare_repository(api: HfApi, repo_id: str, repo_type: str, private: bool) -> str:
    """Creates the repository when it is missing and gives the commit at the head of `main`."""
    patiently(
        lambda: api.create_repo(
            repo_id, repo_type=repo_type, private=private or None, exist_ok=True
        )
    )
    info = patiently(lambda: api.repo_info(repo_id, repo_type=repo_type))
    if private and not info.private:
        raise UserError(
            f"{repo_id} exists and is public: make it private in its settings, or do not ask for a private one"
        )
    return info.sha


def upload(
    api: HfApi,
    repo_id: str,
    repo_type: str,
    files: dict[str, Path | bytes],
    digests: Digests,
    head: str,
    message: str,
    deleted: Iterable[str] = (),
    branch: str = MAIN,
) -> str:
    """Uploads large files, a few at once, then commits all together (`upload_folder` would make
    several commits with Xet), and checks the commit.

    Args:
        files: what is uploaded; `deleted` names what the same commit takes away. digests:
        `content_digests` of all that the commit has to hold, of files that are there already too.
        head: the commit that the new one has to follow.

    Returns:
        The commit that holds the files.

    Raises:
        UserError: the Hub refuses the files, or holds others afterwards; and the client's own
        errors.
    """
    deleted = list(deleted)
    additions = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
        for name, content in files.items()
    ]
    size = sum(addition.upload_info.size for addition in additions)
    try:
        with tqdm(total=size, desc=f"pushing to {repo_id}", unit="B", unit_scale=True) as bar:
            for start in range(0, len(additions), UPLOADED_AT_ONCE):
                group = additions[start : start + UPLOADED_AT_ONCE]
                api.preupload_lfs_files(repo_id, group, repo_type=repo_type, revision=branch)
                bar.update(sum(addition.upload_info.size for addition in group))
        operations = [
            *additions,
            *(CommitOperationDelete(path_in_repo=name, is_folder=False) for name in deleted),
        ]
        return commit_once(api, repo_id, repo_type, operations, digests, head, message, branch)
    except (
        ValueError
    ) as error:  # how the client passes on what the Hub says about a card's YAML or an object
        if is_passing(error):
            raise
        raise UserError(f"the Hub refuses the files: {' '.join(str(error).split())}") from None


def commit_once(
    api: HfApi,
    repo_id: str,
    repo_type: str,
    operations: list[CommitOperationAdd | CommitOperationDelete],
    digests: Digests,
    head: str,
    message: str,
    branch: str,
) -> str:
    """One commit on top of `head`, verified, however often it has to be asked for: a request whose
    end was not seen may have been applied.

    The client does not repeat commits. `parent_commit` makes it safe to: of several requests on top
    of one head the Hub takes one.
    """
    deleted = [
        operation.path_in_repo
        for operation in operations
        if isinstance(operation, CommitOperationDelete)
    ]
    for wait in attempts():
        try:
            commit = api.create_commit(
                repo_id,
                operations,
                commit_message=message,
                repo_type=repo_type,
                revision=branch,
                parent_commit=head,
            ).oid
            break
        except Exception as error:
            moved = status_of(error) == 412
            if not moved and not is_passing(error):
                raise
            commit = next_commit(api, repo_id, repo_type, head, branch)
            if commit is not None and holds(
                known_contents(api, repo_id, repo_type, commit), digests, deleted
            ):
                return commit
            if moved or wait is None:
                raise
            time.sleep(seconds_to_wait(error, wait))
    known = known_contents(api, repo_id, repo_type, commit)
    if not holds(known, digests, deleted):
        damaged = differing_files(known, digests) or deleted
        raise UserError(
            f"{repo_id}@{commit} does not hold what was pushed of {', '.join(damaged[:3])}: do not use it, and {AGAIN}; where it says so "
            "twice, this Hub or a proxy before it changes what it is sent: tell who runs it"
        )
    return commit


def holds(known: dict[str, str], digests: Digests, deleted: list[str]) -> bool:
    """Whether a commit has the contents it should have, and nothing of what it should not have."""
    return not differing_files(known, digests) and not set(deleted) & set(known)


def next_commit(api: HfApi, repo_id: str, repo_type: str, head: str, branch: str) -> str | None:
    """The commit of a branch that came right after `head`; None when `head` is its last one, or not
    of this branch any more.
    """
    ids = [
        commit.commit_id
        for commit in api.list_repo_commits(repo_id, repo_type=repo_type, revision=branch)
    ]
    position = ids.index(head) if head in ids else 0
    return ids[position - 1] if position > 0 else None
