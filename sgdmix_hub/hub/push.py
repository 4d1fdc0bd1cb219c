"""Pushes files to the Hub: upload, one commit on top of the known head, and a check of it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status
from tqdm.auto import tqdm

from sgdmix_hub.errors import UserError
from sgdmix_hub.output_folder import STATE
from sgdmix_hub.storage.stores import StoredFile

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
UPLOADED_AT_ONCE = 16  # files; the progress bar moves after each group
BYTES_AT_ONCE = 2 * 10**9
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
    """Pushes a folder's files to `main` in one commit, and checks that the commit holds them.

    Files with other names in the repository stay. Nothing is committed if the contents are there
    already, so calling it again finishes a push that was cut off.

    Args:
        folder: its regular files are pushed, except hidden ones and a top-level `state/`.
        repo_id: `org/name`; created if it is missing.
        repo_type: "model", "dataset" or "space"; a Space is one of Gradio.
        private: create the repository private. If False, the namespace's default applies: public,
            unless an organization chose otherwise.
        token: a token with write permission; by default that of HF_TOKEN or `hf auth login`.
        message: the commit's title.
        timeout: seconds without a byte after which a call to the Hub fails.

    Returns:
        The repository at the commit that holds the files.

    Raises:
        UserError: no file to push, bad name, no or wrong token, no permission, a public repository
            although `private` is set, a concurrent push by somebody else, Hub out of reach, or
            other content at the commit than in the folder.
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
    """Fails at the start of a long run if `push_folder` would fail at its end.

    It creates a missing repository, as `transformers.Trainer` does: nothing else proves that the
    token may. If the run dies, the repository stays empty. The arguments are `push_folder`'s.

    Raises:
        UserError: bad name, no or wrong token, no permission to write, a public repository although
            `private` is set, Hub out of reach.
    """
    with hub_client(repo_id, token, timeout) as api:
        prepare_repository(api, repo_id, repo_type, private)
        # older clients have no `auth_check(write=True)`
        url = f"{api.endpoint}/api/{repo_type}s/{repo_id}/auth-check/write"

        def ask() -> None:
            response = get_session().get(url, headers=build_hf_headers(token=api.token))
            if response.status_code != 404:  # the repository exists: a mirror without this call
                hf_raise_for_status(response)

        patiently(ask)


def files_to_push(folder: Path) -> dict[str, Path]:
    """A folder's files by their names in the repository. Raises `UserError` if there are none."""
    files = {
        path.relative_to(folder): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }
    published = {name.as_posix(): path for name, path in files.items() if is_published(name)}
    if not published:
        raise UserError(f"{folder} holds no file to push: give the folder that a run has written")
    return published


def is_published(name: Path) -> bool:
    """Whether a file of the folder is pushed: neither hidden nor below `state/`."""
    in_state = name.parts[0] == STATE and len(name.parts) > 1
    return not in_state and not any(part.startswith(".") for part in name.parts)


def content_digests(content: Path | bytes) -> set[str]:
    """The digests by which the Hub may list a file: sha256 for LFS, git's sha1 for others."""
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
    """The files of a commit, each with the digest by which the Hub lists it."""
    entries = api.list_repo_tree(repo_id, recursive=True, revision=commit, repo_type=repo_type)
    return {
        entry.path: entry.lfs.sha256 if entry.lfs else entry.blob_id
        for entry in entries
        if isinstance(entry, RepoFile)
    }


def differing_files(contents: dict[str, str], digests: Digests) -> list[str]:
    """The files that a commit lacks, or has with other content."""
    return [name for name, expected in digests.items() if contents.get(name) not in expected]


def prepare_repository(api: HfApi, repo_id: str, repo_type: str, private: bool) -> str:
    """Creates the repository if it is missing; returns the commit at the head of `main`."""
    patiently(
        lambda: api.create_repo(
            repo_id,
            repo_type=repo_type,
            private=private or None,
            exist_ok=True,
            space_sdk="gradio" if repo_type == "space" else None,
        )
    )
    info = patiently(lambda: api.repo_info(repo_id, repo_type=repo_type))
    if private and not info.private:
        raise UserError(
            f"{repo_id} exists and is public: "
            "make it private in its settings, or do not ask for a private one"
        )
    assert info.sha is not None  # absent only in listings of many repositories
    return info.sha


