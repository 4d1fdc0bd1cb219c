"""What this process knows of its launch: whether it has to stop, and who reports a failure."""

from __future__ import annotations

import threading
from pathlib import Path


class LaunchState:
    """State of one process from its start to its end. There is one object, `LAUNCH`."""

    def __init__(self) -> None:
        self.stop_signal: int | None = None  # the first one that came
        self.report_path: Path | None = None  # of `state/error.json` in the output folder
        self._earlier_report: tuple[int, int] | None = None
        # Held for good by the thread that ends the process, so that only one reports.
        self.ending = threading.Lock()

    def report_to(self, path: Path | None) -> None:
        """Sets where a failure is written, and notes the report of an earlier attempt there."""
        self.report_path = path
        self._earlier_report = None if path is None else file_identity(path)

    @property
    def is_reported(self) -> bool:
        """Whether a process has reported a failure since this launch began."""
        if self.report_path is None:
            return False
        return file_identity(self.report_path) not in (None, self._earlier_report)


def file_identity(path: Path) -> tuple[int, int] | None:
    """Tells a file from the one that replaces it, even if machines' clocks differ; None without a
    file.
    """
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns


LAUNCH = LaunchState()
