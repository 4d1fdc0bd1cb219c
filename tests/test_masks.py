"""Masks: Otsu's threshold against scikit-image, and what GrabCut adds."""

import cv2
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from skimage.filters import threshold_otsu

from sgdmix_hub.masks import GRABCUT_SIZE, foreground_mask, grabcut_mask, otsu_threshold, threshold_mask, widen

unit_values = st.floats(0, 1, width=16)  # maps are stored in float16


@given(values=numpy_strategies.arrays(np.float64, (16, 16), elements=unit_values, fill=unit_values))
@example(values=np.full((16, 16), 0.25))
@settings(max_examples=150)
def test_otsu_is_exactly_that_of_scikit_image(values):
    assert otsu_threshold(values) == threshold_otsu(values)


@given(low=unit_values, high=unit_values, share=st.integers(1, 255), data=st.randoms())
@settings(max_examples=80)
def test_otsu_separates_two_values_like_scikit_image(low, high, share, data):
    values = np.array([low] * share + [high] * (256 - share))
    data.shuffle(values)
    threshold = otsu_threshold(values)
    assert threshold == threshold_otsu(values)
    if abs(high - low) > 1e-3:
        assert min(low, high) <= threshold < max(low, high)


@given(seed=st.integers(0, 10_000), blobs=st.integers(1, 5))
@settings(max_examples=60)
def test_otsu_of_a_saliency_map_is_that_of_scikit_image_in_float32_too(seed, blobs):
    """Up to the rounding of the bins' edges, which NumPy takes in the map's own precision."""
    saliency_map = smooth_map(seed, blobs)
    expected = threshold_otsu(saliency_map.astype(np.float64))
    assert otsu_threshold(saliency_map) == pytest.approx(expected, abs=1e-6)
    assert np.array_equal(saliency_map > otsu_threshold(saliency_map), saliency_map > expected)


def smooth_map(seed, blobs=2):
    rng = np.random.default_rng(seed)
    peaks = np.zeros((64, 64))
    peaks[tuple(rng.integers(8, 56, (2, blobs)))] = rng.random(blobs) + 0.5
    smooth = scipy.ndimage.gaussian_filter(peaks, rng.uniform(3, 9))
    return (smooth / smooth.max()).astype(np.float16).astype(np.float32)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("size", [32, 64, 100])
def test_a_constant_map_has_an_empty_mask(value, size):
    mask = threshold_mask(np.full((64, 64), value), size)
    assert mask.shape == (size, size) and mask.dtype == bool and not mask.any()


def test_at_its_own_size_the_mask_is_what_lies_above_the_threshold():
    for seed in range(10):
        saliency_map = smooth_map(seed)
        assert np.array_equal(threshold_mask(saliency_map, 64), saliency_map > threshold_otsu(saliency_map))


@pytest.mark.parametrize("size", [32, 96, 128, 256, 512])
def test_masks_of_one_map_have_the_same_shape_at_every_size(size):
    for seed in range(6):
        small = threshold_mask(smooth_map(seed), 64)
        scaled = cv2.resize(np.float32(threshold_mask(smooth_map(seed), size)), (64, 64), interpolation=cv2.INTER_AREA) > 0.5
        assert iou(small, scaled) > 0.8


def iou(first, second):
    return (first & second).sum() / (first | second).sum()


def disc_on_texture(seed, size=128):
    """A red disc on a green and brown texture, the true disc, and a coarse map: a blob that is off-centre and too large."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    centre_y, centre_x = rng.uniform(0.4, 0.6, 2)
    disc = (y - centre_y) ** 2 + (x - centre_x) ** 2 < 0.18**2
    texture = scipy.ndimage.gaussian_filter(rng.random((size, size)), size / 40)
    texture = (texture - texture.min()) / np.ptp(texture)
    image = np.stack([60 + 60 * texture, 120 + 80 * texture, 50 + 30 * texture], axis=-1) + rng.normal(0, 6, (size, size, 3))
    image[disc] = np.array([205, 40, 45]) + rng.normal(0, 10, (disc.sum(), 3))
    grid_y, grid_x = np.mgrid[:64, :64] / 64
    saliency_map = np.exp(-((grid_y - centre_y - 0.06) ** 2 + (grid_x - centre_x + 0.05) ** 2) / 0.03).astype(np.float32)
    return np.clip(image, 0, 255).astype(np.uint8), disc, saliency_map


@pytest.mark.parametrize("size", [64, 128, 256])
@pytest.mark.parametrize("seed", range(5))
def test_grabcut_finds_a_disc_better_than_otsu_alone(seed, size):
    image, disc, saliency_map = disc_on_texture(seed, size)
    refined, otsu = foreground_mask(image, saliency_map, "grabcut"), foreground_mask(image, saliency_map, "none")
    assert refined.shape == (size, size) and refined.dtype == bool
    assert iou(refined, disc) > max(iou(otsu, disc) + 0.1, 0.9)


def test_without_refinement_the_mask_is_that_of_the_threshold():
    image, _, saliency_map = disc_on_texture(0)
    assert np.array_equal(foreground_mask(image, saliency_map, "none"), threshold_mask(saliency_map, 128))


def test_grabcut_does_not_depend_on_what_was_drawn_before():
    noisy = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    cases = [disc_on_texture(seed)[::2] for seed in range(3)] + [(noisy, smooth_map(0))]
    for image, saliency_map in cases:
        masks = []
        for seed in range(4):
            cv2.setRNGSeed(seed)
            cv2.randu(np.zeros(7, np.uint8), 0, 255)
            masks.append(grabcut_mask(image, saliency_map))
            grabcut_mask(noisy, smooth_map(seed))
        assert all(np.array_equal(mask, masks[0]) for mask in masks)


def test_grabcut_leaves_its_inputs_alone():
    image, _, saliency_map = disc_on_texture(1)
    before = image.copy(), saliency_map.copy()
    image.flags.writeable = saliency_map.flags.writeable = False
    grabcut_mask(image, saliency_map)
    assert np.array_equal(image, before[0]) and np.array_equal(saliency_map, before[1])


@pytest.mark.parametrize("size", [32, GRABCUT_SIZE, 200])
def test_grabcut_falls_back_on_the_threshold(size):
    """Where there is nothing to begin with (constant map), and where the colours tell nothing (plain image)."""
    noisy = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    constant = np.full((64, 64), 0.4, np.float32)
    assert np.array_equal(grabcut_mask(noisy, constant), threshold_mask(constant, size))
    for colour in (0, 128, 255):
        plain = grabcut_mask(np.full((size, size, 3), colour, np.uint8), smooth_map(3))
        assert plain.any() and not plain.all()


@given(seed=st.integers(0, 1000), size=st.sampled_from([32, 64, 160]))
@settings(max_examples=12)
def test_grabcut_never_gives_nothing_or_everything_where_otsu_gives_something(seed, size):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (size, size, 3), np.uint8) if seed % 2 else np.full((size, size, 3), rng.integers(0, 256, 3), np.uint8)
    saliency_map = smooth_map(seed, blobs=1 + seed % 4)
    assert threshold_mask(saliency_map, size).any()
    mask = grabcut_mask(image, saliency_map)
    assert mask.any() and not mask.all()


@given(mask=numpy_strategies.arrays(bool, (24, 24)), radius=st.floats(0.0, 0.3))
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
