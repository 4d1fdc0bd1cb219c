"""One line of advice for an error from a lack of disk space or memory."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from datasets.config import HF_DATASETS_CACHE
from huggingface_hub.constants import HF_HOME, HF_HUB_CACHE

from sgdmix_hub.errors import UserError, first_line
from sgdmix_hub.runtime import shared_memory
from sgdmix_hub.settings.fields import Checked

from .stopping import RERUN

FULL_DISK = {
    errno.ENOSPC: "free some {where}",
    errno.EDQUOT: "free some {where}, or ask for more",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or choose another file system "
    "for {folder}",
}
FULL_BYTES = 2**20  # a file system with less free space counts as full

# Failed writes as safetensors, numpy and torch.save report them: in words, without `errno`.
FAILED_WRITE = re.compile(
    r"\(os error (?P<number>\d+)\)|\d+ requested and \d+ written|unexpected pos \d+ vs \d+"
)


def lack_of_room(error: Exception, settings: Checked | None) -> UserError | None:
    """The advice for a write without room, from the error or its causes; None for other errors."""
    for cause in causes(error):
        number = cause.errno if isinstance(cause, OSError) else None
        said = FAILED_WRITE.search(str(cause))
        if number is None and said:
            number = int(said["number"] or errno.ENOSPC)
        if number in FULL_DISK:
            folder = getattr(settings, "output_dir", "the output")
            advice = FULL_DISK[number].format(folder=folder, where=where_it_is_full(folder))
            return UserError(f"{os.strerror(number).lower()}: {advice}, then {RERUN}")
    return None


def where_it_is_full(output_dir: str) -> str:
    """The places of a run without free space, in words; all of them if the failed write has freed
    its space again.
    """
    places: dict[str | Path, None] = dict.fromkeys(
        [
            output_dir,
            HF_HOME,
            HF_HUB_CACHE,
            HF_DATASETS_CACHE,
            tempfile.gettempdir(),
            shared_memory.FOLDER,
        ]
    )
    full = [
        place
        for place in places
        if (free := shared_memory.free_bytes(place)) is not None and free < FULL_BYTES
    ]
    if not full:
        return f"where {output_dir} and the caches lie"
    if full == [shared_memory.FOLDER]:
        return (
            f"in {shared_memory.FOLDER}, or give it more room (docker run --shm-size=8g, or "
            "--ipc=host)"
        )
    return f"in {' and '.join(map(str, full))}"


def lack_of_memory(error: Exception, settings: Checked | None) -> UserError | None:
    """The advice for a failed allocation, from the error or its causes; None for other errors."""
    for cause in causes(error):
        on_gpu = isinstance(cause, torch.OutOfMemoryError)
        on_cpu = isinstance(
            cause, MemoryError
        ) or "DefaultCPUAllocator: can't allocate memory" in str(cause)
        if on_gpu or on_cpu:
            what = "out of GPU memory" if on_gpu else "out of memory"
            fewer = "" if on_gpu else ", or start fewer processes per machine"
            said = first_line(cause).partition(" Of the allocated memory")[0]
            return UserError(f"{what}: {_lower_batch(settings)}{fewer}, then {RERUN} ({said})")
    return None


def _lower_batch(settings: Checked | None) -> str:
    for name in vars(settings) if settings else ():
        if name.endswith("batch_size"):
            return f"lower --{name} (it is {getattr(settings, name)})"
    return "lower the batch size"


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
