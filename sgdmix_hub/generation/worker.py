"""The flow of one process: its shards' rows are mixed ahead on threads, refined in batches of one
strength, encoded in worker processes, and written while the next shard is under way.

At most two shards are in memory: the one that is being made and the one that is being written. What
runs ahead changes no byte: a row's image depends on the row alone, and a shard's rows are put in
the plan's order.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby, islice

import numpy as np

from sgdmix_hub.errors import Unusable
from sgdmix_hub.method.mixer import Mixture
from sgdmix_hub.runtime.stopping import stop_if_requested

from .encoding import Encoders
from .plan import PlanRow
from .row_maker import RowMaker

AHEAD = 2  # batches that are mixed ahead

# write(shard number, published rows, skipped rows, seconds)
WriteShard = Callable[[int, list[dict], list[dict], float], None]


def make_shards(
    maker: RowMaker,
    shards: Iterable[tuple[int, list[PlanRow]]],
    num_workers: int,
    write: WriteShard,
    advance: Callable[[int], None],
) -> None:
    """Makes shard after shard; `write` is called for each on a thread of its own, and `advance(n)`
    is told of n more rows done.
    """
    settings = maker.settings
    with (
        Encoders(num_workers, settings.image_format) as encoders,
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
            for row, mixture, image in refined_rows(
                maker, ((row, mixture) for _, row, mixture in items), skipped, advance
            ):
                made.append((row, mixture.foreground_area, encoders.encode(image)))
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
    made: list[tuple[PlanRow, float, Future]],
    skipped: list[dict],
    seconds: float,
):
    """Puts a shard's rows in the plan's order, their images as soon as they are encoded, and writes
    it.
    """
    rows = []
    for row, foreground_area, encoded in sorted(made, key=in_plan_order):
        image = {"bytes": encoded.result(), "path": maker.image_name(row)}
        rows.append({"image": image} | maker.columns(row, foreground_area))
    write(
        number,
        rows,
        sorted(skipped, key=lambda record: (record["source_index"], record["variant"])),
        seconds,
    )


def in_plan_order(item: tuple) -> tuple[int, int]:
    """A sort key for tuples that begin with a planned row."""
    return item[0].source_index, item[0].variant


def computed_ahead(
    threads: ThreadPoolExecutor, function: Callable, items: Iterable, depth: int
) -> Iterator:
    """`function(item)` for every item, in order, up to `depth` items ahead of the one that is asked
    for.
    """
    pending: deque[Future] = deque()
    for item in items:
        pending.append(threads.submit(function, item))
        if len(pending) > depth:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def refined_rows(
    maker: RowMaker,
    mixed: Iterable[tuple[PlanRow, Mixture | Unusable]],
    skipped: list[dict],
    advance: Callable[[int], None],
) -> Iterator[tuple[PlanRow, Mixture, np.ndarray]]:
    """Rows of a plan with their mixtures and finished images, uint8 (size, size, 3); rows without
    one go to `skipped` with their reasons.

    `mixed`: rows, one strength after the other, with their mixtures or why there is none.
    """
    for rows, mixtures in batches(mixed, maker.settings.batch_size, skipped, advance):
        stop_if_requested()
        for row, mixture, image in zip(rows, mixtures, maker.refined(rows, mixtures), strict=True):
            if isinstance(image, Unusable):
                skipped.append(skip_record(row, image.reason))
            else:
                yield row, mixture, image
        advance(len(rows))


def batches(
    mixed: Iterable[tuple[PlanRow, Mixture | Unusable]],
    batch_size: int,
    skipped: list[dict],
    advance: Callable[[int], None],
) -> Iterator[tuple[list[PlanRow], list[Mixture]]]:
    """Rows and mixtures in batches of one strength; rows without a mixture go to `skipped` with
    their reasons.
    """

    def usable() -> Iterator[tuple[PlanRow, Mixture]]:
        for row, mixture in mixed:
            if isinstance(mixture, Unusable):
                skipped.append(skip_record(row, mixture.reason))
                advance(1)
            else:
                yield row, mixture

    for _, group in groupby(usable(), key=lambda item: item[0].strength):
        while batch := list(islice(group, batch_size)):
            yield tuple(map(list, zip(*batch, strict=True)))


def skip_record(row: PlanRow, reason: str) -> dict:
    """How a skipped row stands in records, manifest and card."""
    return {"source_index": row.source_index, "variant": row.variant, "reason": reason}
