"""Label fidelity, drift, near duplicates and kernel distance against counting, double loops and
other libraries.
"""

from pathlib import Path

import evaluate
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import cosine_distances, polynomial_kernel
from sklearn.neighbors import NearestNeighbors

from sgdmix_hub.metrics import kernel_distance as kernel_module
from sgdmix_hub.metrics import label_fidelity as fidelity_module
from sgdmix_hub.metrics import near_duplicates as duplicates_module
from sgdmix_hub.metrics import region_drift as drift_module
from sgdmix_hub.metrics.kernel_distance import KernelDistance, kernel_distance, squared_mmd
from sgdmix_hub.metrics.label_fidelity import LabelFidelity, label_probabilities
from sgdmix_hub.metrics.near_duplicates import (
    NearDuplicates,
    near_distance,
    near_duplicates,
    nearest,
)
from sgdmix_hub.metrics.region_drift import (
    RegionDrift,
    cosine_distance,
    mean_distance_within_and_between,
    novelty_in_class,
)

values = st.floats(-5, 5, width=32)


def vectors(rows):
    return numpy_strategies.arrays(np.float64, st.tuples(rows, st.just(3)), elements=values)


# ---- label fidelity ----


@given(
    rows=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 3), st.floats(0, 1)), min_size=1, max_size=30
    )
)
@settings(max_examples=30)
def test_label_fidelity_is_that_of_counting(rows):
    predictions, references, probabilities = zip(*rows, strict=True)
    result = LabelFidelity().compute(
        predictions=predictions, references=references, label_probabilities=probabilities
    )
    right = [predicted == label for predicted, label, _ in rows]
    assert result["label_fidelity"] == pytest.approx(sum(right) / len(rows))
    assert result["mean_label_probability"] == pytest.approx(sum(probabilities) / len(rows))
    assert [label for label, *_ in result["by_class"]] == sorted(set(references))
    shares = []
    for label, images, share, probability in result["by_class"]:
        here = [row for row in rows if row[1] == label]
        shares.append(sum(row[0] == label for row in here) / len(here))
        assert (images, share) == (len(here), pytest.approx(shares[-1]))
        assert probability == pytest.approx(sum(row[2] for row in here) / len(here))
    assert result["mean_class_label_fidelity"] == pytest.approx(sum(shares) / len(shares))


def test_the_probability_of_a_label_is_its_column():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), 9)
    labels = np.arange(9) % 4
    assert label_probabilities(probabilities, labels).tolist() == [
        probabilities[row, label] for row, label in enumerate(labels)
    ]


# ---- drift and novelty ----


@given(features=vectors(st.integers(1, 6)), scale=st.floats(0.1, 10))
@settings(max_examples=40)
def test_drift_is_scikit_learns_cosine_distance_and_knows_no_scale(features, scale):
    others = features[::-1] + 0.25
    drift = cosine_distance(features, others)
    lengths = np.linalg.norm(features, axis=1), np.linalg.norm(others, axis=1)
    long = np.minimum(*lengths) > 1e-3
    assert drift[long] == pytest.approx(np.diag(cosine_distances(features, others))[long], abs=1e-9)
    assert cosine_distance(features * scale, others)[long] == pytest.approx(drift[long], abs=1e-9)
    assert cosine_distance(features, features)[lengths[0] > 1e-3] == pytest.approx(0, abs=1e-9)
    assert ((drift >= 0) & (drift <= 2)).all()


def test_a_side_without_pixels_has_no_drift_and_is_left_out_of_the_mean():
    features = np.array([[1.0, 0.0], [np.nan, np.nan], [0.0, 1.0]])
    source = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    assert np.isnan(cosine_distance(features, source)).tolist() == [False, True, False]
    same = {
        "background": source,
        "source_background": source,
        "label": [0, 0, 0],
        "real_backgrounds": source,
        "real_labels": np.zeros(3, int),
    }
    result = RegionDrift().compute(foreground=features, source_foreground=source, **same)
    assert result == {
        "foreground_drift": 0.5,
        "background_novelty": 0.0,
        "background_novelty_in_class": 0.0,
    }


@given(data=st.data(), rows=st.integers(1, 8), real_rows=st.integers(1, 8))
@settings(max_examples=40)
def test_novelty_in_class_is_that_of_a_double_loop(data, rows, real_rows):
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    backgrounds, real = rng.standard_normal((rows, 3)), rng.standard_normal((real_rows, 3))
    labels, real_labels = rng.integers(0, 3, rows), rng.integers(0, 3, real_rows)
    for value, features, label in zip(
        novelty_in_class(backgrounds, labels, real, real_labels), backgrounds, labels, strict=True
    ):
        distances = [
            cosine_distances([features], [other])[0, 0]
            for other, its in zip(real, real_labels, strict=True)
            if its == label
        ]
        assert value == pytest.approx(min(distances, default=float("nan")), nan_ok=True)
    own = novelty_in_class(real, real_labels, real, real_labels)
    assert own == pytest.approx(0, abs=1e-9)


