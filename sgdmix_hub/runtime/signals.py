"""Signals that ask a process to stop: SIGTERM, Ctrl-C, and SIGHUP, which a closed terminal sends.
They are heeded alike.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable
from typing import NoReturn

STOP_SECONDS = (
    20.0  # from the signal to the end, whatever the process is at: launchers kill after 30
)
SECOND_SECONDS = 2.0  # a terminal sends Ctrl-C to everybody, and launchers pass it on: only a later one is another one
NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C (SIGINT)", signal.SIGHUP: "SIGHUP"}
_asked_by: int | None = None


def stopped_by() -> str | None:
    """The name of the signal that asked this process to stop."""
    return None if _asked_by is None else NAMES[_asked_by]


def _ask(number: int, frame: object) -> None:
    global _asked_by
    _asked_by = _asked_by or number


def heed_signals(end: Callable[[], NoReturn]) -> None:
    """Notes the signals from now on; `end()` ends this process `STOP_SECONDS` after one, whatever
    it is at by then: a long step, a download, a collective nobody else joins. A second Ctrl-C has
    it end at once.

    Python hands a signal to the main thread between two of its steps; the wake-up descriptor hears
    of it at once.
    """
    for number in NAMES:
        if (
            signal.getsignal(number) is not signal.SIG_IGN
        ):  # as under nohup, and of Ctrl-C in the background
            signal.signal(number, _ask)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    os.register_at_fork(
        after_in_child=lambda: signal.set_wakeup_fd(-1)
    )  # a worker's signals are not this process's

    def wait() -> NoReturn:
        while (number := os.read(reader, 1)[0]) not in NAMES:
            pass
        _ask(number, None)
        asked = time.monotonic()
        while (left := asked + STOP_SECONDS - time.monotonic()) > 0:
            heard = select.select([reader], [], [], left)[0]
            if (
                heard
                and os.read(reader, 1)[0] == signal.SIGINT
                and time.monotonic() - asked > SECOND_SECONDS
            ):
                break
        end()

    threading.Thread(target=wait, daemon=True).start()
