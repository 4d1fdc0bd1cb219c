"""Few-shot and long-tail subsets: functions of the labels, the seed and the two settings alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgdmix_hub.data.subsets import NO_LABEL, subset_indices

label_lists = st.lists(st.integers(NO_LABEL, 5), max_size=120).map(
    lambda labels: np.array(labels, dtype=np.int64)
)


@given(labels=label_lists, shots=st.integers(1, 12), seed=st.integers(0, 1000))
@settings(max_examples=80)
def test_few_shot_draws_exactly_the_shots_of_each_class(labels, shots, seed):
    rows = subset_indices(labels, 6, seed, examples_per_class=shots)
    assert np.array_equal(rows, subset_indices(labels.copy(), 6, seed, examples_per_class=shots))
    assert (np.diff(rows) > 0).all() and set(rows.tolist()) <= set(range(len(labels)))
    for label in range(6):
        assert (labels[rows] == label).sum() == min((labels == label).sum(), shots)
    assert NO_LABEL not in labels[rows]


@given(
    labels=label_lists, shots=st.integers(1, 4), seed=st.integers(0, 1000), label=st.integers(0, 5)
)
@settings(max_examples=60)
def test_the_shots_of_a_class_do_not_depend_on_the_other_classes(labels, shots, seed, label):
    alone = np.where(labels == label, labels, NO_LABEL)
    all_classes = subset_indices(labels, 6, seed, examples_per_class=shots)
    assert np.array_equal(
        all_classes[labels[all_classes] == label],
        subset_indices(alone, 6, seed, examples_per_class=shots),
    )


@given(labels=label_lists, seed=st.integers(0, 1000))
@settings(max_examples=30)
def test_fewer_shots_are_a_subset_of_more(labels, seed):
    subsets = [
        set(subset_indices(labels, 6, seed, examples_per_class=shots).tolist())
        for shots in (1, 3, 9)
    ]
    assert subsets[0] <= subsets[1] <= subsets[2]


def test_the_seed_chooses_the_shots():
    labels = np.repeat(np.arange(4), 50)
    draws = {
        tuple(subset_indices(labels, 4, seed, examples_per_class=5).tolist()) for seed in range(20)
    }
    assert len(draws) == 20


def test_without_subset_settings_all_labelled_rows_are_used():
    labels = np.array([1, NO_LABEL, 0, 1])
    assert subset_indices(labels, 2, 0).tolist() == [0, 2, 3]


@pytest.mark.slow
@given(
    classes=st.integers(1, 30),
    per_class=st.integers(1, 60),
    factor=st.floats(0.01, 1.0),
    seed=st.integers(0, 100),
    order=st.randoms(),
)
@settings(max_examples=80)
def test_long_tail_of_balanced_classes_falls_to_the_factor(classes, per_class, factor, seed, order):
    labels = np.repeat(np.arange(classes), per_class)
    order.shuffle(labels)
    rows = subset_indices(labels, classes, seed, imbalance_factor=factor)
    counts = np.bincount(labels[rows], minlength=classes)
    assert (np.diff(rows) > 0).all()
    assert (np.diff(counts) <= 0).all()
    assert counts[0] == per_class and counts.min() >= 1
    if classes > 1:
        assert abs(counts[-1] - max(1, per_class * factor)) <= 1
    # The rule of the long-tail literature, written out.
    for label, count in enumerate(counts):
        exact = per_class * factor ** (label / max(classes - 1, 1))
        assert abs(count - max(1, exact)) <= 1


@given(
    labels=label_lists,
    factor=st.floats(0.01, 1.0),
    shots=st.integers(1, 5),
    seed=st.integers(0, 100),
)
@settings(max_examples=40)
def test_few_shot_and_long_tail_together_keep_the_smaller_number(labels, factor, shots, seed):
    both = subset_indices(labels, 6, seed, shots, factor)
    for alone in (
        subset_indices(labels, 6, seed, shots),
        subset_indices(labels, 6, seed, imbalance_factor=factor),
    ):
        assert set(both.tolist()) <= set(alone.tolist())
