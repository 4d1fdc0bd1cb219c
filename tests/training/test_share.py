"""The total batch: how it is divided, and what happens if it cannot be or does not fit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sgdmix_hub.errors import UserError
from sgdmix_hub.runtime.ranks import Rank
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.training.adapter.loop import num_steps
from sgdmix_hub.training.precision import precision_of
from sgdmix_hub.training.share import Share, divisors, fitted, share_of

SETTINGS = {"dataset_name": "org/birds", "output_dir": "unused", "metaclass": "bird"}


def settings_with(**more):
    return AdapterSettings(**SETTINGS, **more)


def rank_of(count):
    return Rank(count - 1, count, torch.device("cpu"))


@given(batch=st.integers(1, 6), accumulation=st.integers(1, 6), processes=st.integers(1, 6))
def test_a_share_makes_up_the_total(batch, accumulation, processes):
    total = batch * accumulation * processes
    given = settings_with(total_batch_size=total, per_device_train_batch_size=batch)
    share = share_of(given, rank_of(processes))
    assert share == Share(processes - 1, processes, batch, accumulation)
    assert share.total_batch == total
    whole = share_of(settings_with(total_batch_size=total), rank_of(processes))
    assert whole == Share(processes - 1, processes, batch * accumulation, 1)


def test_a_total_that_does_not_divide_is_refused_with_what_would():
    with pytest.raises(UserError, match="total_batch_size 8 cannot .* 3 processes: give a mult"):
        share_of(settings_with(total_batch_size=8), rank_of(3))
    uneven = settings_with(total_batch_size=12, per_device_train_batch_size=4)
    with pytest.raises(UserError, match="4 does not divide the 6 samples.*give 1, 2, 3, 6 or auto"):
        share_of(uneven, rank_of(2))


@pytest.fixture(scope="module")
def no_memory():
    """What an allocation of torch raises, once: putting its trace together takes long."""
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60)
    return raised.value


@settings(max_examples=25)  # each failed attempt collects garbage
@given(mine=st.integers(1, 200), memory=st.integers(1, 250))
def test_the_largest_divisor_that_fits_is_taken(no_memory, mine, memory):
    tried = []

    def attempt(size):
        tried.append(size)
        if size > memory:
            raise no_memory

    share = fitted(Share(0, 1, mine, 1), attempt)
    assert share.batch_size == max(size for size in divisors(mine) if size <= memory)
    assert share.total_batch == mine and share.accumulation == mine // share.batch_size
    assert tried == sorted(tried, reverse=True)


def test_one_sample_too_large_and_other_errors_are_raised():
    with pytest.raises(RuntimeError, match="allocate memory"):
        fitted(Share(0, 1, 4, 1), lambda size: torch.empty(2**60))
    with pytest.raises(RuntimeError, match="shape"):
        fitted(Share(0, 1, 4, 1), lambda size: torch.zeros(2, 3) @ torch.zeros(2, 3))


def test_the_length_is_that_of_the_data():
    """Diff-Mix's on CUB, and its steps are not those of 200 images."""
    cub = settings_with(total_batch_size=8, num_train_epochs=46.7)
    assert num_steps(cub, 5994) == 34_990
    assert num_steps(settings_with(), 200) == 1250
    assert num_steps(settings_with(num_train_samples=17), 200) == 3


def test_half_precision_is_for_gpus():
    if torch.cuda.is_available():
        pytest.skip("a GPU")
    assert precision_of(settings_with()) == "no"
    assert precision_of(settings_with(mixed_precision="bf16")) == "bf16"
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        precision_of(settings_with(mixed_precision="fp16"))
