"""Masks: thresholds against scikit-image and OpenCV, what GrabCut adds, and the clean-up against
scikit-image.
"""

import cv2
import numpy as np
import pytest
import scipy.ndimage
import skimage.filters
import skimage.measure
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from pictures import disc_on_texture, iou, smooth_map

from sgdmix_hub.data.images import resize_mask
from sgdmix_hub.errors import UserError
from sgdmix_hub.method.masks import (
    GRABCUT,
    THRESHOLDS,
    GrabCut,
    clean_up,
    foreground_mask,
    grabcut_mask,
    largest_component,
    threshold,
    threshold_mask,
    widen,
)
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.presets import apply_preset

unit_values = st.floats(0, 1, width=16)  # maps are stored in float16
masks = numpy_strategies.arrays(bool, (24, 24))


def mask_settings(**values):
    unused = {
        "dataset_name": "unused",
        "output_dir": "unused",
        "preset": "paper",
        "classifier": "unused",
        "strength": 0.0,
    }
    return apply_preset(AugmentSettings(**(unused | values)))


# ---- thresholds ----


def of_scikit_image(values, method):
    """scikit-image's threshold in float64; the maximum, above which nothing lies, of a map that it
    finds none for.
    """
    if np.ptp(values) == 0:
        return values.max()
    try:
        return getattr(skimage.filters, f"threshold_{method}")(values.astype(np.float64))
    except RuntimeError:
        return values.max()


@pytest.mark.slow
@pytest.mark.parametrize("method", THRESHOLDS)
@given(values=numpy_strategies.arrays(np.float16, (16, 16), elements=unit_values, fill=unit_values))
@example(values=np.full((16, 16), 0.25, np.float16))
@settings(max_examples=60)
def test_a_threshold_is_exactly_that_of_scikit_image(method, values):
    assert (
        threshold(values, method)
        == threshold(values.astype(np.float64), method)
        == of_scikit_image(values, method)
    )


@pytest.mark.parametrize("method", THRESHOLDS)
def test_a_threshold_of_a_saliency_map_lies_inside_it_and_parts_it(method):
    parted = 0
    for seed in range(25):
        saliency_map = smooth_map(seed, blobs=1 + seed % 5)
        found = threshold(saliency_map, method)
        assert found == of_scikit_image(saliency_map, method)
        assert saliency_map.min() <= found <= saliency_map.max()
        parted += 0 < (saliency_map > found).mean() < 1
    assert parted == 25 or method == "minimum"


