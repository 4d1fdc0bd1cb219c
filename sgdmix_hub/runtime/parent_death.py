"""A process that ends when the one that started it does."""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def signal_with_parent(number: int, parent: int) -> bool:
    """Asks Linux for a signal at the death of the process `parent`, which started this one; False
    when it is dead already.

    Elsewhere nothing is asked for.
    """
    if sys.platform != "linux":
        return True
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    return os.getppid() == parent
