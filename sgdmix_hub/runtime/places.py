"""What an error means that comes from a file or folder which cannot be read or written: one line of
advice.
"""

from __future__ import annotations

import errno
import os

from sgdmix_hub.errors import UserError, first_line, shown

ELSEWHERE = "or choose another place"
FAILING = "the disk or its network fails: see to that, then the same command goes on, with what was finished kept"
ADVICE = {
    errno.EACCES: f"give this user access, {ELSEWHERE}",
    errno.EPERM: f"give this user access, {ELSEWHERE}",
    errno.EROFS: f"mount it writable, {ELSEWHERE}",
    errno.ENOTDIR: f"a file is where a folder has to be: move it away, {ELSEWHERE}",
    errno.EEXIST: f"a file, or a link that leads nowhere, is where a folder has to be: move it away, {ELSEWHERE}",
    errno.EISDIR: f"a folder is where a file has to be: move it away, {ELSEWHERE}",
    errno.ENOTEMPTY: f"move the folder away, {ELSEWHERE}",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: f"mend the links, {ELSEWHERE}",
    errno.EXDEV: "the output folder has to lie on one file system: no mount and no link inside it",
    errno.ENOLCK: f"its file system has no locks: {ELSEWHERE.removeprefix('or ')}, HF_HOME for the caches",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "this machine has too many open files: close some",
    errno.EIO: FAILING,
    errno.ESTALE: FAILING,
    errno.EREMOTEIO: FAILING,
    errno.ENODEV: FAILING,
    errno.ENXIO: FAILING,
}


def useless_place(error: Exception) -> UserError | None:
    """The advice for a place that cannot be used, however deep in the libraries the error was
    raised from; None for other errors.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in ADVICE:
            return UserError(f"{_what(cause)}: {ADVICE[cause.errno]}")
        cause = cause.__cause__
    return None


def unwritable(folder: object, error: OSError | ValueError) -> UserError:
    """The advice for a folder of output that cannot even be made."""
    if isinstance(error, OSError) and error.errno in ADVICE:
        return UserError(f"{_what(error)}: {ADVICE[error.errno]}")
    what = (
        os.strerror(error.errno).lower()
        if isinstance(error, OSError) and error.errno
        else first_line(error)
    )
    return UserError(
        f"{shown(folder, 120)} cannot be written ({what}): choose another --output_dir"
    )


def _what(error: OSError) -> str:
    place = error.filename2 or error.filename
    return (
        first_line(error)
        if place is None
        else f"{shown(place, 120)}: {os.strerror(error.errno).lower()}"
    )
