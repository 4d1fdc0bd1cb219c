"""Which ranks of this launch, on this machine, died without a word: each leaves a note that it
removes before it ends by itself.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def launched_rank() -> int:
    """The rank the launcher gave this process, known before any library is set up."""
    return int(os.environ.get("RANK", "0"))


def launch_folder() -> Path | None:
    """A folder of this machine that this very launch has for itself: torchrun makes it. None
    without torchrun.
    """
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    return Path(error_file).parents[1] if error_file else None


def leave_note() -> None:
    """Says to the other ranks of this machine that this one runs: by a file that it removes before
    it ends by itself, and on which it holds a lock, which the system takes away however it ends.
    """
    folder = launch_folder()
    if folder is None:
        return
    working = folder / f".rank-{launched_rank()}"
    try:
        note = os.open(
            working, os.O_RDWR | os.O_CREAT
        )  # open to the end: closing it would give the lock away
        fcntl.lockf(note, fcntl.LOCK_EX | fcntl.LOCK_NB)
        working.rename(folder / f"rank-{launched_rank()}")
    except OSError:  # no room, or no locks: its death will look like a stop
        working.unlink(missing_ok=True)


def remove_note() -> None:
    if launch_folder() is not None:
        (launch_folder() / f"rank-{launched_rank()}").unlink(missing_ok=True)


def dead_ranks() -> list[int]:
    """The ranks of this launch, on this machine, whose note is there without its lock."""
    notes = [] if launch_folder() is None else launch_folder().glob("rank-*")
    ranks = {int(note.name.removeprefix("rank-")): note for note in notes}
    ranks.pop(launched_rank(), None)  # opening and closing its own note would give its lock away
    return sorted(rank for rank, note in ranks.items() if _is_abandoned(note))


def _is_abandoned(note: Path) -> bool:
    try:
        with open(note) as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False  # its rank lives, or has just removed it
    return note.exists()
