"""The strength of each row of a run that has several strengths."""

from __future__ import annotations

from sgdmix_hub.seeds import RandomStream, generator


def row_strength(strengths: list[float], seed: int, source: int, variant: int) -> float:
    """S of one row: a pure function of (seed, source_index, variant).

    The variants of a source take the strengths in turn, in an order drawn for the source, so that
    all strengths are equally frequent.
    """
    order = generator(RandomStream.ROW_STRENGTH, seed, source).permutation(len(strengths))
    return strengths[order[variant % len(strengths)]]