@given(seed=st.integers(0, 1000), rows=st.integers(2, 12))
@settings(max_examples=30)
def test_mean_distances_are_those_of_all_pairs(seed, rows):
    rng = np.random.default_rng(seed)
    features, labels = rng.standard_normal((rows, 4)), rng.integers(0, 3, rows)
    features[0] = np.nan if seed % 3 == 0 else features[0]
    pairs = [(i, j) for i in range(rows) for j in range(i) if not np.isnan(features[[i, j]]).any()]
    distances = {(i, j): cosine_distances(features[[i]], features[[j]])[0, 0] for i, j in pairs}
    for found, same in zip(
        mean_distance_within_and_between(features, labels), (True, False), strict=True
    ):
        chosen = [
            distance for (i, j), distance in distances.items() if (labels[i] == labels[j]) == same
        ]
        assert found == pytest.approx(np.mean(chosen) if chosen else float("nan"), nan_ok=True)


# ---- near duplicates ----


@pytest.mark.parametrize(("rows", "real_rows"), [(1, 2), (7, 5), (1500, 1100)])
def test_the_nearest_other_image_is_scikit_learns(rows, real_rows):
    rng = np.random.default_rng(rows)
    features, real = rng.standard_normal((rows, 5)), rng.standard_normal((real_rows, 5))
    left_out = rng.integers(0, real_rows, rows)
    index, distance = nearest(features, real, left_out[:, None])
    order = NearestNeighbors(n_neighbors=2).fit(real).kneighbors(features)[1]
    expected = np.where(order[:, 0] == left_out, order[:, 1], order[:, 0])
    assert (index == expected).all()
    assert distance == pytest.approx(np.linalg.norm(features - real[expected], axis=1))


def test_planted_copies_are_found_with_their_pairs_and_nothing_else():
    rng = np.random.default_rng(0)
    real, features = rng.standard_normal((300, 20)) + 50, rng.standard_normal((40, 20)) + 50
    sources, targets = rng.integers(0, 100, 40), rng.integers(100, 150, 40)
    features[3], features[17] = real[200] + 1e-6, real[299] + 1e-7
    # A row's own source or target is no pair.
    features[5], features[[6, 7]] = real[sources[5]], real[targets[[6, 7]]]
    result = NearDuplicates().compute(
        features=features, source_index=sources, target_index=targets, real_features=real
    )
    assert [(row, real_row) for row, real_row, _ in result["pairs"][:2]] == [(17, 299), (3, 200)]
    assert result["pairs"][1][2] == pytest.approx(1e-6 * np.sqrt(20), rel=1e-3)
    shares = [result[name] * 40 for name in ("near_duplicates", "near_source", "near_target")]
    assert shares == pytest.approx([2, 1, 2])
    among_real = cdist(real, real) + np.diag(np.full(300, np.inf))
    assert (
        result["near_distance"]
        == near_distance(real)
        == pytest.approx(np.quantile(among_real.min(axis=1), 0.01))
    )


def test_with_two_real_images_nothing_else_is_there_to_be_near():
    real = np.array([[0.0, 0.0], [3.0, 4.0]])
    result = near_duplicates(real, np.array([0, 1]), np.array([1, 0]), real)
    assert result == {
        "near_duplicates": 0,
        "near_source": 1,
        "near_target": 0,
        "near_distance": 5,
        "pairs": [],
    }


def test_scale_and_place_of_features_do_not_matter():
    rng = np.random.default_rng(1)
    real, features, sources = (
        rng.standard_normal((60, 3)),
        rng.standard_normal((30, 3)),
        rng.integers(0, 60, 30),
    )
    features[::5] = real[(sources[::5] + 1) % 60] + 0.001
    plain, moved = (
        near_duplicates(features * a + b, sources, sources, real * a + b)
        for a, b in ((1, 0), (7, 3))
    )
    assert plain["near_duplicates"] == moved["near_duplicates"] >= 0.2
    assert sorted(pair[:2] for pair in plain["pairs"]) == sorted(
        pair[:2] for pair in moved["pairs"]
    )


# ---- kernel distance ----


