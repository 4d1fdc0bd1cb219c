"""Free space in /dev/shm, which data loader workers use: they hang forever if it is full.

Containers often have 64 MB.
"""

from __future__ import annotations

import os
from pathlib import Path

from sgdmix_hub.errors import UserError

FOLDER = "/dev/shm"
PREFETCHED = 2  # batches that a data loader's worker makes ahead: PyTorch's default


def loader_bytes(num_workers: int, batch_size: int, image_size: int, num_processes: int = 1) -> int:
    """The most shared memory that data loaders use, in bytes: float32 batches, one loader per
    process.
    """
    return num_processes * num_workers * PREFETCHED * batch_size * 3 * image_size**2 * 4


def free_bytes(folder: str | Path = FOLDER) -> int | None:
    """Free bytes in a folder's file system; None if there is no such folder."""
    try:
        status = os.statvfs(folder)
    except OSError:
        return None
    return status.f_bavail * status.f_frsize


def check_shared_memory(needed: int, who: str, remedy: str, folder: str = FOLDER) -> None:
    """Raises `UserError` if `who` needs more bytes than are free. `remedy`: what else helps, in
    front of "more shared memory".
    """
    free = free_bytes(folder)
    if free is not None and free < needed:
        raise UserError(
            f"{folder} has {megabytes(free)} left, {who} need up to {megabytes(needed)}: "
            f"{remedy}more shared memory (docker run --shm-size=8g, or --ipc=host)"
        )


def megabytes(number: int) -> str:
    """A number of bytes in words: 12 MB, 1.5 MB."""
    return f"{number / 1e6:,.0f} MB" if number >= 1e7 else f"{number / 1e6:.2g} MB"
