"""Signals that ask a process to stop: SIGTERM, Ctrl-C, and SIGHUP (a closed terminal).

All three are handled alike.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from .launch_state import LAUNCH

# From the signal to the end of the process, whatever it is doing: launchers kill after 30.
STOP_SECONDS = 20.0
# A terminal sends Ctrl-C to every process and launchers pass it on: one that comes sooner is the
# same one again.
SECOND_SECONDS = 2.0
NAMES = {
    int(signal.SIGTERM): "SIGTERM",
    int(signal.SIGINT): "Ctrl-C (SIGINT)",
    int(signal.SIGHUP): "SIGHUP",
}


def stopped_by() -> str | None:
    """The name of the signal that asked this process to stop."""
    return None if LAUNCH.stop_signal is None else NAMES[LAUNCH.stop_signal]


def _note(number: int, frame: object) -> None:
    LAUNCH.stop_signal = LAUNCH.stop_signal or number


def handle_signals(end: Callable[[], NoReturn]) -> None:
    """Notes stop signals from now on. `end()` ends the process `STOP_SECONDS` after one, or at once
    on a second Ctrl-C.

    Python runs a signal handler only between two steps of the main thread. A wake-up descriptor
    hears of the signal at once, even during a long step, a download, or a stuck collective.
    """
    for number in NAMES:
        # ignored under nohup, and Ctrl-C in the background
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _note)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # a worker's signals are not this process's
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))

    def wait() -> NoReturn:
        while (number := os.read(reader, 1)[0]) not in NAMES:
            pass
        _note(number, None)
        asked = time.monotonic()
        while (left := asked + STOP_SECONDS - time.monotonic()) > 0:
            heard = select.select([reader], [], [], left)[0]
            is_interrupt = heard and os.read(reader, 1)[0] == signal.SIGINT
            if is_interrupt and time.monotonic() - asked > SECOND_SECONDS:
                break
        end()

    threading.Thread(target=wait, daemon=True).start()
