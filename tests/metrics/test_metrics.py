"""The metrics against counting by hand, and loaded as users of `evaluate` load them."""

from pathlib import Path

import evaluate
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from scipy.ndimage import gaussian_filter
from sklearn.metrics import jaccard_score, precision_score, recall_score

from sgdmix_hub.method.mixing import kept_mask
from sgdmix_hub.metrics import class_accuracy as class_accuracy_module
from sgdmix_hub.metrics import mask_quality as mask_quality_module
from sgdmix_hub.metrics import mixture_quality as mixture_quality_module
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
from sgdmix_hub.metrics.mixture_quality import (
    MixtureQuality,
    background_from_target,
    effective_targets,
    foreground_kept,
    leak,
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


@st.composite
def mixtures(draw):
    """The columns of up to 5 mixtures of 4 x 3 pixels: any masks, with kept and shown disjoint."""
    rows = draw(st.integers(1, 5))
    origin, objects = (
        draw(numpy_strategies.arrays(np.uint8, (2, rows, 4, 3), elements=st.integers(0, 2)))
        for _ in range(2)
    )
    labels = draw(numpy_strategies.arrays(np.int64, (3, rows), elements=st.integers(0, 3)))
    columns = {
        "kept": origin[0] == 1,
        "shown": origin[0] == 2,
        "source_mask": objects[0] > 0,
        "target_mask": objects[1] > 0,
    }
    columns = {name: masks.astype(np.uint8) for name, masks in columns.items()}
    return columns | dict(
        zip(("source_label", "target_label", "target_index"), labels, strict=True)
    )


def approximately(result):
    return pytest.approx(result, nan_ok=True)


def naive_share(part, whole):
    """Mean over rows of the share of the whole's pixels that are in the part, with sets; NaN
    without such a row.
    """
    pixels = [
        ({tuple(p) for p in np.argwhere(a)}, {tuple(p) for p in np.argwhere(b)})
        for a, b in zip(part, whole, strict=True)
    ]
    shares = [len(a & b) / len(b) for a, b in pixels if b]
    return sum(shares) / len(shares) if shares else float("nan")


@pytest.mark.slow
@given(columns=mixtures())
@settings(max_examples=40)
def test_mixture_shares_are_those_of_sets_of_pixels_and_in_range(columns):
    result = MixtureQuality().compute(**columns)
    kept, shown, source, target = (
        columns[name].astype(bool) for name in ("kept", "shown", "source_mask", "target_mask")
    )
    assert result["leak"] == approximately(naive_share(shown, target))
    assert result["foreground_kept"] == approximately(naive_share(kept, source))
    assert result["background_from_target"] == approximately(naive_share(~kept, ~source))
    rows = len(kept)
    assert result["same_class_share"] == pytest.approx(
        sum(columns["source_label"] == columns["target_label"]) / rows
    )
    assert (
        1 - 1e-9 <= result["effective_targets"] <= len(set(columns["target_index"].tolist())) + 1e-9
    )
    assert all(
        0 <= value <= 1 or np.isnan(value)
        for name, value in result.items()
        if name != "effective_targets"
    )


@pytest.mark.slow
@given(columns=mixtures(), data=st.data())
@settings(max_examples=20)
def test_the_order_of_mixtures_does_not_matter(columns, data):
    order = data.draw(st.permutations(range(len(columns["kept"]))))
    shuffled = {name: column[list(order)] for name, column in columns.items()}
    assert MixtureQuality().compute(**shuffled) == approximately(
        MixtureQuality().compute(**columns)
    )


@pytest.mark.slow
@given(columns=mixtures())
@settings(max_examples=20)
def test_a_mixture_that_is_one_of_its_images_is_found_out(columns):
    """The source itself leaks nothing and keeps all, the target itself is all new background: each
    fails on another figure.
    """
    nothing, everything = np.zeros_like(columns["kept"]), np.ones_like(columns["kept"])
    source = {"leak": 0.0, "foreground_kept": 1.0, "background_from_target": 0.0}
    target = {"leak": 1.0, "foreground_kept": 0.0, "background_from_target": 1.0}
    for kept, shown, expected in ((everything, nothing, source), (nothing, everything, target)):
        result = MixtureQuality().compute(**(columns | {"kept": kept, "shown": shown}))
        assert all(
            result[name] == value or np.isnan(result[name]) for name, value in expected.items()
        )


@pytest.mark.slow
@given(columns=mixtures())
@settings(max_examples=30)
def test_union_mixing_with_true_masks_leaks_nothing_and_keeps_the_foreground(columns):
    source_masks, target_masks = (
        columns["source_mask"].astype(bool),
        columns["target_mask"].astype(bool),
    )
    kept = np.stack(
        [
            kept_mask(source, target, "union")
            for source, target in zip(source_masks, target_masks, strict=True)
        ]
    )
    result = MixtureQuality().compute(
        **(columns | {"kept": kept.astype(np.uint8), "shown": (~kept).astype(np.uint8)})
    )
    assert result["leak"] == 0 or not target_masks.any()
    assert result["foreground_kept"] == 1 or not source_masks.any()


@given(
    targets=st.lists(st.integers(0, 1000), min_size=1, max_size=20, unique=True),
    times=st.integers(1, 5),
)
@settings(max_examples=30)
def test_targets_used_equally_often_count_fully(targets, times):
    assert effective_targets(np.array(targets * times)) == pytest.approx(len(targets))


def test_a_target_used_once_hardly_counts():
    value = effective_targets(np.array([7] * 99 + [8]))
    assert value == pytest.approx(0.99**-0.99 * 0.01**-0.01)
    assert 1 < value < 1.1


# two mixtures of 2 x 2 pixels: the first keeps one of two foreground pixels, lets one of the
# target's two show and fills the other in; the second, of a target without foreground, keeps its
# source whole
BY_HAND = {
    "kept": [[[1, 0], [0, 0]], [[1, 1], [1, 1]]],
    "shown": [[[0, 1], [0, 1]], [[0, 0], [0, 0]]],
    "source_mask": [[[1, 1], [0, 0]], [[1, 0], [0, 0]]],
    "target_mask": [[[0, 0], [1, 1]], [[0, 0], [0, 0]]],
    "source_label": [3, 3],
    "target_label": [3, 1],
    "target_index": [10, 11],
}


def test_mixture_quality_by_hand():
    """The second row has no leak to take a share of, and is left out of that mean only."""
    expected = {
        "leak": 0.5,
        "foreground_kept": 0.75,
        "background_from_target": 0.5,
        "same_class_share": 0.5,
        "effective_targets": 2.0,
    }
    assert MixtureQuality().compute(**BY_HAND) == pytest.approx(expected)
    kept, shown, source, target = (
        np.array(BY_HAND[name], bool) for name in ("kept", "shown", "source_mask", "target_mask")
    )
    assert leak(shown, target) == approximately([0.5, np.nan])
    assert foreground_kept(kept, source) == pytest.approx([0.5, 1.0])
    assert background_from_target(kept, source) == pytest.approx([1.0, 0.0])


def test_mixture_means_over_no_rows_are_nan():
    result = MixtureQuality().compute(**{name: column[1:] for name, column in BY_HAND.items()})
    assert np.isnan(result["leak"]) and result["foreground_kept"] == 1


def test_a_pixel_is_not_both_kept_and_shown():
    shown = [BY_HAND["shown"][0], [[0, 0], [0, 1]]]
    with pytest.raises(ValueError, match="row 1"):
        MixtureQuality().compute(**(BY_HAND | {"shown": shown}))


@pytest.mark.slow
def test_mixtures_in_batches_are_those_of_the_whole():
    metric = MixtureQuality()
    for row in range(2):
        metric.add_batch(**{name: column[row : row + 1] for name, column in BY_HAND.items()})
    assert metric.compute() == MixtureQuality().compute(**BY_HAND)


def test_all_load_by_path_without_the_hub():
    accuracy = evaluate.load(str(Path(class_accuracy_module.__file__)))
    values = accuracy.compute(predictions=[0, 1, 1], references=[0, 1, 0])
    assert values["accuracy"] == pytest.approx(2 / 3)
    masks = evaluate.load(str(Path(mask_quality_module.__file__)))
    values = masks.compute(predictions=[[[1, 0], [1, 0]]], references=[[[1, 1], [0, 0]]])
    assert values["iou"] == pytest.approx(1 / 3)
    mixed = evaluate.load(str(Path(mixture_quality_module.__file__)))
    assert mixed.compute(**BY_HAND)["leak"] == pytest.approx(0.5)
