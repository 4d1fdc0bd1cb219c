"""Every random stream of a run, numbered in one place, so that streams are independent.

NumPy's SeedSequence pads with zeros and splits large numbers into words: [seed, 3] and [seed, 3, 0]
are the same state, and so are [2**32, 0] and [0, 1]. Here the entropy is the stream's number, the
count of numbers, and each number in two words, so that different numbers give different states.
Imports nothing of the package.
"""

from __future__ import annotations

from enum import IntEnum, unique

import numpy as np


@unique
class RandomStream(IntEnum):
    """What is drawn, and the numbers it is a function of. A stream's number is never reused."""

    CANDIDATES = 1  # seed, source, variant: the rows to choose a target from
    POOL = 2  # seed, source, variant: the order of a whole pool, if no candidate is left
    ROW_SEED = 3  # seed, source, variant: the noise of a row's refinement
    ROW_STRENGTH = 4  # seed, source: the order of a source's strengths
    INPAINTING = 5  # a row's seed: the noise of inpainting
    SUBSET = 6  # seed, label: a few-shot or long-tail subset
    HOLD_OUT = 7  # seed, label: validation images of validation_share
    ORDER = 8  # seed, epoch: the order of the training images
    SAMPLE = 9  # seed, sample: its flip, noise and timestep, or its crop
    PRIOR = 10  # seed: the samples of the bare metaclass
    PRIOR_IMAGE = 11  # seed, image: the noise of an image of the metaclass
    DROPOUT = 12  # a sample's seed, layer
    BATCH = 13  # seed, a total batch's first sample: mixup and cutmix
    BALANCE = 14  # seed, epoch: how often each class is shown
    JUDGED = 15  # seed: which mixtures are judged
    JUDGED_NOISE = 16  # a row's seed: the noise of its class's image
    PROMPT = 18  # a row's seed: which of several prompts it has
    VARIANTS = 21  # seed, label: which sources of a class get one variant more
    ON_THE_FLY = 22  # seed, epoch, row: whether it is mixed, and with which of its targets
    ATTEMPT = 23  # a row's seed, attempt: the noise of an image that is made again
    CLAIMS = 24  # rank: the order in which a worker takes over the work of others
    PILOT = 25  # seed, source: whether it is one of its class's in the pilot
    SHUFFLED = 26  # seed: which row gets which of the strengths that a pilot chose


def _entropy(stream: RandomStream, numbers: tuple[int, ...]) -> list[int]:
    words = [int(stream), len(numbers)]
    for number in map(int, numbers):
        if not 0 <= number < 2**64:
            raise ValueError(f"{number} is not a seed: give a whole number in [0, 2**64)")
        words += [number & 0xFFFFFFFF, number >> 32]
    return words


def generator(stream: RandomStream, *numbers: int) -> np.random.Generator:
    """NumPy's generator of a stream for these numbers, each in [0, 2**64). Raises `ValueError`."""
    return np.random.default_rng(_entropy(stream, numbers))


def seed_of(stream: RandomStream, *numbers: int) -> int:
    """A seed for torch's generator, in [0, 2**63). Raises `ValueError`."""
    sequence = np.random.SeedSequence(_entropy(stream, numbers))
    return int(sequence.generate_state(1, np.uint64)[0]) >> 1


def row_seed(seed: int, source: int, variant: int) -> int:
    """The noise seed of one row: a pure function of (seed, source_index, variant)."""
    return seed_of(RandomStream.ROW_SEED, seed, source, variant)


def attempt_seed(row_seed: int, attempt: int) -> int:
    """The noise seed of a row's attempt; the first one's is the row's own."""
    return row_seed if attempt == 1 else seed_of(RandomStream.ATTEMPT, row_seed, attempt)


def inpainting_seed(row_seed: int) -> int:
    """The noise seed of a row's inpainting, which must differ from its refinement's noise."""
    return seed_of(RandomStream.INPAINTING, row_seed)


def prompt_number(row_seed: int, count: int) -> int:
    """Which of `count` prompts a row has, drawn from its noise seed."""
    if count == 1:
        return 0  # the same, without a generator for each of millions of rows
    return int(generator(RandomStream.PROMPT, row_seed).integers(count))


def sample_seed(seed: int, number: int) -> int:
    """The seed of everything drawn for the n-th sample of a training."""
    return seed_of(RandomStream.SAMPLE, seed, number)
