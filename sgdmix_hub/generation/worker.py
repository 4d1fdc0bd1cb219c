"""Makes the shards of one process: mixes on threads, refines in batches, encodes in processes.

A shard is written while the next one is made, so at most two are in memory. Working ahead changes
no byte: an image depends on its row alone, and a shard's rows are put in the order of the plan.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby

from .encoding import Encoders
from .plan import PlanRow
from .remaking import accepted_rows
from .row_maker import RowMaker

AHEAD = 2  # batches

# write(shard number, published rows, skipped rows, seconds)
WriteShard = Callable[[int, list[dict], list[dict], float], None]


def make_shards(
    maker: RowMaker,
    shards: Iterable[tuple[int, list[PlanRow]]],
    num_workers: int,
    write: WriteShard,
    advance: Callable[[int], None],
) -> None:
    """Makes one shard after the other.

    `write` is called for each on a second thread, `advance(n)` after every n rows.
    """
    settings = maker.settings
    with (
        Encoders(num_workers, settings.image_format, settings.image_quality) as encoders,
        ThreadPoolExecutor(1, "write") as writer,
        ThreadPoolExecutor(num_workers, "mix") as mixers,
    ):
        writing: Future | None = None
        ordered = (
            (number, row)
            for number, rows in shards
            for row in sorted(rows, key=lambda row: row.strength)
        )
        mixed = computed_ahead(
            mixers,
            lambda item: (*item, maker.mixture_or_reason(item[1])),
            ordered,
            AHEAD * settings.batch_size,
        )
        started = time.monotonic()
        for number, items in groupby(mixed, key=lambda item: item[0]):
            made, skipped = [], []
            for done in accepted_rows(
                maker, ((row, mixture) for _, row, mixture in items), skipped, advance
            ):
                row, images = done.row, maker.images(done.finished).items()
                encoded = {
                    name: encoders.encode(pixels, maker.mark(row, name)) for name, pixels in images
                }
                columns = maker.columns(row, done.finished.mixture, done.attempts)
                made.append((row, columns, encoded))
            if writing is not None:
                writing.result()
            writing = writer.submit(
                _write, write, number, maker, made, skipped, time.monotonic() - started
            )
            started = time.monotonic()
        if writing is not None:
            writing.result()


def _write(
    write: WriteShard,
    number: int,
    maker: RowMaker,
    made: list[tuple[PlanRow, dict, dict[str, Future[bytes]]]],
    skipped: list[dict],
    seconds: float,
) -> None:
    """Waits for a shard's encoded images and writes its rows in the order of the plan."""
    rows = []
    for row, columns, encoded in sorted(made, key=in_plan_order):
        cells = {
            name: maker.image_cell(row, image.result(), name) for name, image in encoded.items()
        }
        rows.append(cells | columns)
    skipped = sorted(skipped, key=lambda record: (record["source_index"], record["variant"]))
    write(number, rows, skipped, seconds)


def in_plan_order(item: tuple) -> tuple[int, int]:
    """A sort key for tuples that begin with a row of the plan."""
    return item[0].source_index, item[0].variant


def computed_ahead(
    threads: ThreadPoolExecutor, function: Callable, items: Iterable, depth: int
) -> Iterator:
    """`function(item)` for every item, in order, computed up to `depth` items ahead."""
    pending: deque[Future] = deque()
    for item in items:
        pending.append(threads.submit(function, item))
        if len(pending) > depth:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
