"""Target selection against a loop that does what Eq. 7 and the other rules say, and what a draw may
depend on.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_targets import (
    LABELS,
    ROWS,
    naive_distance,
    naive_targets,
    pool_of,
    select_targets,
)

from sgdmix_hub.method.rules import DOT_ERROR, MapDistance, rms_distances
from sgdmix_hub.seeds import RandomStream, generator, row_seed
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.presets import apply_preset

METHODS = ["l2", "dissimilar", "random", "novel-background"]
CLASSES = ["any", "other", "same"]
EVERY_ROW = np.arange(ROWS)


@pytest.fixture(scope="module")
def maps():
    """Random maps, three of them equal, one a last bit away from them, one black."""
    maps = np.random.default_rng(0).random((ROWS, 64, 64)).astype(np.float16)
    maps[[11, 19]] = maps[4]
    maps[23] = maps[4]
    maps[23, 0, 0] = np.nextafter(maps[4, 0, 0], np.float16(1))
    maps[8] = 0
    return maps


@pytest.fixture(scope="module")
def backgrounds():
    """Random features on very different scales; two rows are equal, and one feature is constant."""
    features = np.random.default_rng(1).random((ROWS, 6)).astype(np.float32) * np.array(
        [1, 1e3, 1e-3, 1, 1, 0], np.float32
    )
    features[:, 5] = 0.1
    features[21] = features[6]
    return features


@pytest.fixture(scope="module")
def map_distances(maps):
    return np.array([[naive_distance(first, second) for second in maps] for first in maps])


def augment_settings(method="l2", classes="any", candidates=50, variants=1, max_reuse=None, seed=0):
    return AugmentSettings(
        dataset_name="unused",
        output_dir="unused",
        selection_method=method,
        target_classes=classes,
        num_candidates=candidates,
        num_variants=variants,
        max_target_reuse=max_reuse,
        seed=seed,
    )


def select(maps, backgrounds, sources=EVERY_ROW, usable=EVERY_ROW, **choices):
    """The rows of the targets, one list a source."""
    targets = select_targets(
        sources, usable, LABELS, maps, augment_settings(**choices), backgrounds[usable]
    )
    return [[target.index for target in of_source] for of_source in targets]


usable_rows = st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=ROWS, unique=True).map(
    lambda rows: np.array(sorted(rows))
)


@pytest.mark.slow
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("method", METHODS)
@given(
    usable=st.one_of(st.just(EVERY_ROW), usable_rows),
    candidates=st.integers(1, 2 * ROWS),
    variants=st.integers(1, 5),
    max_reuse=st.sampled_from([None, None, 1, 2, 4]),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=25)
def test_targets_are_those_of_the_naive_loop(
    maps, backgrounds, map_distances, method, classes, usable, candidates, variants, max_reuse, seed
):
    choices = {
        "classes": classes,
        "candidates": candidates,
        "variants": variants,
        "max_reuse": max_reuse,
        "seed": seed,
    }
    assert select(maps, backgrounds, usable, usable, method=method, **choices) == naive_targets(
        map_distances, backgrounds, usable, usable, method, **choices
    )


@pytest.mark.parametrize("method", METHODS)
def test_distances_are_those_of_the_maps_whatever_the_rule(
    maps, backgrounds, map_distances, method
):
    selected = select_targets(
        EVERY_ROW, EVERY_ROW, LABELS, maps, augment_settings(method, variants=3), backgrounds
    )
    for source, targets in enumerate(selected):
        for target in targets:
            assert target.distance == pytest.approx(map_distances[source, target.index], rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("sign", [1, -1])
def test_more_rows_than_are_compared_at_once(sign):
    """Smooth maps on a coarse grid, so that many are almost equally far."""
    blobs = np.random.default_rng(2).integers(0, 5, (700, 4, 4)) / 4
    maps = blobs.repeat(16, axis=1).repeat(16, axis=2).astype(np.float16)
    rows, labels = np.arange(700), np.zeros(700, np.int64)
    chosen = select_targets(
        rows,
        rows,
        labels,
        maps,
        augment_settings("l2" if sign == 1 else "dissimilar", candidates=1000),
    )
    # Exact, because all values are multiples of 1/16.
    squares = sign * np.square(blobs[:, None] - blobs[None]).sum(axis=(2, 3))
    np.fill_diagonal(squares, np.inf)
    assert [target.index for [target] in chosen] == squares.argmin(axis=1).tolist()


@given(
    seed=st.integers(0, 1000),
    low=st.floats(0, 1),
    width=st.floats(0, 1),
    sign=st.sampled_from([1, -1]),
)
@settings(max_examples=40)
def test_quick_distances_are_as_near_as_they_say(seed, low, width, sign):
    """Nearly equal maps far from zero are the worst case: their distance is a small difference of
    large sums.
    """
    maps = (low + width * np.random.default_rng(seed).random((6, 64, 64))).astype(np.float16)
    rows = np.arange(6)
    quick = np.stack([MapDistance(maps, rows, sign).costs(row, rows) for row in rows])
    exact = [
        [math.fsum(np.square(a.astype(np.float64) - b.astype(np.float64)).ravel()) for b in maps]
        for a in maps
    ]
    squares = np.array([math.fsum(np.square(m.astype(np.float64)).ravel()) for m in maps])
    assert (np.abs(sign * quick - exact) <= DOT_ERROR * (squares[:, None] + squares)).all()


@given(
    seed=st.integers(0, 1000),
    low=st.floats(0, 1),
    width=st.floats(0, 1),
    sign=st.sampled_from([1, -1]),
    count=st.integers(1, 40),
)
@settings(max_examples=40)
def test_a_sketch_leaves_out_no_candidate_that_may_be_the_best(seed, low, width, sign, count):
    """Smooth maps, of which a sketch knows nearly all, and rough ones, of which it knows little."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((count, 4, 4)).repeat(16, axis=1).repeat(16, axis=2)
    maps = low + width * (coarse + rng.choice([0.0, 1e-3, 1.0]) * rng.random((count, 64, 64)))
    maps = (maps / 3).astype(np.float16)
    rows = np.arange(count)
    rule = MapDistance(maps, rows, sign)
    for row in rows:
        exact = sign * np.square(rms_distances(maps[row], maps)) * 4096
        assert (rule.least(row, rows) <= exact + 1e-12).all()


