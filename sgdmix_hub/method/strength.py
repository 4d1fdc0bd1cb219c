"""The strength of each row, where a run has several."""

from __future__ import annotations

from sgdmix_hub.seeds import RandomStream, generator


def row_strength(strengths: list[float], seed: int, source: int, variant: int) -> float:
    """S of one row, a pure function of (seed, source_index, variant): a source's variants take the
    strengths in turn, in an order of its own, so that every strength is as frequent as any other.
    """
    order = generator(RandomStream.ROW_STRENGTH, seed, source).permutation(len(strengths))
    return strengths[order[variant % len(strengths)]]
