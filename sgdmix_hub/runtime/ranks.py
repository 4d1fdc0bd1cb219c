"""The processes of one launch: ranks, devices, collectives that rank 0 leads."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import TypeVar

import cv2
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from sgdmix_hub._compat import forget_mixed_precision
from sgdmix_hub.errors import UserError

from .liveness import launched_rank

COLLECTIVE_TIMEOUT = datetime.timedelta(
    days=1
)  # rank 0 may check terabytes while the others wait; a dead rank ends the launch anyway
Value = TypeVar("Value")


def start_processes(num_threads: int) -> PartialState:
    """This process's place in the launch. Without a GPU the processes talk over gloo, with
    `num_threads` threads each.
    """
    cpu = not torch.cuda.is_available()
    state = PartialState(cpu=cpu, timeout=COLLECTIVE_TIMEOUT)
    forget_mixed_precision()  # of an earlier stage in the same process
    torch.backends.cudnn.deterministic = True
    cv2.setNumThreads(num_threads)
    if cpu:
        torch.set_num_threads(num_threads)
    return state


def on_rank_zero(function: Callable[[], Value]) -> Value:
    """What `function` gives on rank 0, on every rank; its `UserError` is raised on every rank too.
    A collective.
    """
    outcome = None
    if PartialState().is_main_process:
        try:
            outcome = (function(), None)
        except UserError as error:
            outcome = (None, error)
    box = [outcome]
    if PartialState().num_processes > 1:
        broadcast_object_list(box, from_process=0)
    value, error = box[0]
    if error is not None:
        raise error
    return value


def say(text: str) -> None:
    """One line for the user, from rank 0."""
    if launched_rank() == 0:
        print(text, flush=True)
