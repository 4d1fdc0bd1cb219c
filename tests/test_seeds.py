"""Random streams: other numbers or another stream, another state; what one pass drew is not drawn
again by the next.
"""

import ast
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sgdmix_hub.seeds import (
    RandomStream,
    generator,
    generators,
    inpainting_seed,
    prompt_number,
    prompt_numbers,
    row_seed,
    row_seeds,
    sample_seed,
    seed_of,
    seeds_of,
)

PACKAGE = Path(__file__).parents[1] / "sgdmix_hub"
# These use only a seed, or no randomness at all.
FIXED = {
    "demo",
    "metrics",
    "report.py",
    "drawn_split.py",
    "figures.py",
    "trust.py",
    "choices.py",
    "preview.py",
    "tryout.py",
}
calls = st.tuples(
    st.sampled_from(RandomStream),
    st.lists(st.one_of(st.integers(0, 3), st.integers(0, 2**64 - 1)), min_size=1, max_size=4),
)


def state(stream, numbers):
    return tuple(generator(stream, *numbers).bit_generator.state["state"].values())


@given(first=calls, second=calls)
def test_no_two_streams_or_numbers_share_a_state(first, second):
    """With zeros at the end, and numbers of more than 32 bits, which NumPy itself takes for other
    numbers.
    """
    assert (state(*first) == state(*second)) == (first == second)
    assert (seed_of(first[0], *first[1]) == seed_of(second[0], *second[1])) == (first == second)


def test_small_numbers_of_all_streams_share_no_state():
    asked = [
        (stream, numbers)
        for length in (1, 2, 3)
        for numbers in product((0, 1, 2, 2**32), repeat=length)
        for stream in RandomStream
    ]
    plain = [
        tuple(np.random.default_rng(seed).bit_generator.state["state"].values())
        for seed in range(50)
    ]
    states = {state(*call) for call in asked} | set(plain)
    assert len(states) == len(asked) + 50
    assert len({seed_of(stream, *numbers) for stream, numbers in asked}) == len(asked)


numbers = st.one_of(st.integers(0, 3), st.integers(0, 2**64 - 1))


@given(
    stream=st.sampled_from(RandomStream),
    rows=st.lists(st.tuples(numbers, numbers, numbers), max_size=5),
    first=numbers,
    count=st.integers(1, 3),
)
def test_many_at_once_are_those_one_by_one(stream, rows, first, count):
    """By NumPy's own SeedSequence. `first` is the same for all."""
    columns = [first, *np.array(rows, np.uint64).reshape(-1, 3).T[:count]]
    one_by_one = [(first, *row[:count]) for row in rows]
    assert seeds_of(stream, *columns).tolist() == [seed_of(stream, *row) for row in one_by_one]
    drawn = [rng.integers(2**63, size=3).tolist() for rng in generators(stream, *columns)]
    assert drawn == [generator(stream, *row).integers(2**63, size=3).tolist() for row in one_by_one]


def test_a_state_of_many_keeps_nothing_of_the_one_before():
    """Half of a 64-bit number that the one before has not used up."""
    drawn = [int(rng.integers(2**20)) for rng in generators(RandomStream.POOL, np.arange(9))]
    assert drawn == [int(generator(RandomStream.POOL, row).integers(2**20)) for row in range(9)]


@given(rows=st.lists(st.integers(0, 2**40), min_size=1, max_size=5), prompts=st.integers(1, 4))
def test_seeds_and_prompts_of_many_rows(rows, prompts):
    seeds = row_seeds(7, np.array(rows), np.arange(len(rows)))
    assert seeds.tolist() == [row_seed(7, row, variant) for variant, row in enumerate(rows)]
    expected = [prompt_number(seed, prompts) for seed in seeds.tolist()]
    assert prompt_numbers(seeds, prompts).tolist() == expected


@pytest.mark.parametrize("wrong", [np.array([3, -1]), -1, 2**64])
def test_many_that_are_no_seeds_raise(wrong):
    with pytest.raises(ValueError, match="are no seeds"):
        seeds_of(RandomStream.SAMPLE, 0, wrong)


@given(seed=st.integers(0, 2**32 - 1), source=st.integers(0, 2**40), variant=st.integers(0, 10**4))
def test_seeds_fit_torch_and_are_functions_of_their_numbers(seed, source, variant):
    values = [
        row_seed(seed, source, variant),
        sample_seed(seed, source),
        inpainting_seed(row_seed(seed, source, variant)),
    ]
    assert values == [
        row_seed(seed, source, variant),
        sample_seed(seed, source),
        inpainting_seed(row_seed(seed, source, variant)),
    ]
    assert len(set(values)) == 3 and all(0 <= value < 2**63 for value in values)
    assert torch.Generator().manual_seed(values[0]).initial_seed() == values[0]


@pytest.mark.parametrize("number", [-1, 2**64])
def test_a_number_that_is_no_seed_raises(number):
    with pytest.raises(ValueError, match="is not a seed"):
        seed_of(RandomStream.SAMPLE, 0, number)


def test_every_generator_of_a_run_is_made_here():
    """A stream that is numbered elsewhere could be another one's."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name == "seeds.py" or FIXED & set(path.relative_to(PACKAGE).parts):
            continue
        made = [
            node.func.attr
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and hasattr(node.func, "attr")
        ]
        assert not {"default_rng", "SeedSequence"} & set(made), path