@pytest.mark.slow
@given(
    sources=usable_rows,
    candidates=st.integers(1, 40),
    variants=st.integers(1, 5),
    seed=st.integers(0, 10_000),
    method=st.sampled_from(METHODS),
    classes=st.sampled_from(CLASSES),
)
@settings(max_examples=60)
def test_a_target_depends_on_seed_source_and_variant_alone(
    maps, backgrounds, sources, candidates, variants, seed, method, classes
):
    choices = {"candidates": candidates, "seed": seed, "method": method, "classes": classes}
    every = select(maps, backgrounds, variants=5, **choices)
    np.random.seed(seed)  # global random numbers play no part
    some = select(maps.copy(), backgrounds, sources, variants=variants, **choices)
    assert some == [every[source][:variants] for source in sources]


def test_seed_and_source_change_the_draw(backgrounds):
    maps = np.zeros((ROWS, 64, 64), np.float16)
    draws = [
        tuple(row)
        for seed in range(10)
        for row in select(maps, backgrounds, candidates=3, variants=4, seed=seed)
    ]
    assert len(set(draws)) == len(draws)


@pytest.mark.slow
@given(
    size=st.integers(1, 12),
    candidates=st.integers(1, 15),
    variants=st.integers(1, 15),
    seed=st.integers(0, 1000),
    method=st.sampled_from(METHODS),
    max_reuse=st.sampled_from([None, 1, 3]),
)
@settings(max_examples=80)
def test_targets_differ_while_there_are_candidates(
    maps, backgrounds, size, candidates, variants, seed, method, max_reuse
):
    usable = EVERY_ROW[:size]
    choices = {
        "candidates": candidates,
        "variants": variants,
        "seed": seed,
        "method": method,
        "max_reuse": max_reuse,
    }
    for source, chosen in enumerate(select(maps, backgrounds, usable, usable, **choices)):
        assert len(chosen) == variants
        if size == 1:
            assert chosen == [-1] * variants
        else:
            assert set(chosen) <= set(usable.tolist()) - {source}
            assert len(set(chosen)) == min(size - 1, variants)


@pytest.mark.slow
@given(
    candidates=st.integers(1, 40),
    variants=st.integers(1, 4),
    max_reuse=st.integers(1, 5),
    seed=st.integers(0, 1000),
    method=st.sampled_from(METHODS),
    classes=st.sampled_from(CLASSES),
)
@settings(max_examples=60)
def test_no_image_is_used_more_often_than_allowed_while_there_is_another(
    maps, backgrounds, candidates, variants, max_reuse, seed, method, classes
):
    choices = {
        "candidates": candidates,
        "variants": variants,
        "seed": seed,
        "method": method,
        "classes": classes,
    }
    uses = np.zeros(ROWS, int)
    for source, chosen in enumerate(select(maps, backgrounds, max_reuse=max_reuse, **choices)):
        for variant, target in enumerate(chosen):
            if target == -1:
                continue
            if uses[target] >= max_reuse:
                others = np.setdiff1d(pool_of(source, EVERY_ROW, classes), chosen[:variant])
                assert uses[target] == uses[others].min()
            uses[target] += 1
    if classes == "any" and variants < max_reuse:
        assert uses.max() <= max_reuse


