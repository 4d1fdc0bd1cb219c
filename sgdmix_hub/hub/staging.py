"""Brings many files to a repository in commits of bounded size that nobody sees.

A commit with tens of thousands of files is refused, or times out after the whole upload. So the
files of a large version go to a staging branch, in several commits. The commit that makes the
version visible only copies their pointers, which the Hub does without moving a byte. A push that
was cut off continues: what the staging branch holds is not sent again. Several workers of a run in
an object store can fill the branch before the version is published.
"""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import CommitOperationCopy, HfApi

from sgdmix_hub.storage.stores import StoredFile

from .client import patiently, status_of
from .push import Digests, differing_files, groups_of, known_contents, size_of, upload

COMMIT_FILES = 500
COMMIT_BYTES = 100 * 10**9


def needs_staging(files: dict[str, Path | StoredFile]) -> bool:
    """Whether these files are too many, or too large, for one commit."""
    return commits_of({name: size_of(file) for name, file in files.items()}) > 1


def commits_of(sizes: dict[str, int]) -> int:
    """How many commits it takes to publish files of these sizes, in bytes."""
    staged = sum(1 for _ in groups_of(sizes, COMMIT_FILES, COMMIT_BYTES))
    return staged + 1 if staged > 1 else 1


def stage(
    api: HfApi,
    repo_id: str,
    repo_type: str,
    files: dict[str, Path | StoredFile],
    digests: Digests,
    head: str,
    branch: str,
    message: str,
) -> list[CommitOperationCopy]:
    """Uploads files to a staging branch; returns what copies them to another branch.

    Args:
        files: LFS files, by their names in the repository.
        digests: `content_digests` of the files, and perhaps of others.
        head: the commit that a new staging branch starts from.
        branch: the staging branch. What it holds already is kept.

    Raises:
        UserError: the Hub refuses the files, or a commit holds others. The client's own errors
            pass.
    """
    commit = make_branch(api, repo_id, repo_type, branch, head)
    wanted = {name: digests[name] for name in files}
    missing = differing_files(known_contents(api, repo_id, repo_type, commit), wanted)
    sizes = {name: size_of(files[name]) for name in missing}
    for names in groups_of(sizes, COMMIT_FILES, COMMIT_BYTES):
        group: dict[str, Path | bytes | StoredFile] = {name: files[name] for name in names}
        held = {name: wanted[name] for name in names}
        commit = upload(
            api, repo_id, repo_type, group, held, commit, f"Staging: {message}", branch=branch
        )
    return [CommitOperationCopy(name, name, src_revision=commit) for name in files]


def stage_claimed(
    api: HfApi,
    repo_id: str,
    repo_type: str,
    files: dict[str, StoredFile],
    branch: str,
    message: str,
) -> None:
    """Uploads files to a staging branch as one of several workers that add to it, until it holds
    all of them: those that nobody has sent, in the order of `files`, a group in a commit.

    Raises `UserError` as `stage`.
    """
    commit = make_branch(api, repo_id, repo_type, branch)
    wanted: Digests = {name: {file.sha256} for name, file in files.items()}
    while missing := differing_files(known_contents(api, repo_id, repo_type, commit), wanted):
        names = next(groups_of({name: files[name].bytes for name in missing}))
        group: dict[str, Path | bytes | StoredFile] = {name: files[name] for name in names}
        held = {name: wanted[name] for name in names}
        upload(api, repo_id, repo_type, group, held, None, f"Staging: {message}", branch=branch)
        commit = make_branch(api, repo_id, repo_type, branch)


def make_branch(
    api: HfApi, repo_id: str, repo_type: str, branch: str, start: str | None = None
) -> str:
    """Creates a missing branch from a commit, by default from `main`; returns its head."""
    patiently(
        lambda: api.create_branch(
            repo_id, branch=branch, revision=start, repo_type=repo_type, exist_ok=True
        )
    )
    info = patiently(lambda: api.repo_info(repo_id, revision=branch, repo_type=repo_type))
    assert info.sha is not None  # the Hub always sends it
    return info.sha


def end_staging(api: HfApi, repo_id: str, repo_type: str, branch: str) -> None:
    """Deletes a staging branch, if it is there; the files that other branches hold stay."""
    try:
        patiently(lambda: api.delete_branch(repo_id, branch=branch, repo_type=repo_type))
    except Exception as error:  # the client's errors and those of the HTTP library below it
        if status_of(error) != 404:
            raise
