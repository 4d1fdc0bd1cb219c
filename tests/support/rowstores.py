"""Helpers for tests of the row stores: a dataset of many rows, and two ranks on one folder."""

from collections.abc import Callable
from pathlib import Path

from forking import fork
from generations import write_dataset


def many_rows(folder: Path, source_rows: list[dict], number: int, damaged: list[int] = ()) -> Path:
    """Folder dataset that repeats `source_rows` to `number` rows; `damaged` rows hold no image."""
    images = [source_rows[row % len(source_rows)]["image"]["bytes"] for row in range(number)]
    for row in damaged:
        images[row] = b"no image"
    return write_dataset(
        folder, images, [source_rows[row % len(source_rows)]["label"] for row in range(number)]
    )


def in_two_processes(work: Callable, *arguments):
    """Runs `work(*arguments, rank, 2)` for rank 1 in a process of its own and at the same time for
    rank 0 here, and returns the result of rank 0.

    `work` is a function of a module: it and its arguments are pickled.
    """
    other = fork(work, *arguments, 1, 2)
    result = work(*arguments, 0, 2)
    other.join(timeout=60)
    assert other.exitcode == 0
    return result
