"""What an error means that comes from a lack of disk or memory, however deep in the libraries: one line of advice."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator

import torch

from .config import DataSettings
from .errors import UserError, first_line
from .program_settings import PublishSettings

FULL_DISK = {
    errno.ENOSPC: "free some where {folder} and the caches lie",
    errno.EDQUOT: "free some where {folder} and the caches lie, or ask for more",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f) or choose another file system for {folder}",
}
# What safetensors, numpy and torch.save say of a write that failed: they keep no error number, or put it in words.
FAILED_WRITE = re.compile(r"\(os error (?P<number>\d+)\)|\d+ requested and \d+ written|unexpected pos \d+ vs \d+")


def lack_of_room(error: Exception, settings: DataSettings | PublishSettings | None) -> UserError | None:
    """The advice for a write that failed for lack of room, however deep in the libraries; None for other errors."""
    for cause in causes(error):
        number = cause.errno if isinstance(cause, OSError) else None
        said = FAILED_WRITE.search(str(cause))
        if number is None and said:
            number = int(said["number"] or errno.ENOSPC)
        if number in FULL_DISK:
            advice = FULL_DISK[number].format(folder=getattr(settings, "output_dir", "the output"))
            return UserError(f"{os.strerror(number).lower()}: {advice}, then the same command goes on, with what was finished kept")
    return None


def lack_of_memory(error: Exception, settings: DataSettings | PublishSettings | None) -> UserError | None:
    """The advice for an allocation that failed; None for other errors."""
    for cause in causes(error):
        on_gpu = isinstance(cause, torch.OutOfMemoryError)
        if on_gpu or isinstance(cause, MemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(cause):
            sizes = [name for name in vars(settings) if name.endswith("batch_size")] if settings else []
            lower = f"lower --{sizes[0]} (it is {getattr(settings, sizes[0])})" if sizes else "lower the batch size"
            fewer = "" if on_gpu else ", or start fewer processes on a machine"
            what = "out of GPU memory" if on_gpu else "out of memory"
            said = first_line(cause).partition(" Of the allocated memory")[0]
            return UserError(f"{what}: {lower}{fewer}, then the run goes on, with what was finished kept ({said})")
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
