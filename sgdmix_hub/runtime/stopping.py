"""Locks of folders, waiting for other processes' files, and stopping in between."""

from __future__ import annotations

import errno
import fcntl
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from sgdmix_hub.errors import Preempted, UserError, shown
from sgdmix_hub.files import clear_abandoned
from sgdmix_hub.output_folder import ERROR

from .launch_state import LAUNCH
from .liveness import launched_rank
from .places import unwritable
from .signals import stopped_by

POLL_SECONDS = 0.2
RESERVE = "error.reserve"  # keeps room for the report of a full disk
RERUN = "rerun the same command; finished work is kept"
CANNOT_WRITE = (errno.EROFS, errno.EACCES, errno.EPERM)


class FolderInUse(UserError):
    """Another run holds the output folder. Nothing in it may be written, not even a report."""


@contextmanager
def lock_folder(
    state_folder: Path, name: str = "lock", finished: Path | None = None
) -> Generator[None]:
    """Holds the lock file during the run, and removes what killed runs left behind; on rank 0 only.

    Raises `FolderInUse` if another run holds it, and `UserError` if the folder cannot be written.
    If `finished` exists, a read-only folder is accepted, since there is nothing to write.
    """
    opened = _open_lock(state_folder / name, finished) if launched_rank() == 0 else None
    if opened is None:
        yield
        return
    with opened as file:
        _take_lock(file, state_folder)
        report = state_folder / ERROR
        if report == LAUNCH.report_path and not another_failed():
            report.unlink(missing_ok=True)  # of an earlier attempt: it must not speak for this one
        clear_abandoned(state_folder)
        reserve = state_folder / RESERVE
        with suppress(OSError):
            reserve.write_bytes(bytes(8192))
        try:
            yield
        finally:
            reserve.unlink(missing_ok=True)


@contextmanager
def alone(folder: Path) -> Generator[None]:
    """Waits until no other process of this machine holds the folder, and holds it.

    Raises `UserError` if the file system has no locks.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "lock").touch()
    except OSError as error:
        raise UserError(f"cannot write to {shown(folder)}: {error.strerror}") from error
    with open(folder / "lock", "a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX)
        except OSError as error:
            raise UserError(
                f"the file system of {shown(folder)} has no file locks ({error.strerror}): choose "
                "another one"
            ) from error
        yield


def _open_lock(path: Path, finished: Path | None) -> TextIO | None:
    """The lock file; None if nothing can be written and `finished` exists. Raises `UserError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "a")
    except (OSError, ValueError) as error:
        is_read_only = getattr(error, "errno", None) in CANNOT_WRITE
        if is_read_only and finished is not None and finished.exists():
            return None
        raise unwritable(path.parent.parent, error) from error


def _take_lock(file: TextIO, state_folder: Path) -> None:
    try:
        # lockf, not flock: workers of a data loader outlive a killed process for a while, and must
        # not inherit its lock
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise FolderInUse(
            f"{state_folder.parent} is in use by another run: wait for it, or choose another "
            "--output_dir"
        ) from None
    except OSError as error:
        raise UserError(
            f"the file system of {state_folder} has no file locks ({error.strerror}): choose "
            "another one"
        ) from None


def wait_for_file(path: Path) -> None:
    """Waits until another process has written the file. Raises `Preempted`."""
    while not path.exists():
        stop_if_requested()
        time.sleep(POLL_SECONDS)


def stop_if_requested() -> None:
    """Raises `Preempted` after a stop signal, or if another process of this launch, on any node,
    has reported a failure.
    """
    if stopped_by() is not None:
        raise stopped()
    if another_failed():
        raise Preempted("another process of this launch failed")


def another_failed() -> bool:
    """Whether `state/error.json` was written since this process started.

    Launchers of several nodes do not stop each other.
    """
    return LAUNCH.is_reported


def stopped() -> Preempted:
    """The exception for a stop signal."""
    return Preempted(f"stopped by {stopped_by()}: {RERUN}")


def forget_failure(state_folder: Path, name: str = ERROR) -> None:
    """Removes error.json of an earlier attempt."""
    if (state_folder / name).exists():
        with suppress(OSError):  # a read-only folder
            (state_folder / name).unlink()
