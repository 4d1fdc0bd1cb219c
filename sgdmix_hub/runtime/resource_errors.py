"""What an error means that comes from a lack of disk or memory, however deep in the libraries: one
line of advice.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterator

import torch
from datasets.config import HF_DATASETS_CACHE
from huggingface_hub.constants import HF_HOME, HF_HUB_CACHE

from sgdmix_hub.errors import UserError, first_line
from sgdmix_hub.runtime import shared_memory
from sgdmix_hub.settings.data import DataSettings
from sgdmix_hub.settings.programs import PublishSettings

FULL_DISK = {
    errno.ENOSPC: "free some {where}",
    errno.EDQUOT: "free some {where}, or ask for more",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f) or choose another file system for {folder}",
}
FULL_BYTES = 2**20  # less than this is no room

# What safetensors, numpy and torch.save say of a write that failed: they keep no error number, or
# put it in words.
FAILED_WRITE = re.compile(
    r"\(os error (?P<number>\d+)\)|\d+ requested and \d+ written|unexpected pos \d+ vs \d+"
)


def lack_of_room(
    error: Exception, settings: DataSettings | PublishSettings | None
) -> UserError | None:
    """The advice for a write that failed for lack of room, however deep in the libraries; None for
    other errors.
    """
    for cause in causes(error):
        number = cause.errno if isinstance(cause, OSError) else None
        said = FAILED_WRITE.search(str(cause))
        if number is None and said:
            number = int(said["number"] or errno.ENOSPC)
        if number in FULL_DISK:
            folder = getattr(settings, "output_dir", "the output")
            advice = FULL_DISK[number].format(folder=folder, where=where_it_is_full(folder))
            return UserError(
                f"{os.strerror(number).lower()}: {advice}, then the same command goes on, with what was finished kept"
            )
    return None


def where_it_is_full(output_dir: str) -> str:
    """The places of a run that have no room left, in words; all of them where a failed write has
    given its room back.
    """
    caches = [HF_HOME, HF_HUB_CACHE, HF_DATASETS_CACHE, tempfile.gettempdir()]
    places = dict.fromkeys([output_dir, *caches, shared_memory.FOLDER])
    full = [
        place
        for place in places
        if (free := shared_memory.free_bytes(place)) is not None and free < FULL_BYTES
    ]
    if full == [shared_memory.FOLDER]:
        return f"in {shared_memory.FOLDER}, or give it more room (docker run --shm-size=8g, or --ipc=host)"
    return (
        f"in {' and '.join(map(str, full))}" if full else f"where {output_dir} and the caches lie"
    )


def lack_of_memory(
    error: Exception, settings: DataSettings | PublishSettings | None
) -> UserError | None:
    """The advice for an allocation that failed; None for other errors."""
    for cause in causes(error):
        on_gpu = isinstance(cause, torch.OutOfMemoryError)
        if (
            on_gpu
            or isinstance(cause, MemoryError)
            or "DefaultCPUAllocator: can't allocate memory" in str(cause)
        ):
            sizes = (
                [name for name in vars(settings) if name.endswith("batch_size")] if settings else []
            )
            lower = (
                f"lower --{sizes[0]} (it is {getattr(settings, sizes[0])})"
                if sizes
                else "lower the batch size"
            )
            fewer = "" if on_gpu else ", or start fewer processes on a machine"
            what = "out of GPU memory" if on_gpu else "out of memory"
            said = first_line(cause).partition(" Of the allocated memory")[0]
            return UserError(
                f"{what}: {lower}{fewer}, then the run goes on, with what was finished kept ({said})"
            )
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
