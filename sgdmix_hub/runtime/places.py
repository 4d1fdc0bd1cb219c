"""One line of advice for an error from a file or folder that cannot be read or written."""

from __future__ import annotations

import errno
import os

from sgdmix_hub.errors import UserError, first_line, shown

ELSEWHERE = "or choose another place"
BLOCKED = "is where a folder must be: move it away"
FAILING = (
    "the disk or its network fails: fix that and rerun the same command; finished work is kept"
)
ADVICE = {
    errno.EACCES: f"give this user access, {ELSEWHERE}",
    errno.EPERM: f"give this user access, {ELSEWHERE}",
    errno.EROFS: f"mount it writable, {ELSEWHERE}",
    errno.ENOTDIR: f"a file {BLOCKED}, {ELSEWHERE}",
    errno.EEXIST: f"a file, or a dangling link, {BLOCKED}, {ELSEWHERE}",
    errno.EISDIR: f"a folder is where a file must be: move it away, {ELSEWHERE}",
    errno.ENOTEMPTY: f"move the folder away, {ELSEWHERE}",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: f"fix the links, {ELSEWHERE}",
    errno.EXDEV: "the output folder must be on one file system: no mount and no link inside it",
    errno.ENOLCK: "its file system has no locks: choose another place, HF_HOME for the caches",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "this machine has too many open files: close some",
    errno.EIO: FAILING,
    errno.ESTALE: FAILING,
    errno.EREMOTEIO: FAILING,
    errno.ENODEV: FAILING,
    errno.ENXIO: FAILING,
}


def useless_place(error: Exception) -> UserError | None:
    """The advice for a place that cannot be used, from the error or its causes.

    None for other errors.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in ADVICE:
            return UserError(f"{_what(cause)}: {ADVICE[cause.errno]}")
        cause = cause.__cause__
    return None


def unwritable(folder: object, error: OSError | ValueError) -> UserError:
    """The advice for an output folder that cannot be created."""
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, OSError) and number in ADVICE:
        return UserError(f"{_what(error)}: {ADVICE[number]}")
    what = os.strerror(number).lower() if number else first_line(error)
    return UserError(
        f"{shown(folder, 120)} cannot be written ({what}): choose another --output_dir"
    )


def _what(error: OSError) -> str:
    place = error.filename2 or error.filename
    if place is None or error.errno is None:
        return first_line(error)
    return f"{shown(place, 120)}: {os.strerror(error.errno).lower()}"