def test_a_limit_changes_nothing_until_it_is_reached(maps, backgrounds):
    free = select(maps, backgrounds, variants=2)
    most = max(np.bincount(np.concatenate(free)))
    assert most > 2
    assert select(maps, backgrounds, variants=2, max_reuse=int(most)) == free
    assert select(maps, backgrounds, variants=2, max_reuse=2) != free


def test_a_class_of_one_has_no_target_in_its_class(maps, backgrounds):
    [[target]] = select_targets(
        np.array([17]), EVERY_ROW, LABELS, maps, augment_settings(classes="same"), backgrounds
    )
    assert target.index == -1 and math.isnan(target.distance)


@pytest.mark.parametrize("method", ["l2", "dissimilar", "novel-background"])
def test_equals_take_the_lowest_row(method):
    maps, backgrounds = np.full((10, 64, 64), 0.3, np.float16), np.ones((10, 3), np.float32)
    rows = np.arange(10)
    targets = select_targets(
        rows[:1],
        rows,
        np.zeros(10, int),
        maps,
        augment_settings(method, candidates=9, variants=9),
        backgrounds,
    )
    assert [[target.index for target in of_source] for of_source in targets] == [list(range(1, 10))]


@pytest.mark.slow
@pytest.mark.parametrize("classes", ["any", "other", "same"])
def test_draws_are_uniform(maps, backgrounds, classes):
    pool = pool_of(1, EVERY_ROW, classes)
    source = np.array([1])

    def draws(maps, count):
        return [
            select(maps, backgrounds, source, method="random", classes=classes, seed=seed)[0][0]
            for seed in range(count)
        ]

    drawn = draws(maps, 100 * len(pool))
    assert drawn[:200] == draws(maps[::-1].copy(), 200)
    counts = np.bincount(drawn, minlength=ROWS)
    assert counts.sum() == counts[pool].sum()
    assert counts[pool].min() > 55 and counts[pool].max() < 145  # 100 each; 4.5 standard deviations


@given(seed=st.integers(0, 2**31), source=st.integers(0, 10**7))
@settings(max_examples=40)
def test_row_seeds_fit_a_generator_and_do_not_change(seed, source):
    value = row_seed(seed, source, 1)
    assert 0 <= value < 2**63 and value == row_seed(seed, source, 1)
    torch.Generator().manual_seed(value)


def test_row_seeds_are_distinct():
    seeds = {
        row_seed(seed, source, variant)
        for seed in range(4)
        for source in range(200)
        for variant in range(5)
    }
    assert len(seeds) == 4 * 200 * 5


def test_distances_are_those_of_the_naive_loop_and_have_no_overflow(maps):
    distances = rms_distances(maps[0], maps[1:6])
    assert distances.dtype == np.float64
    np.testing.assert_allclose(
        distances, [naive_distance(maps[0], m) for m in maps[1:6]], rtol=1e-12
    )
    # The sum of 4096 squares would overflow float16.
    zeros, thirties = np.zeros((64, 64), np.float16), np.full((1, 64, 64), 30, np.float16)
    assert rms_distances(zeros, thirties).tolist() == [30.0]


@pytest.mark.parametrize("method", METHODS)
@given(first=st.integers(1, ROWS - 1), candidates=st.integers(1, 40), variants=st.integers(1, 4))
@settings(max_examples=25)
def test_with_a_bank_its_rows_alone_are_targets(
    maps, backgrounds, map_distances, method, first, candidates, variants
):
    """Rows from `first` on are the bank's. A loop draws from them and takes the best left."""
    chosen = augment_settings(method, "other", candidates, variants)
    sources = np.arange(first)
    targets = list(
        select_targets(
            sources, EVERY_ROW, LABELS, maps, apply_preset(chosen), backgrounds, bank_from=first
        )
    )
    pool = ROWS - first
    for source, row in zip(sources, targets, strict=True):
        indices = [target.index for target in row]
        assert all(first <= index < ROWS for index in indices)
        assert len(set(indices[:pool])) == min(variants, pool)
        rng = generator(RandomStream.CANDIDATES, 0, source, 0)
        drawn = first + rng.choice(pool, min(candidates, pool), replace=False)
        costs = map_distances[source]
        if method == "random":
            assert indices[0] == drawn[0]
        elif method in ("l2", "dissimilar"):
            best = min if method == "l2" else max
            extreme = best(costs[sorted(drawn)])
            assert indices[0] == min(row for row in drawn if costs[row] == extreme)
        assert row[0].distance == pytest.approx(costs[indices[0]], abs=1e-12)
