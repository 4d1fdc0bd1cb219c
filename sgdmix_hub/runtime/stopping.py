"""Stop signals, the output folder's lock, and waiting for files of other processes."""

from __future__ import annotations

import errno
import fcntl
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from sgdmix_hub.errors import Preempted, UserError
from sgdmix_hub.files import clear_abandoned
from sgdmix_hub.output_folder import ERROR

from .places import unwritable
from .signals import stopped_by

POLL_SECONDS = 0.2
RESERVE = "error.reserve"  # room for the report of a full disk
GOES_ON = "the same command goes on, with what was finished kept"
CANNOT_WRITE = (errno.EROFS, errno.EACCES, errno.EPERM)


class FailureReport:
    """`state/error.json` of this launch's output folder, in which one process says why the launch
    fails.
    """

    def __init__(self):
        self.path: Path | None = None
        self._earlier: tuple[int, int] | None = None

    def begin(self, path: Path | None) -> None:
        """Notes where a failure is to be written, and which report of an earlier attempt is there."""
        self.path, self._earlier = path, None if path is None else _file_identity(path)

    @property
    def is_new(self) -> bool:
        """Whether it was written since this launch began."""
        return self.path is not None and _file_identity(self.path) not in (None, self._earlier)


REPORT = FailureReport()


class FolderInUse(UserError):
    """Another run holds the output folder: nothing in it may be touched, not even for a report."""


def _file_identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from the one that replaces it, whatever the clocks of the machines say;
    None where there is none.
    """
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns


@contextmanager
def lock_folder(state_folder: Path, name: str = "lock", finished: Path | None = None):
    """Holds the lock file while the run lasts, and clears what killed runs left. Raises
    `FolderInUse` when another run holds it, and `UserError` where nothing can be written, unless
    `finished` is there: whether a run is done can be asked in a read-only place too.
    """
    opened = _open_lock(state_folder / name, finished)
    if opened is None:
        yield
        return
    with opened as file:
        try:
            # lockf, not flock: a data loader's workers, which outlive a killed process for a while,
            # do not hold their parent's lock
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise FolderInUse(
                f"{state_folder.parent} is in use by another run: wait for it or choose another --output_dir"
            ) from None
        except OSError as error:
            raise UserError(
                f"the file system of {state_folder} has no file locks ({error.strerror}): choose another one"
            ) from None
        if state_folder / ERROR == REPORT.path and not another_failed():
            REPORT.path.unlink(
                missing_ok=True
            )  # an earlier attempt's: should this one be killed, it must not speak for it
        clear_abandoned(state_folder)
        reserve = state_folder / RESERVE
        with suppress(OSError):
            reserve.write_bytes(bytes(8192))
        try:
            yield
        finally:
            reserve.unlink(missing_ok=True)


def _open_lock(path: Path, finished: Path | None) -> TextIO | None:
    """The lock file, or None where nothing can be written and nothing needs to be. Raises
    `UserError`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "a")
    except (OSError, ValueError) as error:
        if (
            getattr(error, "errno", None) in CANNOT_WRITE
            and finished is not None
            and finished.exists()
        ):
            return None
        raise unwritable(path.parent.parent, error) from error


def wait_for_file(path: Path) -> None:
    """Waits until another process has put the file in place. Raises `Preempted` when this one is
    told to stop.
    """
    while not path.exists():
        stop_if_requested()
        time.sleep(POLL_SECONDS)


def stop_if_requested() -> None:
    """Raises `Preempted` once a signal to stop has come, or once a process of this launch, on
    whatever node, has reported a failure.
    """
    if stopped_by() is not None:
        raise stopped()
    if another_failed():
        raise Preempted("another process of this launch failed")


def another_failed() -> bool:
    """Whether `state/error.json` was written since this process started: launchers of several nodes
    do not stop each other.
    """
    return REPORT.is_new


def stopped() -> Preempted:
    """What is said of a signal to stop."""
    return Preempted(f"stopped by {stopped_by()}: {GOES_ON}")


def forget_failure(state_folder: Path) -> None:
    """Removes the report of an earlier attempt's failure, which is over."""
    if (state_folder / ERROR).exists():
        with suppress(OSError):  # in a read-only place
            (state_folder / ERROR).unlink()