def upload(
    api: HfApi,
    repo_id: str,
    repo_type: str,
    files: dict[str, Path | bytes | StoredFile],
    digests: Digests,
    head: str | None,
    message: str,
    more: Iterable[CommitOperationCopy | CommitOperationDelete] = (),
    branch: str = MAIN,
) -> str:
    """Uploads files, commits all of them at once, checks the commit, and returns it.

    `upload_folder` would not do: with Xet it makes several commits.

    Args:
        files: the files to upload, by their names in the repository. Of files in a store, only one
            group at a time is on this machine.
        digests: `content_digests` of everything that the commit must hold, including files that are
            there already.
        head: the commit that the new one must follow; any, if None.
        more: what the commit does besides: files that it copies or removes.

    Raises:
        UserError: the Hub refuses the files, or the commit holds others. The client's own errors
            pass.
    """
    additions: list[CommitOperationAdd] = []
    size = sum(map(size_of, files.values()))
    try:
        with tqdm(total=size, desc=f"pushing to {repo_id}", unit="B", unit_scale=True) as bar:
            for names in groups_of({name: size_of(content) for name, content in files.items()}):
                with ExitStack() as borrowed:
                    group = [
                        CommitOperationAdd(name, _at_hand(files[name], borrowed)) for name in names
                    ]
                    api.preupload_lfs_files(repo_id, group, repo_type=repo_type, revision=branch)
                    for addition in group:
                        content = files[addition.path_in_repo]
                        if isinstance(content, StoredFile):
                            content.check(addition.upload_info.sha256.hex())  # as it was sent
                additions += group
                bar.update(sum(addition.upload_info.size for addition in group))
        operations = [*additions, *more]
        return commit_once(api, repo_id, repo_type, operations, digests, head, message, branch)
    except ValueError as error:  # the Hub's complaint about a card's YAML or an uploaded file
        if is_passing(error):
            raise
        raise UserError(f"the Hub refuses the files: {' '.join(str(error).split())}") from None


def groups_of(
    sizes: dict[str, int], most_files: int | None = None, most_bytes: int | None = None
) -> Iterator[list[str]]:
    """Names of files in groups, in their order: few, and few bytes, but at least one. By default
    the groups that are uploaded together.
    """
    most_files, most_bytes = most_files or UPLOADED_AT_ONCE, most_bytes or BYTES_AT_ONCE
    group: list[str] = []
    held = 0
    for name, size in sizes.items():
        if group and (len(group) == most_files or held + size > most_bytes):
            yield group
            group, held = [], 0
        group.append(name)
        held += size
    if group:
        yield group


def size_of(content: Path | bytes | StoredFile) -> int:
    """Bytes of a file's content."""
    if isinstance(content, bytes):
        return len(content)
    return content.bytes if isinstance(content, StoredFile) else content.stat().st_size


def _at_hand(content: Path | bytes | StoredFile, borrowed: ExitStack) -> Path | bytes:
    return borrowed.enter_context(content.here()) if isinstance(content, StoredFile) else content


def commit_once(
    api: HfApi,
    repo_id: str,
    repo_type: str,
    operations: list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete],
    digests: Digests,
    head: str | None,
    message: str,
    branch: str,
) -> str:
    """Makes one commit on top of `head` and checks it, with retries, which the client has not.

    A request without a reply may have been applied. Repeating it is safe thanks to `parent_commit`:
    the Hub accepts only one of several requests on top of the same head. Without a head, a second
    request adds the same content again.
    """
    deleted = [
        operation.path_in_repo
        for operation in operations
        if isinstance(operation, CommitOperationDelete)
    ]
    for wait in attempts():
        try:
            info = api.create_commit(
                repo_id,
                operations,
                commit_message=message,
                repo_type=repo_type,
                revision=branch,
                parent_commit=head,
            )
            break
        except Exception as error:
            moved = status_of(error) == 412
            if not moved and not is_passing(error):
                raise
            commit = None if head is None else next_commit(api, repo_id, repo_type, head, branch)
            if commit is not None and holds(
                known_contents(api, repo_id, repo_type, commit), digests, deleted
            ):
                return commit
            if (moved and head is not None) or wait is None:
                raise
            time.sleep(seconds_to_wait(error, wait))
    commit = info.oid
    contents = known_contents(api, repo_id, repo_type, commit)
    if not holds(contents, digests, deleted):
        damaged = differing_files(contents, digests) or deleted
        raise UserError(
            f"{repo_id}@{commit} does not hold what was pushed of {', '.join(damaged[:3])}: "
            f"do not use it, and {AGAIN}; if this happens twice, this Hub, or a proxy before it, "
            "changes what it receives: report it to its administrator"
        )
    return commit


def holds(contents: dict[str, str], digests: Digests, deleted: list[str]) -> bool:
    """Whether a commit has all contents that it should have, and none of the deleted files."""
    return not differing_files(contents, digests) and not set(deleted) & set(contents)


def next_commit(api: HfApi, repo_id: str, repo_type: str, head: str, branch: str) -> str | None:
    """The commit right after `head` on a branch; None if `head` is its last, or not on it."""
    ids = [
        commit.commit_id
        for commit in api.list_repo_commits(repo_id, repo_type=repo_type, revision=branch)
    ]
    position = ids.index(head) if head in ids else 0
    return ids[position - 1] if position > 0 else None
