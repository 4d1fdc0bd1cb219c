"""The strength of each row of a run that has several strengths."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from sgdmix_hub.seeds import RandomStream, generator, generators


def row_strengths(
    strengths: list[float], seed: int, sources: np.ndarray, variants: np.ndarray
) -> np.ndarray:
    """S of rows, float64 (n,): each a pure function of (seed, source_index, variant).

    The variants of a source take the strengths in turn, in an order drawn for the source, so that
    all strengths are equally frequent. `sources`, `variants`: int (n,).
    """
    values = np.array(strengths, np.float64)
    if len(values) == 1:
        return values.repeat(len(sources))  # the same, without a generator for each of millions
    drawn, of_row = np.unique(sources, return_inverse=True)
    orders = np.empty((len(drawn), len(values)), np.int64)
    for order, rng in zip(orders, generators(RandomStream.ROW_STRENGTH, seed, drawn), strict=False):
        order[:] = rng.permutation(len(values))
    return values[orders[of_row, variants % len(values)]]


@dataclass(frozen=True)
class ClassPilot:
    """What a pilot measured of one class: its rows, each without refinement and at each strength.

    `probabilities`, float (n, k): of the label, at each of k strengths. `drifts`, float (n, k): how
    far the foreground is from the unrefined one. `unrefined`, float (n,): the label's probability
    without refinement. `spread`: the median distance between two unrefined foregrounds of the
    class; None if fewer than two were made.
    """

    probabilities: np.ndarray
    drifts: np.ndarray
    unrefined: np.ndarray
    spread: float | None


@dataclass(frozen=True)
class PilotBounds:
    """What a class must keep: its label's mean probability at least `min_fidelity` of that without
    refinement, its mean drift at most `max_drift` of its spread, each with `confidence` over the
    pilot's rows (one-sided t-intervals).
    """

    min_fidelity: float
    max_drift: float
    confidence: float


def within_bounds(pilot: ClassPilot, spread: float, bounds: PilotBounds) -> np.ndarray:
    """Whether a class is within the bounds at each strength, bool (k,).

    Means alone do not show it: of several strengths, luck makes one fit. One row says nothing.
    """
    if len(pilot.unrefined) < 2:
        return np.zeros(pilot.probabilities.shape[1], bool)
    lost = bounds.min_fidelity * pilot.unrefined[:, None] - pilot.probabilities
    moved = pilot.drifts - bounds.max_drift * spread
    limits = (upper_limit(excess, bounds.confidence) for excess in (lost, moved))
    return np.logical_and(*(limit <= 0 for limit in limits))


def upper_limit(values: np.ndarray, confidence: float) -> np.ndarray:
    """What the mean of each column is below, with a confidence in [0.5, 1); float (k,).

    `values`: float (n, k), n at least 2.
    """
    count = len(values)
    error = values.std(axis=0, ddof=1) / np.sqrt(count)
    return values.mean(axis=0) + stdtrit(count - 1, confidence) * error


def chosen_strengths(
    pilots: dict[int, ClassPilot], strengths: list[float], bounds: PilotBounds
) -> dict[int, float]:
    """Class -> the largest of the ascending `strengths` up to which all are within the bounds.

    The smallest, if not even that one is. A class without a spread of its own is held to the median
    of the others'. A pure function of what the pilot measured.
    """
    known = [pilot.spread for pilot in pilots.values() if pilot.spread is not None]
    usual = float(np.median(known)) if known else 0.0
    chosen = {}
    for label, pilot in pilots.items():
        spread = usual if pilot.spread is None else pilot.spread
        fits = within_bounds(pilot, spread, bounds)
        count = len(strengths) if fits.all() else int(fits.argmin())
        chosen[label] = strengths[max(count - 1, 0)]
    return chosen


def shuffled_strengths(strengths: np.ndarray, seed: int) -> np.ndarray:
    """The strengths of rows, float (n,), dealt out to other rows: the same ones, as often."""
    return generator(RandomStream.SHUFFLED, seed).permutation(strengths)
