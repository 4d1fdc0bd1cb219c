"""Target selection against a loop that does what Eq. 7 says, and what a draw may depend on."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sgdmix_hub.config import AugmentSettings, apply_preset
from sgdmix_hub.data import load_split
from sgdmix_hub.pins import resolve
from sgdmix_hub.saliency_store import compute_maps
from sgdmix_hub.shards import make_plan
from sgdmix_hub.targets import rms_distances, row_seed, select_targets

ROWS = 30


@pytest.fixture(scope="module")
def maps():
    return np.random.default_rng(0).random((ROWS, 64, 64)).astype(np.float16)


def pool_of(*sources):
    return np.array([row for row in range(ROWS) if row not in sources], dtype=np.int64)


def naive_distance(first, second):
    """Root of the mean square difference, in exact sums of float64."""
    difference = first.astype(np.float64) - second.astype(np.float64)
    return (sum(value * value for value in difference.ravel().tolist()) / difference.size) ** 0.5


@pytest.mark.parametrize("source", range(0, ROWS, 7))
def test_with_all_rows_as_candidates_the_targets_are_the_nearest_in_turn(maps, source):
    """No draw is left then: variant k gets the (k+1)-th nearest row."""
    pool = pool_of(source)
    targets = select_targets(source, pool, maps, len(pool), 4, seed=3)
    ranking = sorted((naive_distance(maps[source], maps[row]), row) for row in pool.tolist())
    assert [target.index for target in targets] == [row for _, row in ranking[:4]]
    np.testing.assert_allclose([target.distance for target in targets], [distance for distance, _ in ranking[:4]], rtol=1e-6)


@given(source=st.integers(0, ROWS - 1), candidates=st.integers(1, 2 * ROWS), variants=st.integers(1, 6), seed=st.integers(0, 10_000))
@settings(max_examples=80)
def test_targets_are_the_nearest_of_what_was_drawn(maps, source, candidates, variants, seed):
    pool = pool_of(source)
    targets = select_targets(source, pool, maps, candidates, variants, seed)
    drawn_alone = [
        np.random.default_rng([seed, source, variant, 0]).choice(pool, min(candidates, len(pool)), replace=False).tolist()
        for variant in range(variants)
    ]
    used = set()
    for target, drawn in zip(targets, drawn_alone, strict=True):
        eligible = [row for row in drawn if row not in used] or [row for row in pool.tolist() if row not in used]
        nearest = min(eligible, key=lambda row: (naive_distance(maps[source], maps[row]), row))
        assert target.index == nearest
        assert target.distance == pytest.approx(naive_distance(maps[source], maps[nearest]), rel=1e-6)
        used.add(nearest)


@given(
    source=st.integers(0, ROWS - 1), candidates=st.integers(1, 40), seed=st.integers(0, 10_000), method=st.sampled_from(["l2", "random"])
)
@settings(max_examples=40)
def test_a_variant_depends_on_seed_source_and_variant_alone(maps, source, candidates, seed, method):
    pool = pool_of(source)
    many = select_targets(source, pool, maps, candidates, 5, seed, method)
    np.random.seed(seed)  # global random numbers play no part
    for fewer in (1, 3):
        assert select_targets(source, pool.copy(), maps.copy(), candidates, fewer, seed, method) == many[:fewer]
    other_maps = maps.copy()
    outside = [row for row in range(ROWS) if row != source and row not in pool]
    other_maps[outside] = 0
    assert select_targets(source, pool, other_maps, candidates, 5, seed, method) == many


def test_seed_and_source_change_the_draw(maps):
    pool = pool_of(0, 1)
    draws = {tuple(t.index for t in select_targets(source, pool, maps, 3, 4, seed)) for source in (0, 1) for seed in range(10)}
    assert len(draws) == 20


@given(
    size=st.integers(0, 12),
    candidates=st.integers(1, 15),
    variants=st.integers(1, 15),
    seed=st.integers(0, 1000),
    method=st.sampled_from(["l2", "random"]),
)
@settings(max_examples=80)
def test_targets_differ_while_there_are_candidates(maps, size, candidates, variants, seed, method):
    pool = pool_of(ROWS - 1)[:size]
    chosen = [target.index for target in select_targets(ROWS - 1, pool, maps, candidates, variants, seed, method)]
    assert len(chosen) == variants
    if size == 0:
        assert chosen == [-1] * variants
    else:
        assert set(chosen) <= set(pool.tolist())
        assert len(set(chosen)) == min(size, variants)


def test_equal_maps_take_the_lowest_row():
    maps = np.zeros((10, 64, 64), np.float16)
    pool = np.arange(1, 10)
    assert [target.index for target in select_targets(0, pool, maps, 9, 9, seed=0)] == list(range(1, 10))


def test_random_targets_are_uniform_and_do_not_look_at_the_maps(maps):
    pool = pool_of(0)[:8]
    drawn = [select_targets(0, pool, maps, 5, 1, seed, "random")[0].index for seed in range(800)]
    assert drawn == [select_targets(0, pool, maps[::-1].copy(), 5, 1, seed, "random")[0].index for seed in range(800)]
    counts = np.bincount(drawn, minlength=9)[1:]
    assert counts.min() > 60 and counts.max() < 145  # 100 each; 4.5 standard deviations


@given(seed=st.integers(0, 2**31), source=st.integers(0, 10**7))
@settings(max_examples=40)
def test_row_seeds_fit_a_generator_and_do_not_change(seed, source):
    value = row_seed(seed, source, 1)
    assert 0 <= value < 2**63 and value == row_seed(seed, source, 1)
    torch.Generator().manual_seed(value)


def test_row_seeds_are_distinct():
    seeds = {row_seed(seed, source, variant) for seed in range(4) for source in range(200) for variant in range(5)}
    assert len(seeds) == 4 * 200 * 5


def test_distances_are_those_of_the_naive_loop_and_have_no_overflow(maps):
    distances = rms_distances(maps[0], maps[1:6])
    assert distances.dtype == np.float64
    np.testing.assert_allclose(distances, [naive_distance(maps[0], m) for m in maps[1:6]], rtol=1e-6)
    # The sum of 4096 squares would overflow float16.
    assert rms_distances(np.zeros((64, 64), np.float16), np.full((1, 64, 64), 30, np.float16)).tolist() == [30.0]


@pytest.mark.parametrize("target_classes", ["any", "other"])
def test_a_plan_gives_every_source_its_variants_and_never_itself(birds, tmp_path, target_classes):
    settings_ = apply_preset(
        AugmentSettings(
            dataset_name=str(birds),
            output_dir=str(tmp_path),
            strength=0.0,
            saliency_method="mask-column",
            mask_column="mask",
            num_candidates=100,
            num_variants=3,
            examples_per_class=4,
            target_classes=target_classes,
        )
    )
    split = load_split(settings_, resolve(settings_.dataset_name, repo_type="dataset"))
    maps = compute_maps(settings_, split, None, 0, 1, None)
    plan = make_plan(settings_, split, maps)
    assert [(row.source_index, row.variant) for row in plan] == [(source, v) for source in split.subset.tolist() for v in range(3)]
    for row in plan:
        assert row.skip is None and row.target_index in split.subset and row.target_index != row.source_index
        assert row.seed == row_seed(0, row.source_index, row.variant)
        if target_classes == "other":
            assert split.labels[row.target_index] != split.labels[row.source_index]
    for source in split.subset.tolist():
        assert len({row.target_index for row in plan if row.source_index == source}) == 3
