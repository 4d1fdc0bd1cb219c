"""Detects ranks of this machine that died without cleanup, by lock files in torchrun's folder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def launched_rank() -> int:
    """The rank that the launcher gave this process, known before any library is loaded."""
    return int(os.environ.get("RANK", "0"))


def launch_folder() -> Path | None:
    """The folder that torchrun made for this launch on this machine; None without torchrun."""
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    return Path(error_file).parents[1] if error_file else None


def leave_note() -> None:
    """Tells the other ranks of this machine that this one runs.

    By a file with a lock on it. The process removes the file before it ends; the system releases
    the lock however it ends.
    """
    folder = launch_folder()
    if folder is None:
        return
    working = folder / f".rank-{launched_rank()}"
    try:
        # never closed: that would release the lock
        note = os.open(working, os.O_RDWR | os.O_CREAT)
        fcntl.lockf(note, fcntl.LOCK_EX | fcntl.LOCK_NB)
        working.rename(folder / f"rank-{launched_rank()}")
    except OSError:  # no room, or no locks: a death will look like a stop
        working.unlink(missing_ok=True)


def remove_note() -> None:
    """Tells the other ranks that this one ends by itself."""
    folder = launch_folder()
    if folder is not None:
        (folder / f"rank-{launched_rank()}").unlink(missing_ok=True)


def dead_ranks() -> list[int]:
    """The other ranks on this machine that left a note without its lock."""
    folder = launch_folder()
    notes = [] if folder is None else folder.glob("rank-*")
    ranks = {int(note.name.removeprefix("rank-")): note for note in notes}
    ranks.pop(launched_rank(), None)  # opening and closing its own note would release its lock
    return sorted(rank for rank, note in ranks.items() if _is_abandoned(note))


def _is_abandoned(note: Path) -> bool:
    try:
        with open(note) as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False  # its rank lives, or has just removed it
    return note.exists()
