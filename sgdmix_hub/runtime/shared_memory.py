"""Room in /dev/shm, through which the workers of data loaders hand over their work: containers
often have 64 MB. Where it is full, they wait for ever.
"""

from __future__ import annotations

import os

from sgdmix_hub.errors import UserError

FOLDER = "/dev/shm"
PREFETCHED = 2  # batches a worker of a data loader makes ahead: PyTorch's default


def loader_bytes(num_workers: int, batch_size: int, image_size: int, num_processes: int = 1) -> int:
    """The bytes that the workers of data loaders have in shared memory at most, one loader a
    process: batches of float32 images.
    """
    return num_processes * num_workers * PREFETCHED * batch_size * 3 * image_size**2 * 4


def free_bytes(folder: str = FOLDER) -> int | None:
    """The room that is left in a folder's file system; None where there is no such folder."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def check_shared_memory(needed: int, who: str, remedy: str, folder: str = FOLDER) -> None:
    """Raises `UserError` when `needed` bytes are more than are left. `who` needs them; `remedy`:
    what else helps than more of it.
    """
    free = free_bytes(folder)
    if free is not None and free < needed:
        raise UserError(
            f"{folder} has {megabytes(free)} left, {who} need up to {megabytes(needed)}: {remedy}more shared memory "
            "(docker run --shm-size=8g, or --ipc=host)"
        )


def megabytes(number: int) -> str:
    return f"{number / 1e6:,.0f} MB" if number >= 1e7 else f"{number / 1e6:.2g} MB"