def loop_mmd(features, others):
    """The estimator as its definition is written, with sums over pairs."""

    def kernel(x, y):
        return (float(x @ y) / len(x) + 1) ** 3

    n, m = len(features), len(others)
    own = sum(kernel(features[i], features[j]) for i in range(n) for j in range(n) if i != j) / (
        n * (n - 1)
    )
    theirs = sum(kernel(others[i], others[j]) for i in range(m) for j in range(m) if i != j) / (
        m * (m - 1)
    )
    return own + theirs - 2 * sum(kernel(x, y) for x in features for y in others) / (n * m)


@given(features=vectors(st.integers(2, 6)), others=vectors(st.integers(2, 6)))
@settings(max_examples=40)
def test_the_squared_mmd_is_that_of_its_definition(features, others):
    assert squared_mmd(features, others) == pytest.approx(loop_mmd(features, others), abs=1e-6)
    assert squared_mmd(others, features) == pytest.approx(squared_mmd(features, others), abs=1e-6)


def test_the_kernel_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    features, others = rng.standard_normal((20, 8)), rng.standard_normal((30, 8))
    # scikit-learn's defaults: degree 3, gamma 1/d, coef0 1.
    expected = polynomial_kernel(features, others)
    assert kernel_module.kernel(features, others) == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize(("shift", "most"), [(0.0, 2.0), (0.5, 1.25)])
def test_the_estimate_is_unbiased_and_its_standard_error_is_what_it_varies_by(shift, most):
    """Over many draws of two samples the mean is the distance of two large ones, the stated error
    the spread. At 0, where the estimate is degenerate, the jackknife's error is too large; it is
    never too small.
    """
    rng = np.random.default_rng(0)
    found = [
        kernel_distance(rng.standard_normal((100, 4)) + shift, rng.standard_normal((120, 4)))
        for _ in range(200)
    ]
    estimates = np.array([of["kernel_distance"] for of in found])
    large = [rng.standard_normal((3000, 4)) + shift, rng.standard_normal((3000, 4))]
    assert estimates.mean() == pytest.approx(
        squared_mmd(*large), abs=3 * estimates.std() / np.sqrt(200) + 0.02
    )
    errors = np.array([of["standard_error"] for of in found])
    assert 0.9 < np.sqrt((errors**2).mean()) / estimates.std() < most


def test_the_standard_error_is_that_of_leaving_every_subset_out():
    rng = np.random.default_rng(0)
    features, real = rng.standard_normal((8, 3)), rng.standard_normal((6, 3)) + 1
    result = kernel_distance(features, real)
    assert result["kernel_distance"] == pytest.approx(loop_mmd(features, real))
    subsets = np.random.default_rng(0)
    order, real_order = subsets.permutation(8), subsets.permutation(6)
    left_out = [
        loop_mmd(
            np.delete(features, order[subset::3], axis=0),
            np.delete(real, real_order[subset::3], axis=0),
        )
        for subset in range(3)
    ]
    assert result["standard_error"] == pytest.approx(np.std(left_out) * np.sqrt(2))


def test_the_distance_grows_with_the_difference_and_says_when_there_are_too_few():
    rng = np.random.default_rng(0)
    real = rng.standard_normal((200, 4))
    shifted = [
        kernel_distance(rng.standard_normal((200, 4)) + shift, real)["kernel_distance"]
        for shift in (0, 0.5, 1, 2)
    ]
    assert shifted == sorted(shifted) and shifted[2] > 0.5
    result = KernelDistance().compute(features=real[:3], real_features=real)
    assert np.isnan(result["kernel_distance"]) and np.isnan(result["standard_error"])


def test_all_load_by_path_without_the_hub():
    real = np.random.default_rng(0).standard_normal((30, 3))
    fidelity = evaluate.load(str(Path(fidelity_module.__file__)))
    values = fidelity.compute(predictions=[0, 1], references=[0, 0], label_probabilities=[0.9, 0.1])
    assert values["label_fidelity"] == 0.5
    drift = evaluate.load(str(Path(drift_module.__file__)))
    sides = {
        "foreground": real,
        "source_foreground": -real,
        "background": real,
        "source_background": real,
    }
    labels = np.zeros(30, int)
    found = drift.compute(**sides, label=labels, real_backgrounds=real, real_labels=labels)
    assert found["foreground_drift"] == pytest.approx(2)
    assert found["background_novelty"] == pytest.approx(0)
    duplicates = evaluate.load(str(Path(duplicates_module.__file__)))
    others = (np.arange(30) + 1) % 30
    found = duplicates.compute(
        features=real, source_index=others, target_index=others, real_features=real
    )
    assert found["near_duplicates"] == 1
    kernel = evaluate.load(str(Path(kernel_module.__file__)))
    assert kernel.compute(features=real, real_features=real) == kernel_distance(real, real)
