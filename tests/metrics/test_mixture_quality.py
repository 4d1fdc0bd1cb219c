"""The metric of mixtures against sets of pixels; every metric loads by its path."""

from pathlib import Path

import evaluate
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from sgdmix_hub.method.mixing import kept_mask
from sgdmix_hub.metrics import class_accuracy as class_accuracy_module
from sgdmix_hub.metrics import mask_quality as mask_quality_module
from sgdmix_hub.metrics import mixture_quality as mixture_quality_module
from sgdmix_hub.metrics.mixture_quality import (
    MixtureQuality,
    background_from_target,
    effective_targets,
    foreground_kept,
    leak,
)


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
