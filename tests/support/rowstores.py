"""What tests of the stores share: data of many rows, and two processes on one folder."""

import threading
from collections.abc import Callable
from pathlib import Path

from generations import write_dataset


def many_rows(folder: Path, source_rows: list[dict], number: int, damaged: list[int] = ()) -> Path:
    """A folder dataset of this many rows, the birds' over and over, with no image in the damaged
    ones.
    """
    images = [source_rows[row % len(source_rows)]["image"]["bytes"] for row in range(number)]
    for row in damaged:
        images[row] = b"no image"
    return write_dataset(
        folder, images, [source_rows[row % len(source_rows)]["label"] for row in range(number)]
    )


def in_two_processes(work: Callable):
    """`work(rank)` for both ranks at once, here in two threads: they meet in the folder's files
    alone. Gives what rank 0 gets.
    """
    results = {}
    other = threading.Thread(target=lambda: results.update({1: work(1)}), daemon=True)
    other.start()
    results[0] = work(0)
    other.join(timeout=60)
    assert set(results) == {0, 1}
    return results[0]
