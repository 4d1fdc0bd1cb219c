"""OpenCV in forked processes, such as the workers of a data loader on Linux.

OpenCV keeps a pool of threads. A forked process inherits the pool without its threads, and waits
for them forever in the next call that uses or resizes it.
"""

from __future__ import annotations

import os
from functools import lru_cache

import cv2


@lru_cache(maxsize=1)
def end_threads_before_forks() -> None:
    """From now on, this process ends OpenCV's threads before a fork and allows them again after it;
    the forked process has one thread.
    """
    if not hasattr(os, "register_at_fork"):  # a platform without forks
        return
    allowed: list[int] = []

    def end() -> None:
        allowed.append(cv2.getNumThreads())
        cv2.setNumThreads(1)

    os.register_at_fork(
        before=end,
        after_in_parent=lambda: cv2.setNumThreads(allowed.pop()),
        after_in_child=allowed.clear,
    )
