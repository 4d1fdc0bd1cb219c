"""Every random stream of a run, numbered in one place: what is drawn in one of them tells nothing
of what is drawn in another.

NumPy's SeedSequence fills up with zeros and splits large numbers into words, so that [seed, 3] and
[seed, 3, 0], or [2**32, 0] and [0, 1], are one state. Here a stream's number comes first, then how
many numbers follow, then each of them in two words: other numbers, another state. Imports nothing
of the package.
"""

from __future__ import annotations

from enum import IntEnum, unique

import numpy as np


@unique
class RandomStream(IntEnum):
    """What is drawn, with the numbers that it is a function of. A number is never given to another
    stream.
    """

    CANDIDATES = 1  # seed, source, variant: which rows a target is chosen from
    POOL = 2  # seed, source, variant: the order of a whole pool, where no candidate is left
    ROW_SEED = 3  # seed, source, variant: the noise of a row's refinement
    ROW_STRENGTH = 4  # seed, source: the order of a source's strengths
    INPAINTING = 5  # a row's seed: the noise of the pass that fills its hole
    SUBSET = 6  # seed, label: a few-shot or long-tail subset
    HOLD_OUT = 7  # seed, label: the validation images of a share
    ORDER = 8  # seed, epoch: the order in which a training shows its images
    SAMPLE = 9  # seed, sample: its mirroring, noise and timestep, or its crop
    PRIOR = 10  # seed: of the samples of the bare metaclass
    PRIOR_IMAGE = 11  # seed, image: what the base draws the metaclass from
    DROPOUT = 12  # seed, a batch's first sample
    BATCH = 13  # seed, a batch's first sample: mixup and cutmix
    BALANCE = 14  # seed, epoch: how often a class is shown
    JUDGED = 15  # seed: which mixtures are judged
    JUDGED_NOISE = 16  # a row's seed: the noise of its class's image


def _entropy(stream: RandomStream, numbers: tuple[int, ...]) -> list[int]:
    words = [int(stream), len(numbers)]
    for number in map(int, numbers):
        if not 0 <= number < 2**64:
            raise ValueError(f"{number} is no seed: give a whole number in [0, 2**64)")
        words += [number & 0xFFFFFFFF, number >> 32]
    return words


def generator(stream: RandomStream, *numbers: int) -> np.random.Generator:
    """NumPy's generator of a stream's draws for these numbers, each in [0, 2**64). Raises
    `ValueError`.
    """
    return np.random.default_rng(_entropy(stream, numbers))


def seed_of(stream: RandomStream, *numbers: int) -> int:
    """A seed for torch's generator, in [0, 2**63). Raises `ValueError`."""
    return int(
        np.random.SeedSequence(_entropy(stream, numbers)).generate_state(1, np.uint64)[0] >> 1
    )


def row_seed(seed: int, source: int, variant: int) -> int:
    """The noise seed of one row: a pure function of (seed, source_index, variant)."""
    return seed_of(RandomStream.ROW_SEED, seed, source, variant)


def inpainting_seed(row_seed: int) -> int:
    """The noise seed of the pass that fills a row's hole: refinement must not add the noise that
    the hole was painted from.
    """
    return seed_of(RandomStream.INPAINTING, row_seed)


def sample_seed(seed: int, number: int) -> int:
    """The seed of all that is drawn for the n-th sample of a training."""
    return seed_of(RandomStream.SAMPLE, seed, number)
