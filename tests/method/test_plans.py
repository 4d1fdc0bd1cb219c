"""The plan of a split: every source has its variants, and none is its own target."""

import numpy as np
import pytest

from sgdmix_hub.data.splits import load_split
from sgdmix_hub.generation.plan import make_plan
from sgdmix_hub.generation.saliency_maps import compute_maps
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.seeds import row_seed
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
