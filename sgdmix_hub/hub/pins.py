"""Inputs at one exact state: a Hub repository at a commit hash, or a local folder with the hash of
its content.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name

from sgdmix_hub.errors import UserError, shown
from sgdmix_hub.files import file_sha256
from sgdmix_hub.forms import HUB_PIN, LOCAL_PIN
from sgdmix_hub.output_folder import STATE

from .client import cause_of, fetch, is_busy, patiently

LOCAL = "sha256-"
SECONDS_TO_WAIT = 60.0  # for the Hub to say where a branch or tag stands: its client waits for ever
MODEL_FILES = ["*.json", "*.safetensors"]  # not the copies for other frameworks


class OutOfReach(UserError):
    """The Hub did not answer, or not as the Hub does."""


@dataclass(frozen=True)
class Pin:
    """One input: `name` (org/name, or a local folder's name), `revision` (40-hex commit, or
    sha256-... of a folder's content) and, for a local folder, its `path`. `str(pin)` holds nothing
    about places and is what gets published.
    """

    name: str
    revision: str
    path: str | None = None

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}"

    @property
    def is_local(self) -> bool:
        return self.path is not None


def resolve(name_at_revision: str, repo_type: str = "model") -> Pin:
    """Pins `org/name`, `org/name@revision` or a local folder. Raises `UserError` when there is no
    such thing, `OutOfReach` when the Hub cannot be asked.
    """
    name, _, revision = name_at_revision.partition("@")
    if LOCAL_PIN.fullmatch(name_at_revision):
        raise UserError(f"{shown(name_at_revision)} was a local folder: give its path")
    if HUB_PIN.fullmatch(name_at_revision):
        return Pin(name=name, revision=revision)
    folder = Path(name_at_revision)
    if name_at_revision and _is_folder(folder):
        # A training keeps its checkpoints and logs beside the model, in state/.
        left_out = STATE if repo_type == "model" else None
        if not folder.resolve().name.isprintable():
            raise UserError(
                f"{shown(name_at_revision)}: what is published names its inputs, and this name cannot be printed: rename it"
            )
        try:
            return Pin(
                name=folder.resolve().name,
                revision=content_hash(folder, left_out),
                path=str(folder),
            )
        except OSError as error:
            raise UserError(
                f"{shown(error.filename or folder)} cannot be read: {error.strerror}"
            ) from error
    if not re.fullmatch(r"[^/@\s]+/[^/@\s]+", name):
        raise UserError(
            f"{shown(name_at_revision)}: no such folder, and not a Hub repository like org/name@revision"
        )
    return resolve_on_hub(name, revision, repo_type)


def resolve_on_hub(name: str, revision: str = "", repo_type: str = "model") -> Pin:
    """Pins a repository of the Hub at a branch, a tag or a commit, whatever folders there are here.
    Raises as `resolve` does.
    """
    if re.fullmatch("[0-9a-f]{40}", revision):
        return Pin(name=name, revision=revision)
    asked = shown(f"{name}@{revision}" if revision else name)
    try:
        info = patiently(
            lambda: HfApi().repo_info(
                name, revision=revision or None, repo_type=repo_type, timeout=SECONDS_TO_WAIT
            ),
            is_busy,
        )
    except RevisionNotFoundError:
        raise UserError(
            f"{name} has no revision {shown(revision)!r}: see its tags and branches on the Hub"
        ) from None
    except GatedRepoError:
        raise UserError(
            f"{name} is gated: accept its terms on the Hub and log in with `hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{asked}: no such folder and no such {repo_type} on the Hub (private? `hf auth login`)"
        ) from None
    except HFValidationError:
        raise UserError(f"{shown(name)} is not a valid repository name") from None
    except (
        Exception
    ) as error:  # the client's own errors, and those of whatever HTTP library is below it
        commit = cached_commit(name, revision, repo_type) or "<40 hex>"
        raise OutOfReach(
            f"cannot reach the Hub for {asked}: {cause_of(error)}; try again when it answers, or name the commit, which needs no Hub when "
            f"it is cached: {name}@{commit}"
        ) from error
    if not re.fullmatch("[0-9a-f]{40}", info.sha or ""):
        raise OutOfReach(f"the Hub answers for {asked} without a commit: is it one?")
    return Pin(name=name, revision=info.sha)


def _is_folder(path: Path) -> bool:
    """Whether there is a folder of this name; there is none of a name that no file system takes."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def cached_commit(name: str, revision: str, repo_type: str) -> str | None:
    """The commit of a branch or tag that this machine's cache knows, or else the one commit of the
    repository that it holds; None where it holds none, or several.
    """
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=repo_type)
    with suppress(OSError, ValueError):
        known = (folder / "refs" / (revision or constants.DEFAULT_REVISION)).read_text().strip()
        if (folder / "snapshots" / known).is_dir():
            return known
    with suppress(OSError):
        commits = [path.name for path in (folder / "snapshots").iterdir()]
        return commits[0] if len(commits) == 1 else None
    return None


def content_hash(folder: str | Path, left_out: str | None = None) -> str:
    """sha256 over the names and bytes of a folder's files, without hidden ones and without the
    folder `left_out` in it.
    """
    folder = Path(folder)
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if (
            path.is_file()
            and relative.parts[0] != left_out
            and not any(part.startswith(".") for part in relative.parts)
        ):
            digest.update(f"{relative.as_posix()}\0{file_sha256(path)}\n".encode())
    return LOCAL + digest.hexdigest()


def local_folder(
    pin: Pin, allow_patterns: list[str] | None = None, repo_type: str = "model"
) -> str:
    """The folder with the pinned files: the local one, or a snapshot of exactly that commit. Raises
    `UserError`.
    """
    if pin.path is not None:
        return pin.path
    return fetch(
        lambda: snapshot_download(
            pin.name, repo_type=repo_type, revision=pin.revision, allow_patterns=allow_patterns
        ),
        str(pin),
    )


def same_content(pin: str, other: str) -> bool:
    """Whether two published pins stand for the same content: commits and content hashes do not
    depend on names.
    """
    return pin.rpartition("@")[2] == other.rpartition("@")[2]
