"""Inputs at one exact state: a Hub repository at a commit hash, or a local folder with the hash of its content."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .errors import UserError, first_line
from .files import file_sha256

LOCAL = "sha256-"
SECONDS_TO_WAIT = 60.0  # for the Hub to say where a branch or tag stands: its client waits for ever
MODEL_FILES = ["*.json", "*.safetensors"]  # not the copies for other frameworks


class OutOfReach(UserError):
    """The Hub did not answer, or not as the Hub does."""


@dataclass(frozen=True)
class Pin:
    """One input: `name` (org/name, or a local folder's name), `revision` (40-hex commit, or sha256-... of a folder's
    content) and, for a local folder, its `path`. `str(pin)` holds nothing about places and is what gets published."""

    name: str
    revision: str
    path: str | None = None

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}"

    @property
    def is_local(self) -> bool:
        return self.path is not None


def resolve(name_at_revision: str, repo_type: str = "model") -> Pin:
    """Pins `org/name`, `org/name@revision` or a local folder. Raises `UserError` when there is no such thing, `OutOfReach` when the Hub
    cannot be asked."""
    folder = Path(name_at_revision)
    if name_at_revision and folder.is_dir():
        # A training keeps its checkpoints and logs beside the model, in state/.
        left_out = "state" if repo_type == "model" else None
        return Pin(name=folder.resolve().name, revision=content_hash(folder, left_out), path=str(folder))
    name, _, revision = name_at_revision.partition("@")
    if revision.startswith(LOCAL):
        raise UserError(f"{name_at_revision} was a local folder: give its path")
    if not re.fullmatch(r"[^/@\s]+/[^/@\s]+", name):
        raise UserError(f"{name_at_revision}: no such folder, and not a Hub repository like org/name@revision")
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return Pin(name=name, revision=revision)
    try:
        info = HfApi().repo_info(name, revision=revision or None, repo_type=repo_type, timeout=SECONDS_TO_WAIT)
    except RevisionNotFoundError:
        raise UserError(f"{name} has no revision {revision!r}: see its tags and branches on the Hub") from None
    except GatedRepoError:
        raise UserError(f"{name} is gated: accept its terms on the Hub and log in with `hf auth login`") from None
    except RepositoryNotFoundError:
        raise UserError(f"{name_at_revision}: no such folder and no such {repo_type} on the Hub (private? `hf auth login`)") from None
    except HFValidationError:
        raise UserError(f"{name} is not a valid repository name") from None
    except Exception as error:  # the client's own errors, and those of whatever HTTP library is below it
        raise OutOfReach(f"cannot reach the Hub for {name}: {first_line(error)}") from error
    return Pin(name=name, revision=info.sha)


def content_hash(folder: str | Path, left_out: str | None = None) -> str:
    """sha256 over the names and bytes of a folder's files, without hidden ones and without the folder `left_out` in it."""
    folder = Path(folder)
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and relative.parts[0] != left_out and not any(part.startswith(".") for part in relative.parts):
            digest.update(f"{relative.as_posix()}\0{file_sha256(path)}\n".encode())
    return LOCAL + digest.hexdigest()


def local_folder(pin: Pin, allow_patterns: list[str] | None = None, repo_type: str = "model") -> str:
    """The folder with the pinned files: the local one, or a snapshot of exactly that commit. Raises `UserError`."""
    if pin.path is not None:
        return pin.path
    try:
        return snapshot_download(pin.name, repo_type=repo_type, revision=pin.revision, allow_patterns=allow_patterns)
    except Exception as error:
        raise UserError(f"cannot fetch {pin}: {first_line(error)}") from error


def same_content(pin: str, other: str) -> bool:
    """Whether two published pins stand for the same content: commits and content hashes do not depend on names."""
    return pin.rpartition("@")[2] == other.rpartition("@")[2]
