"""Rows of the plan in batches of one strength and one frame, as the diffusion model takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby

from sgdmix_hub.data.images import Frame
from sgdmix_hub.errors import Unusable
from sgdmix_hub.method.mixer import Mixture
from sgdmix_hub.pipeline_stages import Finished
from sgdmix_hub.runtime.stopping import stop_if_requested

from .plan import PlanRow
from .row_maker import RowMaker


def refined_rows(
    maker: RowMaker,
    mixed: Iterable[tuple[PlanRow, Mixture | Unusable]],
    skipped: list[dict],
    advance: Callable[[int], None],
) -> Iterator[tuple[PlanRow, Finished]]:
    """Rows with their finished images.

    Rows that cannot be made are appended to `skipped` with their reasons. `mixed`: rows sorted by
    strength, with their mixtures or the reason why there is none.
    """
    for rows, mixtures in batches(mixed, maker.settings.batch_size, skipped, advance):
        stop_if_requested()
        for row, finished in zip(rows, maker.finished(rows, mixtures), strict=True):
            if isinstance(finished, Unusable):
                skipped.append(skip_record(row, finished.reason))
            else:
                yield row, finished
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
