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

import numpy as np

from sgdmix_hub.data.images import Frame
from sgdmix_hub.errors import Unusable
from sgdmix_hub.method.mixer import Mixture
from sgdmix_hub.runtime.stopping import stop_if_requested

from .encoding import Encoders
from .plan import PlanRow
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
            for row, mixture, image in refined_rows(
                maker, ((row, mixture) for _, row, mixture in items), skipped, advance
            ):
                columns = maker.columns(row, mixture)
                made.append((row, columns, encoders.encode(image, maker.mark(row))))
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
    made: list[tuple[PlanRow, dict, Future]],
    skipped: list[dict],
    seconds: float,
) -> None:
    """Waits for a shard's encoded images and writes its rows in the order of the plan."""
    rows = []
    for row, columns, encoded in sorted(made, key=in_plan_order):
        image = {"bytes": encoded.result(), "path": maker.image_name(row)}
        rows.append({"image": image} | columns)
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


def refined_rows(
    maker: RowMaker,
    mixed: Iterable[tuple[PlanRow, Mixture | Unusable]],
    skipped: list[dict],
    advance: Callable[[int], None],
) -> Iterator[tuple[PlanRow, Mixture, np.ndarray]]:
    """Rows with their mixtures and finished images, uint8 (size, size, 3).

    Rows that cannot be made are appended to `skipped` with their reasons. `mixed`: rows sorted by
    strength, with their mixtures or the reason why there is none.
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
    """Rows and mixtures in batches of one strength and one frame; rows without a mixture go to
    `skipped`.
    """

    def usable() -> Iterator[tuple[PlanRow, Mixture]]:
        for row, mixture in mixed:
            if isinstance(mixture, Unusable):
                skipped.append(skip_record(row, mixture.reason))
                advance(1)
            else:
                yield row, mixture

    for _, group in groupby(usable(), key=lambda item: item[0].strength):
        waiting: dict[Frame, list[tuple[PlanRow, Mixture]]] = {}
        for item in group:
            batch = waiting.setdefault(item[1].source.frame, [])
            batch.append(item)
            if len(batch) == batch_size:
                yield _columns(waiting.pop(item[1].source.frame))
        yield from map(_columns, waiting.values())


def _columns(batch: list[tuple[PlanRow, Mixture]]) -> tuple[list[PlanRow], list[Mixture]]:
    return [row for row, _ in batch], [mixture for _, mixture in batch]


def skip_record(row: PlanRow, reason: str) -> dict:
    """A skipped row as it is in records and manifest."""
    return {"source_index": row.source_index, "variant": row.variant, "reason": reason}
