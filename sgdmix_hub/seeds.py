"""Every random stream of a run, numbered in one place, so that streams are independent.

NumPy's SeedSequence pads with zeros and splits large numbers into words: [seed, 3] and [seed, 3, 0]
are the same state, and so are [2**32, 0] and [0, 1]. Here the entropy is the stream's number, the
count of numbers, and each number in two words, so that different numbers give different states.
Imports nothing of the package.
"""

from __future__ import annotations

from collections.abc import Iterator
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


def generators(stream: RandomStream, *numbers: int | np.ndarray) -> Iterator[np.random.Generator]:
    """`generator` of many numbers, one after the other, fifteen times as fast: each is an array of
    n, or the same for all. One object, whose state the next one changes. Raises `ValueError`.
    """
    words = _state(_pool(stream, numbers), 8).astype(object)
    states, steps = (
        words[first] | words[first + 1] << 32 | words[second] << 64 | words[second + 1] << 96
        for first, second in ((2, 0), (6, 4))
    )
    rng = np.random.default_rng(0)
    for start, step in zip(states, steps, strict=True):
        increment = (step << 1 | 1) & LARGEST_STATE
        state = ((increment + start) * PCG64_MULTIPLIER + increment) & LARGEST_STATE
        rng.bit_generator.state = {
            "bit_generator": "PCG64",
            "state": {"state": state, "inc": increment},
            "has_uint32": 0,
            "uinteger": 0,
        }
        yield rng


def seeds_of(stream: RandomStream, *numbers: int | np.ndarray) -> np.ndarray:
    """`seed_of` of many numbers, int64 (n,): each is an array of n, or the same for all. Raises
    `ValueError`.
    """
    low, high = _state(_pool(stream, numbers), 2).astype(np.uint64)
    return ((high << np.uint64(32) | low) >> np.uint64(1)).astype(np.int64)


# NumPy's SeedSequence and PCG64 over arrays. Their algorithms are fixed: NumPy promises the same
# streams in all versions. Words are uint32, whose products wrap around.
POOL_WORDS = 4
PCG64_MULTIPLIER = 0x2360ED051FC65DA44385DF649FCCF645
LARGEST_STATE = 2**128 - 1


class _Hash:
    """A hash of words, whose constant changes with every call."""

    def __init__(self, constant: int, multiplier: int):
        self._constant, self._multiplier = constant, multiplier

    def __call__(self, words: np.ndarray) -> np.ndarray:
        words = words ^ np.uint32(self._constant)
        self._constant = self._constant * self._multiplier & 0xFFFFFFFF
        words = words * np.uint32(self._constant)
        return words ^ words >> np.uint32(16)


def _pool(stream: RandomStream, numbers: tuple[int | np.ndarray, ...]) -> list[np.ndarray]:
    """The four words of a SeedSequence, each uint32 (n,), with the entropy of `_entropy`."""
    columns = [np.atleast_1d(np.asarray(number)) for number in numbers]
    for column in columns:
        if len(column) and not 0 <= int(column.min()) <= int(column.max()) < 2**64:
            raise ValueError(f"{column} are no seeds: give whole numbers in [0, 2**64)")
    entropy = [np.array([word], np.uint32) for word in (int(stream), len(numbers))]
    for column in columns:
        whole = column.astype(np.uint64)
        entropy += [whole.astype(np.uint32), (whole >> np.uint64(32)).astype(np.uint32)]
    hashed = _Hash(0x43B0D7E5, 0x931E8875)
    pool = [hashed(words) for words in entropy[:POOL_WORDS]]
    for source in range(POOL_WORDS):
        for place in range(POOL_WORDS):
            if place != source:
                pool[place] = _mixed(pool[place], hashed(pool[source]))
    for words in entropy[POOL_WORDS:]:
        for place in range(POOL_WORDS):
            pool[place] = _mixed(pool[place], hashed(words))
    return pool


def _mixed(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    words = first * np.uint32(0xCA01F9DD) - second * np.uint32(0x4973F715)
    return words ^ words >> np.uint32(16)


def _state(pool: list[np.ndarray], count: int) -> np.ndarray:
    """`SeedSequence.generate_state`: uint32 (count, n)."""
    hashed = _Hash(0x8B51F9DD, 0x58F38DED)
    return np.stack([hashed(pool[place % POOL_WORDS]) for place in range(count)])


def row_seed(seed: int, source: int, variant: int) -> int:
    """The noise seed of one row: a pure function of (seed, source_index, variant)."""
    return seed_of(RandomStream.ROW_SEED, seed, source, variant)


def row_seeds(seed: int, sources: np.ndarray, variants: np.ndarray) -> np.ndarray:
    """`row_seed` of many rows, int64 (n,)."""
    return seeds_of(RandomStream.ROW_SEED, seed, sources, variants)


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


def prompt_numbers(row_seeds: np.ndarray, count: int) -> np.ndarray:
    """`prompt_number` of many rows, int32 (n,)."""
    if count == 1:
        return np.zeros(len(row_seeds), np.int32)
    drawn = (int(rng.integers(count)) for rng in generators(RandomStream.PROMPT, row_seeds))
    return np.fromiter(drawn, np.int32, len(row_seeds))


def sample_seed(seed: int, number: int) -> int:
    """The seed of everything drawn for the n-th sample of a training."""
    return seed_of(RandomStream.SAMPLE, seed, number)
