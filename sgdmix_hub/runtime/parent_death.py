"""A signal at the death of the parent process."""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def signal_with_parent(number: int, parent: int) -> bool:
    """Asks Linux to send this process a signal when its parent, `parent`, dies. False if it is dead
    already.

    No-op on other platforms.
    """
    if sys.platform != "linux":
        return True
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    return os.getppid() == parent
