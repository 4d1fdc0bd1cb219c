"""The metrics against counting by hand, and loaded as users of `evaluate` load them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from scipy.ndimage import gaussian_filter
from sklearn.metrics import jaccard_score, precision_score, recall_score

from sgdmix_hub.metrics.class_accuracy import ClassAccuracy
from sgdmix_hub.metrics.group_accuracy import GroupAccuracy
from sgdmix_hub.metrics.mask_quality import (
    MaskQuality,
    best_fixed_iou,
    boundary_f,
    mask_iou,
    mask_precision,
    mask_recall,
)
from sgdmix_hub.metrics.shot_accuracy import ShotAccuracy


def naive_accuracies(predictions, references):
    right, seen = {}, {}
    for predicted, true in zip(predictions, references, strict=True):
        seen[true] = seen.get(true, 0) + 1
        right[true] = right.get(true, 0) + (predicted == true)
    return sum(right.values()) / len(references), sum(
        right[label] / seen[label] for label in seen
    ) / len(seen)


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
        metric.add_batch(
            predictions=predictions[start : start + 20], references=references[start : start + 20]
        )
    assert metric.compute() == ClassAccuracy().compute(
        predictions=predictions, references=references
    )


LABEL = st.integers(0, 4)


@given(rows=st.lists(st.tuples(LABEL, LABEL, st.integers(0, 2)), min_size=1, max_size=40))
@settings(max_examples=30)
def test_accuracies_of_groups_are_those_of_counting_in_each(rows):
    predictions, references, attributes = zip(*rows, strict=True)
    result = GroupAccuracy().compute(
        predictions=predictions, references=references, attributes=attributes
    )
    hits = {}
    for predicted, true, attribute in rows:
        hits.setdefault((true, attribute), []).append(predicted == true)
    assert result["groups"] == [
        [*pair, len(hits[pair]), pytest.approx(np.mean(hits[pair]))] for pair in sorted(hits)
    ]
    accuracies = [np.mean(each) for each in hits.values()]
    assert result["worst_group_accuracy"] == pytest.approx(min(accuracies))
    assert result["mean_group_accuracy"] == pytest.approx(np.mean(accuracies))


@pytest.mark.slow
@given(
    pairs=st.lists(st.tuples(LABEL, LABEL), min_size=1, max_size=40),
    counts=st.lists(st.integers(0, 12), min_size=5, max_size=5),
    few=st.integers(0, 6),
    more=st.integers(0, 6),
)
@settings(max_examples=60)
def test_accuracies_by_shots_are_means_over_the_classes_of_each_kind(pairs, counts, few, more):
    predictions, references = zip(*pairs, strict=True)
    many = few + more
    result = ShotAccuracy().compute(
        predictions=predictions,
        references=references,
        train_counts=counts,
        many_shot=many,
        few_shot=few,
    )
    of_kind = {"many": [], "medium": [], "few": []}
    for label in set(references):
        kind = "many" if counts[label] > many else "few" if counts[label] < few else "medium"
        of_kind[kind].append(
            np.mean([predicted == true for predicted, true in pairs if true == label])
        )
    assert result == {
        f"{kind}_shot_accuracy": pytest.approx(np.mean(shares))
        for kind, shares in of_kind.items()
        if shares
    }


mask_pairs = numpy_strategies.arrays(
    bool, st.tuples(st.just(2), st.integers(1, 5), st.just(4), st.just(3))
)


@pytest.mark.slow
@given(pair=mask_pairs)
@settings(max_examples=60)
def test_pixel_scores_are_those_of_scikit_learn(pair):
    predicted, true = pair
    for ours, theirs in (
        (mask_iou, jaccard_score),
        (mask_precision, precision_score),
        (mask_recall, recall_score),
    ):
        for value, found, real in zip(ours(predicted, true), predicted, true, strict=True):
            both_empty = not (found | real).any()
            assert value == pytest.approx(
                theirs(real.ravel(), found.ravel(), zero_division=float(both_empty))
            )


def naive_boundary_f(predicted, true):
    """Outlines as lists of pixels, matched through the matrix of their distances; for masks that
    have an outline.
    """
    height, width = true.shape

    def outline(mask):
        def differs(y, x):
            neighbours = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            # a pixel of the last row or column stands for its missing neighbour
            return any(
                mask[min(b, height - 1), min(a, width - 1)] != mask[y, x] for b, a in neighbours
            )

        return np.array([(y, x) for y in range(height) for x in range(width) if differs(y, x)])

    distances = np.linalg.norm(outline(predicted)[:, None] - outline(true)[None], axis=-1)
    tolerance = np.ceil(0.008 * np.sqrt(height**2 + width**2))
    precision, recall = (
        (distances.min(axis=1) <= tolerance).mean(),
        (distances.min(axis=0) <= tolerance).mean(),
    )
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@given(pair=mask_pairs)
@settings(max_examples=60)
def test_boundary_f_is_that_of_the_distance_matrix(pair):
    predicted, true = pair
    for value, found, real in zip(boundary_f(predicted, true), predicted, true, strict=True):
        if found.any() and real.any() and not found.all() and not real.all():
            assert value == pytest.approx(naive_boundary_f(found, real))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("height", "width", "tolerance"), [(40, 60, 1), (90, 100, 2), (180, 260, 3)]
)
def test_boundary_f_is_that_of_the_distance_matrix_on_shapes(height, width, tolerance):
    assert int(np.ceil(0.008 * np.hypot(height, width))) == tolerance
    noise = np.random.default_rng(0).standard_normal((2, 3, height, width))
    first, second = gaussian_filter(noise, (0, 0, height / 12, height / 12))
    predicted, true = first > 0, first + 0.4 * second > 0
    values = boundary_f(predicted, true)
    assert values == pytest.approx(
        [naive_boundary_f(*masks) for masks in zip(predicted, true, strict=True)]
    )
    assert (values > 0.1).all() and (values < 0.99).all()


def square_mask(top, left, side, size=64):
    mask = np.zeros((1, size, size), bool)
    mask[0, top : top + side, left : left + side] = True
    return mask


def test_boundary_f_forgives_one_pixel_of_64_and_no_more():
    assert boundary_f(square_mask(21, 20, 20), square_mask(20, 20, 20)) == pytest.approx([1.0])
    assert boundary_f(square_mask(22, 20, 20), square_mask(20, 20, 20))[0] < 0.8
    assert boundary_f(square_mask(40, 40, 10), square_mask(5, 5, 10)) == pytest.approx([0.0])


def test_empty_masks_are_right_only_where_nothing_was_to_be_found():
    empty, full, some = (
        np.zeros((1, 8, 8), bool),
        np.ones((1, 8, 8), bool),
        square_mask(2, 2, 3, size=8),
    )
    for score in (mask_iou, mask_precision, mask_recall, boundary_f):
        assert score(empty, empty) == [1.0]
        assert score(full, full) == [1.0]
        for other in (full, some):
            assert score(empty, other) == [0.0]
            assert score(other, empty) == [0.0]


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
def test_the_mask_metric_is_the_mean_over_images(pair):
    predicted, true = pair
    result = MaskQuality().compute(
        predictions=predicted.astype(np.uint8), references=true.astype(np.uint8)
    )
    scores = {
        "iou": mask_iou,
        "precision": mask_precision,
        "recall": mask_recall,
        "boundary_f": boundary_f,
    }
    expected = {name: score(predicted, true).mean() for name, score in scores.items()} | {
        "best_fixed_iou": best_fixed_iou(true)
    }
    assert result == pytest.approx(expected)
    assert all(0 <= value <= 1 for value in result.values())


def test_masks_of_different_sizes_are_refused():
    with pytest.raises(ValueError):
        MaskQuality().compute(predictions=[[[1, 0]], [[1]]], references=[[[1, 0]], [[1]]])
