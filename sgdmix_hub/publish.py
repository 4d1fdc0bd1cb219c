"""Folders pushed to the Hub: files uploaded one by one, one commit on top of the head that was read before, the commit verified."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token, set_client_factory
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # of the HTTP library below, whichever it is
    OfflineModeIsEnabled,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import (
    _http,
    are_progress_bars_disabled,
    build_hf_headers,
    disable_progress_bars,
    enable_progress_bars,
    get_session,
    hf_raise_for_status,
    validate_repo_id,
)
from tqdm.auto import tqdm

from .config import UserError, first_line
from .pins import Pin

STATE_FOLDER = "state"  # checkpoints, optimizer states, logs: never published
TIMEOUT_SECONDS = 120.0
AGAIN = "run the same command again, it goes on where it stopped"
ADVICE = {
    401: "the Hub does not know the token: log in again with `hf auth login`, or set HF_TOKEN to a valid token",
    403: "the token may not write to {repo_id}: use one with write permission there (https://huggingface.co/settings/tokens)",
    404: "{repo_id} is not on the Hub, or the token may not see it: check its name and the token's permissions",
    412: "somebody else pushed to {repo_id} at the same moment and nothing was overwritten: see what they pushed, then run the same "
    "command again",
}


def push_folder(
    folder: str | Path,
    repo_id: str,
    repo_type: str = "model",
    private: bool = False,
    token: str | None = None,
    message: str = "Upload with sgdmix_hub",
    timeout: float = TIMEOUT_SECONDS,
) -> Pin:
    """Pushes a folder's files to the head of `main` in one commit and checks at that commit that they are there, byte for byte.

    What the repository holds under other names stays. Content that is there already makes no commit, so a push whose end was not seen is
    finished by the same call.

    Args:
        folder: its regular files are pushed, without hidden ones and without a top-level `state/`.
        repo_id: `org/name`; created when it is missing.
        repo_type: "model" or "dataset".
        private: create the repository private. When False the namespace's default holds, which is public unless an organization says
            otherwise.
        token: one with write permission; that of HF_TOKEN or `hf auth login` when not given.
        message: the commit's title.
        timeout: seconds without a byte after which a call to the Hub is given up.

    Returns:
        The repository at the commit that holds the files.

    Raises:
        UserError: no file to push, bad name, no or wrong token, no permission, a public repository where a private one was asked for, a
            push by somebody else in between, Hub out of reach, or other content at the commit than here.
    """
    files = files_to_push(Path(folder))
    with hub_client(repo_id, token, timeout) as api:
        head = prepare_repository(api, repo_id, repo_type, private)
        digests = {name: content_digests(path) for name, path in files.items()}
        changed = differing_files(api, repo_id, repo_type, head, digests)
        if not changed:
            return Pin(name=repo_id, revision=head)
        commit = upload(api, repo_id, repo_type, {name: files[name] for name in changed}, head, message)
        damaged = differing_files(api, repo_id, repo_type, commit, digests)
    if damaged:
        raise UserError(f"{repo_id}@{commit} does not hold what was pushed of {', '.join(damaged[:3])}: do not use it, and {AGAIN}")
    return Pin(name=repo_id, revision=commit)


def check_can_push(
    repo_id: str, token: str | None = None, repo_type: str = "model", private: bool = False, timeout: float = TIMEOUT_SECONDS
) -> None:
    """Fails now, in the first second of a long run, where `push_folder` would fail at its end.

    It creates the repository when it is missing, as `transformers.Trainer` does: only that shows for certain that the token may, and the
    name is taken. A run that dies leaves it empty. Arguments are those of `push_folder`.

    Raises:
        UserError: bad name, no or wrong token, no permission to write, a public repository where a private one was asked for, Hub out of
            reach.
    """
    with hub_client(repo_id, token, timeout) as api:
        prepare_repository(api, repo_id, repo_type, private)
        # By hand: older clients have no `auth_check(write=True)`.
        url = f"{api.endpoint}/api/{repo_type}s/{repo_id}/auth-check/write"
        response = get_session().get(url, headers=build_hf_headers(token=api.token))
        if response.status_code != 404:  # the repository was there a moment ago: this is a mirror that has no such call
            hf_raise_for_status(response)


def files_to_push(folder: Path) -> dict[str, Path]:
    """A folder's files by their names in the repository. Raises `UserError` when there are none."""
    files = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()}
    chosen = {name.as_posix(): path for name, path in files.items() if is_published(name)}
    if not chosen:
        raise UserError(f"{folder} holds no file that could be pushed")
    return chosen


def is_published(name: Path) -> bool:
    in_state = name.parts[0] == STATE_FOLDER and len(name.parts) > 1
    return not in_state and not any(part.startswith(".") for part in name.parts)


