"""The processes of one launch: ranks, devices, collectives, and what rank 0 prints."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import cv2
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from sgdmix_hub._compat import forget_mixed_precision
from sgdmix_hub.arithmetic import set_arithmetic
from sgdmix_hub.errors import UserError
from sgdmix_hub.storage.scratch import in_words

from .liveness import launched_rank

# Rank 0 may check terabytes while the others wait. A dead rank ends the launch anyway.
COLLECTIVE_TIMEOUT = datetime.timedelta(days=1)
Value = TypeVar("Value")


@dataclass(frozen=True)
class Rank:
    """This process's place among the `count` processes of the launch, and its device."""

    index: int
    count: int
    device: torch.device

    @property
    def is_main_process(self) -> bool:
        """Whether this is rank 0."""
        return self.index == 0


def start_processes(num_threads: int) -> Rank:
    """Joins the processes of the launch. Without a GPU: over gloo, with `num_threads` each."""
    cpu = not torch.cuda.is_available()
    state = PartialState(cpu=cpu, timeout=COLLECTIVE_TIMEOUT)
    forget_mixed_precision()  # of an earlier stage in the same process
    set_arithmetic()
    cv2.setNumThreads(num_threads)
    if cpu:
        torch.set_num_threads(num_threads)
    assert state.device is not None  # set by PartialState's constructor
    return Rank(state.process_index, state.num_processes, state.device)


def wait_for_everyone() -> None:
    """Waits until every rank has come here. A collective."""
    PartialState().wait_for_everyone()


def on_rank_zero(function: Callable[[], Value]) -> Value:
    """The result of `function`, called on rank 0 only, on every rank. A collective.

    Its `UserError` is raised on every rank.
    """
    outcome: Any = None  # (value, error), which the broadcast replaces on the other ranks
    if PartialState().is_main_process:
        try:
            outcome = (function(), None)
        except UserError as error:
            outcome = (None, error)
    box: list[Any] = [outcome]
    if PartialState().num_processes > 1:
        broadcast_object_list(box, from_process=0)
    (received,) = box
    value, error = received
    if error is not None:
        raise error
    return value


def say(text: str) -> None:
    """Prints one line for the user, on rank 0 only."""
    if launched_rank() == 0:
        print(in_words(text), flush=True)


class WarningLines(logging.Handler):
    """Prints warnings as lines of a program's output, `warning: ...`, on rank 0 only."""

    def emit(self, record: logging.LogRecord) -> None:
        say(f"{record.levelname.lower()}: {record.getMessage()}")


def show_warnings() -> None:
    """Sends the package's warnings to the program's output, as one line each.

    Without it they go where Python's logging sends them, as in any library.
    """
    logger = logging.getLogger("sgdmix_hub")
    if not any(isinstance(handler, WarningLines) for handler in logger.handlers):
        logger.addHandler(WarningLines(logging.WARNING))
