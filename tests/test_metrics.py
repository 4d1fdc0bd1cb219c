"""The metrics against counting by hand, and loaded as users of `evaluate` load them."""

from pathlib import Path

import evaluate
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from sgdmix_hub.metrics import class_accuracy as class_accuracy_module
from sgdmix_hub.metrics import mask_iou as mask_iou_module
from sgdmix_hub.metrics.class_accuracy import ClassAccuracy
from sgdmix_hub.metrics.mask_iou import MaskIoU, best_fixed_iou, mask_iou


def naive_accuracies(predictions, references):
    right, seen = {}, {}
    for predicted, true in zip(predictions, references, strict=True):
        seen[true] = seen.get(true, 0) + 1
        right[true] = right.get(true, 0) + (predicted == true)
    return sum(right.values()) / len(references), sum(right[label] / seen[label] for label in seen) / len(seen)


@given(pairs=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
@settings(max_examples=30)
def test_class_accuracy_is_that_of_counting(pairs):
    predictions, references = zip(*pairs, strict=True)
    result = ClassAccuracy().compute(predictions=predictions, references=references)
    expected = naive_accuracies(predictions, references)
    assert (result["accuracy"], result["mean_class_accuracy"]) == pytest.approx(expected)


def test_a_constant_guess_is_good_on_skewed_classes_and_worthless_by_class():
    references = [0] * 90 + [1] * 8 + [2] * 2
    result = ClassAccuracy().compute(predictions=[0] * 100, references=references)
    assert result == {"accuracy": pytest.approx(0.9), "mean_class_accuracy": pytest.approx(1 / 3)}


def test_class_accuracy_in_batches_is_that_of_the_whole():
    rng = np.random.default_rng(0)
    predictions, references = rng.integers(0, 5, (2, 60))
    metric = ClassAccuracy()
    for start in range(0, 60, 20):
        metric.add_batch(predictions=predictions[start : start + 20], references=references[start : start + 20])
    assert metric.compute() == ClassAccuracy().compute(predictions=predictions, references=references)


mask_pairs = numpy_strategies.arrays(bool, st.tuples(st.just(2), st.integers(1, 5), st.just(4), st.just(3)))


@given(pair=mask_pairs)
@settings(max_examples=60)
def test_mask_iou_is_that_of_sets_of_pixels(pair):
    predicted, true = pair
    for value, first, second in zip(mask_iou(predicted, true), predicted, true, strict=True):
        first, second = {tuple(p) for p in np.argwhere(first)}, {tuple(p) for p in np.argwhere(second)}
        assert value == pytest.approx(len(first & second) / len(first | second) if first | second else 1.0)


@given(true=numpy_strategies.arrays(bool, st.tuples(st.integers(1, 6), st.just(4), st.just(3))))
@settings(max_examples=80)
def test_the_best_fixed_mask_is_the_best_cut_of_the_mean(true):
    """All cuts tried, from everything that is ever foreground to the empty mask."""
    mean = true.mean(axis=0)
    cuts = [mean >= level for level in np.unique(mean[mean > 0])] + [np.zeros_like(true[0])]
    best = max(mask_iou(np.broadcast_to(cut, true.shape), true).mean() for cut in cuts)
    assert best_fixed_iou(true) == pytest.approx(best)


@given(pair=mask_pairs)
@settings(max_examples=10)
def test_the_metric_computes_both(pair):
    predicted, true = pair.astype(np.uint8)
    result = MaskIoU().compute(predictions=predicted, references=true)
    assert result["iou"] == pytest.approx(mask_iou(predicted.astype(bool), true.astype(bool)).mean())
    assert result["best_fixed_iou"] == pytest.approx(best_fixed_iou(true.astype(bool)))


def test_both_load_by_path_without_the_hub():
    accuracy = evaluate.load(str(Path(class_accuracy_module.__file__)))
    assert accuracy.compute(predictions=[0, 1, 1], references=[0, 1, 0])["accuracy"] == pytest.approx(2 / 3)
    masks = evaluate.load(str(Path(mask_iou_module.__file__)))
    assert masks.compute(predictions=[[[1, 0], [1, 0]]], references=[[[1, 1], [0, 0]]])["iou"] == pytest.approx(1 / 3)
