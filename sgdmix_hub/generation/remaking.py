"""Images that a judge sends back are made again: with another seed, at half S, at last at S = 0.

An attempt depends on its row alone, so the published bytes do not depend on the processes. Where
the judge's probability lies at the threshold, a last bit decides whether there is another attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from sgdmix_hub.errors import Unusable
from sgdmix_hub.method.mixer import Mixture
from sgdmix_hub.pipeline_stages import Finished
from sgdmix_hub.seeds import attempt_seed
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.strengths import num_steps

from .batches import refined_rows, skip_record
from .plan import PlanRow
from .row_maker import RowMaker


@dataclass(frozen=True)
class Made:
    """A finished row, as its last attempt made it."""

    row: PlanRow
    finished: Finished
    attempts: int


def attempts_at(row: PlanRow, settings: AugmentSettings) -> list[PlanRow]:
    """The row as each attempt makes it, the planned one first.

    The last one mixes without refinement, where that gives a new image of its label. The one before
    has half the planned strength, if that runs a step and is not below `foreground_strength`. All
    others have the planned strength.
    """
    if row.strength == 0:
        return [row]
    half, lowest = row.strength / 2, settings.foreground_strength or 0.0
    ends = [half] if num_steps(settings, half) > 0 and half >= lowest else []
    if settings.mixing_method != "none" and settings.prompt_class != "target":
        ends.append(0.0)
    # the first attempt is always the planned one
    ends = ends[max(0, len(ends) - settings.allowed_attempts + 1) :]
    strengths = [row.strength] * (settings.allowed_attempts - len(ends)) + ends
    return [
        replace(row, strength=strength, seed=attempt_seed(row.seed, attempt))
        for attempt, strength in enumerate(strengths, 1)
    ]


def accepted_rows(
    maker: RowMaker,
    mixed: Iterable[tuple[PlanRow, Mixture | Unusable]],
    skipped: list[dict],
    advance: Callable[[int], None],
) -> Iterator[Made]:
    """Rows that the judge accepts, in as many attempts as each needs; without a judge all at once.

    Rows that cannot be made, or whose last attempt is rejected, are appended to `skipped` with
    their reasons. `mixed`: as for `refined_rows`. Calls `advance(n)` when n rows are settled.
    """
    if maker.judge is None:
        for row, finished in refined_rows(maker, mixed, skipped, advance):
            yield Made(row, finished, 1)
        return
    attempts: dict[tuple[int, int], list[PlanRow]] = {}
    number = 1
    while True:
        again: list[PlanRow] = []
        known = len(skipped)
        refined = refined_rows(maker, mixed, skipped, lambda rows: None)
        while batch := list(islice(refined, maker.settings.batch_size)):
            for (row, finished), doubt in zip(batch, maker.doubts(batch), strict=True):
                name = row.source_index, row.variant
                rows = attempts.setdefault(name, attempts_at(row, maker.settings))
                if doubt is None:
                    yield Made(row, finished, number)
                    advance(1)
                elif number < len(rows):
                    again.append(rows[number])
                else:
                    skipped.append(skip_record(row, doubt))
        advance(len(skipped) - known)
        if not again:
            return
        number += 1
        again.sort(key=lambda row: row.strength)
        mixed = ((row, maker.mixture_or_reason(row)) for row in again)