def content_digests(path: Path) -> set[str]:
    """What the Hub may know a file's content by: sha256 of LFS files, git's sha1 of regular ones."""
    sha256, git_sha1 = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            sha256.update(block)
            git_sha1.update(block)
    return {sha256.hexdigest(), git_sha1.hexdigest()}


def differing_files(api: HfApi, repo_id: str, repo_type: str, commit: str, digests: dict[str, set[str]]) -> list[str]:
    """Names of the files that a commit lacks or has with other content."""
    entries = api.list_repo_tree(repo_id, recursive=True, revision=commit, repo_type=repo_type)
    known = {entry.path: entry.lfs.sha256 if entry.lfs else entry.blob_id for entry in entries if isinstance(entry, RepoFile)}
    return [name for name, expected in digests.items() if known.get(name) not in expected]


def prepare_repository(api: HfApi, repo_id: str, repo_type: str, private: bool) -> str:
    """Creates the repository when it is missing and gives the commit at its head."""
    api.create_repo(repo_id, repo_type=repo_type, private=private or None, exist_ok=True)
    info = api.repo_info(repo_id, repo_type=repo_type)
    if private and not info.private:
        raise UserError(f"{repo_id} exists and is public: make it private in its settings, or do not ask for a private one")
    return info.sha


def upload(api: HfApi, repo_id: str, repo_type: str, files: dict[str, Path], head: str, message: str) -> str:
    """Uploads large files one after the other, then commits all files at once; `upload_folder` would make several commits with Xet."""
    additions = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in files.items()]
    size = sum(path.stat().st_size for path in files.values())
    try:
        with tqdm(total=size, desc=f"pushing to {repo_id}", unit="B", unit_scale=True) as bar:
            for addition in additions:
                api.preupload_lfs_files(repo_id, [addition], repo_type=repo_type)
                bar.update(files[addition.path_in_repo].stat().st_size)
        return api.create_commit(repo_id, additions, commit_message=message, repo_type=repo_type, parent_commit=head).oid
    except ValueError as error:  # how the client passes on what the Hub says about a card's YAML or an object
        raise UserError(f"the Hub refuses the files: {' '.join(str(error).split())}") from None


@contextmanager
def hub_client(repo_id: str, token: str | None, timeout: float) -> Iterator[HfApi]:
    """A client with a token and a time limit, whose errors become one line for the user, without the token."""
    check_name(repo_id)
    token = usable_token(token)
    try:
        with time_limit(timeout), no_progress_bars():
            yield HfApi(token=token)
    except Exception as error:
        reason = str(error) if isinstance(error, UserError) else explain(error, repo_id)
        if reason is None:
            raise
        raise UserError(reason.replace(token, "(token)")) from None


def check_name(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
        namespace, _, name = repo_id.partition("/")
    except HFValidationError:
        namespace = name = ""
    if not (namespace and name):
        raise UserError(f"{repo_id} is not a repository name: give it as org/name")


def usable_token(token: str | None) -> str:
    """The token given, or the one of this machine."""
    found = (token or get_token() or "").strip()
    if not found:
        raise UserError("no token for the Hub: log in with `hf auth login`, or set HF_TOKEN to a token with write permission")
    if not re.fullmatch(r"[!-~]+", found):  # HTTP libraries quote the header that they cannot send
        raise UserError("the token holds characters that no token has: copy it again")
    return found


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Calls of the Hub's client end after so long without a byte: on its own it waits for ever. What it was set up with (proxies,
    certificates) is kept."""
    factory = _http._GLOBAL_CLIENT_FACTORY

    def limited():
        client = factory()
        client.timeout = seconds
        return client

    set_client_factory(limited)
    try:
        yield
    finally:
        set_client_factory(factory)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """The client's own bars are off: one that a failed upload leaves open is drawn again below the line that says why it failed."""
    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def explain(error: BaseException, repo_id: str) -> str | None:
    """What the user can do about an error of the Hub's client; None when it is not one."""
    while not isinstance(error, (ConnectionError, HTTPError)):  # what ended an upload stands behind a RuntimeError
        if error.__cause__ is None:
            return None
        error = error.__cause__
    if isinstance(error, OfflineModeIsEnabled):
        return "the Hub's client is in offline mode: unset HF_HUB_OFFLINE"
    if "xet-write-token" in str(error):
        return f"cannot upload by Xet ({first_line(error)}): {AGAIN}; where a Hub has no Xet storage, set HF_HUB_DISABLE_XET=1"
    if not isinstance(error, HfHubHTTPError):
        return f"cannot reach the Hub ({first_line(error)}): {AGAIN}"
    status = error.response.status_code
    if status in ADVICE:
        return ADVICE[status].format(repo_id=repo_id)
    if status == 429 or status >= 500:
        return f"the Hub is busy or down (status {status}): wait a little, then {AGAIN}"
    return f"the Hub refuses {repo_id} (status {status}): {' '.join((error.server_message or first_line(error)).split())}"
