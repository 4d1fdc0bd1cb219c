"""Helpers for tests of the row stores: a dataset of many rows, and two ranks on one folder."""

import threading
from collections.abc import Callable
from pathlib import Path

from generations import write_dataset


def many_rows(folder: Path, source_rows: list[dict], number: int, damaged: list[int] = ()) -> Path:
    """Folder dataset that repeats `source_rows` to `number` rows; `damaged` rows hold no image."""
    images = [source_rows[row % len(source_rows)]["image"]["bytes"] for row in range(number)]
    for row in damaged:
        images[row] = b"no image"
    return write_dataset(
        folder, images, [source_rows[row % len(source_rows)]["label"] for row in range(number)]
    )


def in_two_processes(work: Callable):
    """Runs `work(rank)` for ranks 0 and 1 at once and returns the result of rank 0.

    Two threads stand in for two processes: the ranks share nothing but files.
    """
    results = {}
    other = threading.Thread(target=lambda: results.update({1: work(1)}), daemon=True)
    other.start()
    results[0] = work(0)
    other.join(timeout=60)
    assert set(results) == {0, 1}
    return results[0]
