"""How many variants each source gets, and the plan that follows."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgdmix_hub.errors import UserError
from sgdmix_hub.generation.plan import make_plan, table_of, write_plan
from sgdmix_hub.generation.rerun import check_plan
from sgdmix_hub.generation.row_store import RowValues
from sgdmix_hub.generation.saliency_maps import SaliencyMaps
from sgdmix_hub.generation.variants import variant_counts
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.parsing import parse_settings
from sgdmix_hub.settings.presets import apply_preset
from sgdmix_hub.studio.known_maps import KnownRows


def settings_of(**values) -> AugmentSettings:
    fixed = {"dataset_name": "unused", "output_dir": "unused", "strength": 0.0}
    return apply_preset(AugmentSettings(**(fixed | values)))


ROWS = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["mixable", "unmixed", "skipped"])),
    min_size=1,
    max_size=40,
)


@pytest.mark.slow
@given(rows=ROWS, variants=st.integers(0, 3), wanted=st.integers(1, 60), seed=st.integers(0, 9))
def test_every_class_has_the_images_that_are_asked_for(rows, variants, wanted, seed):
    labels = np.array([label for label, _ in rows])
    mixable, unmixed = (
        np.array([kind == wanted for _, kind in rows]) for wanted in ("mixable", "unmixed")
    )
    settings = settings_of(num_variants=variants, images_per_class=wanted, seed=seed)
    counts = variant_counts(settings, labels, mixable, unmixed)
    assert (counts == variant_counts(settings, labels, mixable, unmixed)).all()
    assert (counts[~mixable] == max(variants, 1)).all() and (counts[mixable] >= variants).all()
    for label in np.unique(labels):
        own = labels == label
        floor = own.sum() + variants * (own & mixable).sum()
        floor += max(variants, 1) * (own & unmixed).sum()
        images = own.sum() + counts[own & (mixable | unmixed)].sum()
        raised = (own & mixable).any()
        assert images == (max(floor, wanted) if raised else floor)
        if raised:  # spread evenly
            assert np.ptp(counts[own & mixable]) <= 1


def test_without_a_level_every_source_gets_num_variants():
    every = np.ones(5, bool)
    counts = variant_counts(settings_of(num_variants=3), np.arange(5), every, ~every)
    assert counts.tolist() == [3] * 5


def planned(seed=0, **values):
    """A plan of 3 classes with 12, 4 and 1 rows; the first row has no map."""
    labels = np.repeat([0, 1, 2], [12, 4, 1])
    rows = np.arange(len(labels))
    found = np.random.default_rng(seed).random((len(rows), 64, 64)).astype(np.float16)
    maps = SaliencyMaps(RowValues(rows, found, {0: "blank"}), "", "spectral-residual")
    split = SimpleNamespace(subset=rows, labels=labels)
    chosen = {
        "saliency_method": "spectral-residual",
        "target_classes": "other",
        "selection_method": "l2",
        "num_candidates": 3,
        "min_mask_confidence": 0.0,
        "num_variants": 0,
        "images_per_class": 16,
    }
    settings = settings_of(**(chosen | values))
    return settings, split, list(make_plan(settings, split, maps))


@pytest.mark.parametrize("selection_method", ["l2", "random", "dissimilar"])
def test_a_plan_levels_the_classes_with_different_targets(selection_method):
    settings, split, plan = planned(selection_method=selection_method)
    made = [row for row in plan if row.skip is None]
    labels = split.labels[[row.source_index for row in made]]
    assert np.bincount(labels).tolist() == [4, 12, 15]  # with the real ones 16 a class
    assert [row.skip for row in plan if row.skip] == ["blank"]
    assert len({row.seed for row in plan}) == len(plan)
    of_rarest = [row.target_index for row in made if row.source_index == 16]
    assert len(of_rarest) == len(set(of_rarest)) == 15  # every candidate of other classes once
    assert 0 not in of_rarest


@pytest.mark.parametrize("selection_method", ["l2", "random", "dissimilar", "novel-background"])
def test_a_plan_without_a_single_map_names_every_reason(selection_method):
    """By maps that are known row by row, as the studio has them."""
    known = KnownRows()
    known.unusable = {row: f"blank {row}" for row in range(3)}
    split = SimpleNamespace(subset=np.arange(3), labels=np.zeros(3, int))
    settings = settings_of(
        saliency_method="spectral-residual", selection_method=selection_method, num_variants=2
    )
    backgrounds = RowValues(np.arange(3), np.zeros((3, 4), np.float32))
    maps = SaliencyMaps(known, "", "spectral-residual")
    plan = list(make_plan(settings, split, maps, backgrounds))
    assert [(row.source_index, row.variant, row.skip) for row in plan] == [
        (row, variant, f"blank {row}") for row in range(3) for variant in range(2)
    ]


def test_a_source_keeps_its_targets_when_another_class_is_raised():
    """Variants are functions of (seed, source, variant): more of them change none."""
    few, many = (planned(images_per_class=level)[2] for level in (8, 16))
    targets = {(row.source_index, row.variant): row.target_index for row in many}
    for row in few:
        if row.skip is None:
            assert targets[row.source_index, row.variant] == row.target_index


def test_a_balanced_plan_is_accepted_by_a_rerun_and_no_other(tmp_path):
    settings, split, plan = planned()
    path = tmp_path / "plan.parquet"
    write_plan(path, [table_of(plan)])
    check_plan(path, settings, split)
    for other in ({"images_per_class": 17}, {"images_per_class": None, "num_variants": 1}):
        with pytest.raises(UserError, match="plan of another subset"):
            check_plan(path, dataclasses.replace(settings, **other), split)
    write_plan(
        path, [table_of([*plan, dataclasses.replace(plan[-1], variant=plan[-1].variant + 1)])]
    )
    with pytest.raises(UserError):
        check_plan(path, settings, split)


@pytest.mark.parametrize("words", [["--num_variants=0"], ["--images_per_class=0"]])
def test_a_generation_of_nothing_is_refused(words):
    with pytest.raises(UserError):
        parse_settings(
            AugmentSettings, ["--dataset_name=a/b", "--output_dir=o", "--strength=0", *words]
        )
