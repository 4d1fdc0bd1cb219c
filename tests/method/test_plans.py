"""The plan of a split: every source has its variants, and none is its own target."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgdmix_hub.data.splits import load_split
from sgdmix_hub.generation import plan as plans
from sgdmix_hub.generation.plan import PLAN_SCHEMA, make_plan, rows_of, table_of, write_plan
from sgdmix_hub.generation.saliency_maps import compute_maps
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.method.strength import row_strengths
from sgdmix_hub.seeds import RandomStream, generator, row_seed
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.presets import apply_preset

CLASSES = ["any", "other", "same"]


@pytest.fixture
def birds_plan(birds, tmp_path):
    """Settings, split and maps of a run that mixes four birds a species."""

    def make(**choices):
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
                **choices,
            )
        )
        split = load_split(settings_, resolve(settings_.dataset_name, repo_type="dataset"))
        return settings_, split, compute_maps(settings_, split, None, 0, 1, None)

    return make


@pytest.mark.parametrize("target_classes", CLASSES)
def test_a_plan_gives_every_source_its_variants_and_never_itself(birds_plan, target_classes):
    settings_, split, maps = birds_plan(target_classes=target_classes)
    plan = list(make_plan(settings_, split, maps))
    assert [(row.source_index, row.variant) for row in plan] == [
        (source, v) for source in split.subset.tolist() for v in range(3)
    ]
    for row in plan:
        assert row.skip is None
        assert row.target_index in split.subset
        assert row.target_index != row.source_index
        assert row.seed == row_seed(0, row.source_index, row.variant)
        if target_classes != "any":
            same = split.labels[row.target_index] == split.labels[row.source_index]
            assert same == (target_classes == "same")
    for source in split.subset.tolist():
        assert len({row.target_index for row in plan if row.source_index == source}) == 3


def test_an_image_without_a_map_is_skipped_and_is_nobodys_target(birds_plan):
    settings_, split, maps = birds_plan(selection_method="novel-background")
    lost = int(split.subset[1])
    maps.unusable[lost] = "blank saliency map"
    # One per row, as in the store.
    backgrounds = np.random.default_rng(0).random((len(split.rows), 4)).astype(np.float32)
    plan = list(make_plan(settings_, split, maps, backgrounds))
    assert [(row.source_index, row.variant) for row in plan] == [
        (source, v) for source in split.subset.tolist() for v in range(3)
    ]
    assert {row.source_index for row in plan if row.skip} == {lost}
    assert {row.skip for row in plan if row.source_index == lost} == {"blank saliency map"}
    assert lost not in [row.target_index for row in plan]


@given(
    strengths=st.lists(st.floats(0, 1), min_size=1, max_size=4),
    rows=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=12),
    seed=st.integers(0, 99),
)
def test_strengths_of_rows_take_turns_in_an_order_drawn_for_each_source(strengths, rows, seed):
    sources, variants = np.array(rows, np.int64).reshape(-1, 2).T
    expected = []
    for source, variant in rows:
        rng = generator(RandomStream.ROW_STRENGTH, seed, source)
        order = rng.permutation(len(strengths))
        expected.append(strengths[order[variant % len(strengths)]])
    assert row_strengths(strengths, seed, sources, variants).tolist() == expected


@pytest.mark.parametrize("sizes", [[0, 3, 20, 1], [8, 8, 8], [7, 1, 16], [24], [1] * 24])
def test_a_plan_in_parts_has_the_bytes_of_one_that_is_written_group_by_group(
    sizes, tmp_path, monkeypatch
):
    row = plans.PlanRow(3, 0, 5, 7, 0.5, 0.1, 0, None)
    rows = [replace(row, source_index=n, skip="blank" if n % 5 == 0 else None) for n in range(24)]
    whole, ends = table_of(rows), np.cumsum(sizes)
    monkeypatch.setattr(plans, "PLAN_GROUP", 8)
    parts = [whole.slice(end - size, size) for size, end in zip(sizes, ends, strict=True)]
    write_plan(tmp_path / "parts.parquet", parts)
    with pq.ParquetWriter(tmp_path / "groups.parquet", PLAN_SCHEMA) as file:
        for start in range(0, 24, 8):
            group = [vars(row) for row in rows[start : start + 8]]
            file.write_table(pa.Table.from_pylist(group, schema=PLAN_SCHEMA))
    parts_bytes, groups_bytes = (
        (tmp_path / f"{name}.parquet").read_bytes() for name in ("parts", "groups")
    )
    assert parts_bytes == groups_bytes
    assert list(rows_of(pq.read_table(tmp_path / "parts.parquet"))) == rows
