"""Pins: a Hub repository at a commit, or a local folder with the hash of its content."""

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

from .client import cause_of, fetch, is_busy, patiently

CONTENT = "sha256-"  # the revision of a local folder: this and the hash of its content
SECONDS_TO_WAIT = 60.0  # for the commit of a branch or tag; the client alone would wait forever
MODEL_FILES = ["*.json", "*.safetensors"]  # no weights of other frameworks


class OutOfReach(UserError):
    """The Hub did not answer, or the answer is not one of a Hub."""


@dataclass(frozen=True)
class Pin:
    """One input at one exact state.

    `name`: org/name, or the name of a local folder. `revision`: a 40-hex commit, or sha256-... of a
    folder's content. `path`: where the local folder is, if this run has it. Published pins are
    `str(pin)`, which holds no path.
    """

    name: str
    revision: str
    path: str | None = None

    @classmethod
    def parse(cls, text: str) -> Pin:
        """The pin that was published as `text`: org/name@40-hex or name@sha256-..., no path."""
        name, _, revision = text.rpartition("@")
        return cls(name, revision)

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}"

    @property
    def is_local(self) -> bool:
        """Whether it stands for a local folder, which the Hub does not have."""
        return self.path is not None or self.revision.startswith(CONTENT)

    def holds_same_as(self, other: Pin) -> bool:
        """Whether both have the same content: commits and content hashes do not depend on names."""
        return self.revision == other.revision


def parse_pins(published: dict[str, str]) -> dict[str, Pin]:
    """The pins of a manifest or a card, by the names of the settings."""
    return {name: Pin.parse(text) for name, text in published.items()}


def name_and_revision(text: str) -> tuple[str, str]:
    """`org/name@revision`, as a user writes it, in its two parts; the revision may be empty."""
    name, _, revision = text.partition("@")
    return name, revision


def resolve(name_at_revision: str, repo_type: str = "model") -> Pin:
    """Pins `org/name`, `org/name@revision` or a local folder.

    Raises `UserError` when it does not exist, `OutOfReach` when the Hub cannot be reached.
    """
    if LOCAL_PIN.fullmatch(name_at_revision):
        raise UserError(f"{shown(name_at_revision)} was a local folder: give its path")
    if HUB_PIN.fullmatch(name_at_revision):
        return Pin.parse(name_at_revision)
    folder = Path(name_at_revision)
    if name_at_revision and _is_folder(folder):
        return _pin_of_folder(folder, repo_type)
    name, revision = name_and_revision(name_at_revision)
    if name.endswith(".safetensors"):
        raise UserError(
            f"{shown(name_at_revision)}: give the folder or repository that holds this file, and "
            "the file's name as --adapter_weight_name or --few_step_weight_name"
        )
    if not re.fullmatch(r"[^/@\s]+/[^/@\s]+", name):
        raise UserError(
            f"{shown(name_at_revision)}: no such folder, "
            "and not a Hub repository like org/name@revision"
        )
    return resolve_on_hub(name, revision, repo_type)


def _pin_of_folder(folder: Path, repo_type: str) -> Pin:
    name = folder.resolve().name
    if not name.isprintable():
        raise UserError(
            f"{shown(folder)}: rename it, its name is published and has characters that "
            "cannot be printed"
        )
    # a training keeps its checkpoints and logs beside the model, in state/
    left_out = "state" if repo_type == "model" else None
    try:
        return Pin(name, content_hash(folder, left_out), path=str(folder))
    except OSError as error:
        raise UserError(
            f"{shown(error.filename or folder)} cannot be read: {error.strerror}"
        ) from error


def resolve_on_hub(name: str, revision: str = "", repo_type: str = "model") -> Pin:
    """Pins a Hub repository at a branch, tag or commit, whatever local folders exist.

    Raises as `resolve` does.
    """
    if re.fullmatch("[0-9a-f]{40}", revision):
        return Pin(name, revision)
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
    except Exception as error:  # the client's errors and those of the HTTP library below it
        commit = cached_commit(name, revision, repo_type) or "<40 hex>"
        raise OutOfReach(
            f"cannot reach the Hub for {asked}: {cause_of(error)}; try again when it answers, "
            f"or name the commit, which needs no Hub when it is cached: {name}@{commit}"
        ) from error
    commit = info.sha or ""
    if not re.fullmatch("[0-9a-f]{40}", commit):
        raise OutOfReach(f"the server gave no commit for {asked}: is it a Hub?")
    return Pin(name, commit)


def _is_folder(path: Path) -> bool:
    """Whether this is a folder; False for a name that no file system takes."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def cached_folder(name: str, repo_type: str) -> Path:
    """The folder of a repository in the Hub's cache."""
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=repo_type)


def cached_commit(name: str, revision: str, repo_type: str) -> str | None:
    """The cached commit of a branch or tag, or else the only commit cached; None if unclear."""
    folder = cached_folder(name, repo_type)
    with suppress(OSError, ValueError):
        commit = (folder / "refs" / (revision or constants.DEFAULT_REVISION)).read_text().strip()
        if (folder / "snapshots" / commit).is_dir():
            return commit
    with suppress(OSError):
        commits = [path.name for path in (folder / "snapshots").iterdir()]
        return commits[0] if len(commits) == 1 else None
    return None


def content_hash(folder: str | Path, left_out: str | None = None) -> str:
    """sha256-... over the names and bytes of a folder's files.

    Hidden files and the folder `left_out` in it do not count.
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
    return CONTENT + digest.hexdigest()


def local_folder(
    pin: Pin, allow_patterns: list[str] | None = None, repo_type: str = "model"
) -> str:
    """The folder with the pinned files: the local one, or a snapshot of that commit.

    Raises `UserError`.
    """
    if pin.path is not None:
        return pin.path
    return fetch(
        lambda: snapshot_download(
            pin.name, repo_type=repo_type, revision=pin.revision, allow_patterns=allow_patterns
        ),
        str(pin),
    )