@given(seed=st.integers(0, 10_000), levels=st.integers(2, 256), peaks=st.integers(1, 3))
@settings(max_examples=200)
def test_otsu_parts_a_map_of_bytes_where_opencv_does(seed, levels, peaks):
    """OpenCV's 256 bins are the bytes and its threshold the last of them below; scikit-image's is
    the middle of that bin.
    """
    rng = np.random.default_rng(seed)
    values = np.clip(
        rng.normal(rng.uniform(0, levels, peaks), rng.uniform(0.1, 0.3) * levels, (256, peaks)),
        0,
        levels - 1,
    )
    # 0 and 255 always occur.
    values = np.uint8(np.append(values.astype(int), [0, levels - 1]) * 255 // (levels - 1))
    last_below, _ = cv2.threshold(values, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    for scale in (1, 255):
        our_bin = threshold(values / scale) * scale * 256 / 255 - 0.5
        assert our_bin == pytest.approx(round(our_bin), abs=1e-9)
        assert np.array_equal(values > round(our_bin), values > last_below)


@pytest.mark.slow
@given(low=unit_values, high=unit_values, share=st.integers(1, 255), data=st.randoms())
@settings(max_examples=80)
def test_otsu_separates_two_values(low, high, share, data):
    values = np.array([low] * share + [high] * (256 - share))
    data.shuffle(values)
    if abs(high - low) > 1e-3:
        assert min(low, high) <= threshold(values) < max(low, high)


@given(seed=st.integers(0, 10_000), quantile=st.floats(0, 1))
@settings(max_examples=60)
def test_a_quantile_leaves_its_share_below(seed, quantile):
    values = np.random.default_rng(seed).random(101)
    found, place = threshold(values, "quantile", quantile), 100 * quantile
    below, above = np.sort(values)[[int(place), min(int(place) + 1, 100)]]
    assert found == pytest.approx(below + (place - int(place)) * (above - below), abs=1e-12)


@pytest.mark.parametrize("method", [*THRESHOLDS, "quantile"])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("size", [32, 64, 100])
def test_a_constant_map_has_an_empty_mask(method, value, size):
    mask = threshold_mask(np.full((64, 64), value), size, method)
    assert mask.shape == (size, size) and mask.dtype == bool and not mask.any()


def test_a_map_without_two_modes_has_an_empty_mask_for_minimum():
    ramp = np.linspace(0, 1, 64 * 64).reshape(64, 64)
    with pytest.raises(RuntimeError):
        skimage.filters.threshold_minimum(ramp)
    assert threshold(ramp, "minimum") == 1.0
    assert not threshold_mask(ramp, 100, "minimum").any()


@pytest.mark.parametrize("method", [*THRESHOLDS, "quantile"])
def test_at_its_own_size_the_mask_is_what_lies_strictly_above_the_threshold(method):
    for seed in range(10):
        # Eighths, so that values equal some methods' thresholds exactly.
        saliency_map = np.round(smooth_map(seed) * 8) / 8
        found = threshold(saliency_map, method)
        mask = threshold_mask(saliency_map, 64, method)
        assert np.array_equal(mask, saliency_map > found) and not mask[saliency_map == found].any()


@pytest.mark.parametrize("size", [32, 96, 128, 256, 512])
def test_masks_of_one_map_have_the_same_shape_at_every_size(size):
    for seed in range(6):
        small = threshold_mask(smooth_map(seed), 64)
        scaled = (
            cv2.resize(
                np.float32(threshold_mask(smooth_map(seed), size)),
                (64, 64),
                interpolation=cv2.INTER_AREA,
            )
            > 0.5
        )
        assert iou(small, scaled) > 0.8


# ---- GrabCut ----


def refined(image, saliency_map):
    return grabcut_mask(image, saliency_map, threshold_mask(saliency_map, image.shape[0]))


@pytest.mark.parametrize("size", [64, 128, 256])
@pytest.mark.parametrize("seed", range(5))
def test_grabcut_finds_a_disc_better_than_otsu_alone(seed, size):
    image, disc, saliency_map = disc_on_texture(seed, size)
    otsu, mask = (
        foreground_mask(image, saliency_map, mask_settings(mask_refinement=name))
        for name in ("none", "grabcut")
    )
    assert mask.shape == (size, size) and mask.dtype == bool
    assert iou(mask, disc) > max(iou(otsu, disc) + 0.1, 0.9)


def test_grabcut_takes_the_radii_of_the_settings():
    image, _, saliency_map = disc_on_texture(1)
    coarse, masks = threshold_mask(saliency_map, 128), []
    for near, far in ((0.02, 0.1), (0.0, 0.01)):
        asked = mask_settings(
            mask_refinement="grabcut", grabcut_radius=near, grabcut_background_radius=far
        )
        masks.append(foreground_mask(image, saliency_map, asked))
        grabcut = GrabCut(probable_radius=near, background_radius=far)
        assert np.array_equal(masks[-1], grabcut_mask(image, saliency_map, coarse, grabcut))
    assert not np.array_equal(*masks)
    assert (GRABCUT.probable_radius, GRABCUT.background_radius) == (0.02, 0.1)
    assert np.array_equal(
        masks[0], foreground_mask(image, saliency_map, mask_settings(mask_refinement="grabcut"))
    )
    with pytest.raises(UserError, match="grabcut_background_radius 0.01 is below grabcut_radius"):
        mask_settings(grabcut_background_radius=0.01).validate()


@pytest.mark.slow
def test_grabcut_does_not_depend_on_what_was_drawn_before():
    noisy = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    cases = [disc_on_texture(seed)[::2] for seed in range(3)] + [(noisy, smooth_map(0))]
    for image, saliency_map in cases:
        found = []
        for seed in range(4):
            cv2.setRNGSeed(seed)
            cv2.randu(np.zeros(7, np.uint8), 0, 255)
            found.append(refined(image, saliency_map))
            refined(noisy, smooth_map(seed))
        assert all(np.array_equal(mask, found[0]) for mask in found)


def test_grabcut_leaves_its_inputs_alone():
    image, _, saliency_map = disc_on_texture(1)
    coarse = threshold_mask(saliency_map, 128)
    before = image.copy(), saliency_map.copy(), coarse.copy()
    for array in (image, saliency_map, coarse):
        array.flags.writeable = False
    grabcut_mask(image, saliency_map, coarse)
    assert all(
        np.array_equal(array, kept)
        for array, kept in zip((image, saliency_map, coarse), before, strict=True)
    )


@pytest.mark.parametrize("size", [32, GRABCUT.size, 200])
@pytest.mark.parametrize("value", [False, True])
def test_grabcut_keeps_a_coarse_mask_of_nothing_or_everything(size, value):
    noisy = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    coarse = np.full((size, size), value)
    assert np.array_equal(grabcut_mask(noisy, smooth_map(0), coarse), coarse)


@pytest.mark.slow
@given(seed=st.integers(0, 1000), size=st.sampled_from([32, 64, 160]))
@settings(max_examples=12)
def test_grabcut_never_gives_nothing_or_everything_where_the_threshold_gives_something(seed, size):
    """Noise, and plain images, whose colours tell nothing."""
    rng = np.random.default_rng(seed)
    image = (
        rng.integers(0, 256, (size, size, 3), np.uint8)
        if seed % 2
        else np.full((size, size, 3), rng.integers(0, 256, 3), np.uint8)
    )
    saliency_map = smooth_map(seed, blobs=1 + seed % 4)
    assert threshold_mask(saliency_map, size).any()
    mask = refined(image, saliency_map)
    assert mask.any() and not mask.all()


@pytest.mark.parametrize("seed", range(3))
def test_grabcut_stays_near_the_coarse_mask_that_it_is_given(seed):
    """The same image and map with only the left half of the mask: what is far from it is certain
    background.
    """
    image, _, saliency_map = disc_on_texture(seed)
    coarse = threshold_mask(saliency_map, 128)
    coarse[:, np.flatnonzero(coarse.any(axis=0))[0] + 4 :] = False
    mask = grabcut_mask(image, saliency_map, coarse)
    assert (
        scipy.ndimage.distance_transform_edt(~coarse)[mask] <= GRABCUT.background_radius * 128 + 2
    ).all()


@pytest.mark.parametrize("width", [4, 5, 6, 8])
@pytest.mark.parametrize("start", range(4))
def test_a_thin_leg_of_512_pixels_survives_a_stored_mask_of_256(width, start):
    mask = np.zeros((512, 512), bool)
    mask[100:400, 200 + start : 200 + start + width] = True
    kept = resize_mask(resize_mask(mask, 256), 512)
    assert (kept & mask).sum() > 0.9 * mask.sum() and kept.sum() < 1.6 * mask.sum()


# ---- clean-up ----


@given(mask=masks, radius=st.floats(0.0, 0.3))
@settings(max_examples=40)
def test_widening_adds_and_reaches_no_farther_than_the_radius(mask, radius):
    wide = widen(mask, radius)
    assert (wide | mask).sum() == wide.sum()
    pixels = max(1, round(radius * 24))
    if mask.any():
        distance = scipy.ndimage.distance_transform_edt(~mask)
        assert (distance[wide] <= pixels + 1).all()
        assert wide[distance <= 1].all()
    else:
        assert not wide.any()


@given(mask=numpy_strategies.arrays(bool, (12, 12)))
@settings(max_examples=80)
def test_the_largest_component_is_one_of_the_largest_of_scikit_image(mask):
    labels = skimage.measure.label(mask, connectivity=2)
    largest = largest_component(mask)
    assert largest.dtype == bool
    if not mask.any():
        assert not largest.any()
        return
    sizes = np.bincount(labels.ravel())[1:]
    (number,) = np.unique(labels[largest])
    assert np.array_equal(largest, labels == number) and sizes[number - 1] == sizes.max()


def without_holes(mask):
    """The mask, plus every background pixel with no 4-connected path to beyond the border."""
    background = skimage.measure.label(np.pad(~mask, 1, constant_values=True), connectivity=1)
    return (background != background[0, 0])[1:-1, 1:-1]


@given(mask=masks)
@settings(max_examples=60)
def test_filled_holes_are_what_the_border_cannot_reach(mask):
    assert np.array_equal(clean_up(mask, mask_settings(fill_holes=True)), without_holes(mask))


@given(
    mask=masks,
    largest=st.booleans(),
    fill=st.booleans(),
    dilation=st.sampled_from([0.0, 0.05, 0.2]),
)
@settings(max_examples=60)
def test_clean_up_does_what_is_asked_in_this_order(mask, largest, fill, dilation):
    """A hole in the largest part is filled after the others are gone, and widened last."""
    mask.flags.writeable = False
    expected = largest_component(mask) if largest else mask
    expected = without_holes(expected) if fill else expected
    expected = widen(expected, dilation) if dilation else expected
    asked = mask_settings(largest_component=largest, fill_holes=fill, mask_dilation=dilation)
    assert np.array_equal(clean_up(mask, asked), expected)


@pytest.mark.parametrize("method", ["otsu", "li", "quantile"])
@pytest.mark.parametrize("refinement", ["none", "grabcut"])
def test_the_foreground_is_the_threshold_then_grabcut_then_clean_up(method, refinement):
    image, _, saliency_map = disc_on_texture(4)
    asked = mask_settings(
        threshold_method=method,
        threshold_quantile=0.7,
        mask_refinement=refinement,
        largest_component=True,
        mask_dilation=0.02,
    )
    mask = threshold_mask(saliency_map, 128, method, 0.7)
    mask = mask if refinement == "none" else grabcut_mask(image, saliency_map, mask)
    assert np.array_equal(
        foreground_mask(image, saliency_map, asked), widen(largest_component(mask), 0.02)
    )
    paper = mask_settings()
    assert np.array_equal(
        foreground_mask(image, saliency_map, paper), threshold_mask(saliency_map, 128)
    )


@pytest.mark.parametrize("wanted", [0.1, 0.35])
def test_the_quantile_setting_says_how_much_is_foreground(wanted):
    image, _, saliency_map = disc_on_texture(2)
    mask = foreground_mask(
        image,
        saliency_map,
        mask_settings(threshold_method="quantile", threshold_quantile=1 - wanted),
    )
    assert mask.mean() == pytest.approx(wanted, abs=0.01)
