"""Mixing against loops over pixels that do what Eq. 9 and 10 say."""

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from sgdmix_hub.errors import UnusableRow
from sgdmix_hub.method.mixing import LARGEST_HOLE, compose, fill, inpainting_hole, kept_mask

SIZE = 8
FLAT = (40, 160, 60)
ROUNDING = 1  # of a fill in flat surroundings, where a leak of the target's red would give 180
images = numpy_strategies.arrays(np.uint8, (SIZE, SIZE, 3))
masks = numpy_strategies.arrays(bool, (SIZE, SIZE))


def naive_mix(source, target, source_mask, target_mask, method):
    """Eq. 9 and 10, one pixel at a time."""
    mixed = np.zeros_like(source)
    for y in range(len(source)):
        for x in range(len(source)):
            union = source_mask[y, x] or (method == "union" and target_mask[y, x])
            mixed[y, x] = source[y, x] if union else target[y, x]
    return mixed


@pytest.mark.slow
@given(
    source=images,
    target=images,
    source_mask=masks,
    target_mask=masks,
    method=st.sampled_from(["union", "source"]),
)
@settings(max_examples=120)
def test_union_and_source_are_exact_to_the_pixel(source, target, source_mask, target_mask, method):
    kept = kept_mask(source_mask, target_mask, method)
    mixed = compose(source, target, kept)
    assert mixed.dtype == np.uint8 and kept.dtype == bool
    assert np.array_equal(mixed, naive_mix(source, target, source_mask, target_mask, method))


@given(source=images, target=images, source_mask=masks, target_mask=masks)
@settings(max_examples=40)
def test_union_leaves_nothing_of_the_targets_foreground(source, target, source_mask, target_mask):
    mixed = compose(source, target, kept_mask(source_mask, target_mask, "union"))
    assert np.array_equal(mixed[target_mask], source[target_mask])


@given(source_mask=masks, target_mask=masks, method=st.sampled_from(["union", "source", "inpaint"]))
@settings(max_examples=60)
def test_the_sources_foreground_is_kept_and_only_union_keeps_more(source_mask, target_mask, method):
    kept = kept_mask(source_mask, target_mask, method)
    assert kept[source_mask].all()
    assert np.array_equal(kept, source_mask) or method == "union"


@given(image=images, other=images, mask=masks, feather=st.sampled_from([0.0, 0.1]))
@settings(max_examples=40)
def test_inputs_are_left_alone(image, other, mask, feather):
    for array in (image, other, mask):
        array.flags.writeable = False
    before = image.copy(), other.copy(), mask.copy()
    compose(image, other, mask, feather)
    fill(image, mask)
    assert all(
        np.array_equal(array, kept)
        for array, kept in zip((image, other, mask), before, strict=True)
    )


def flatness(mixed, source_mask):
    """Largest difference to the flat background, outside the source's foreground."""
    return np.abs(mixed[~source_mask].astype(int) - FLAT).max()


def scene(size, radius_of_source=0.2, radius_of_target=0.25):
    """A blue object on noise as the source; as the target a red one on flat green. Masks are the
    true ones.
    """
    y, x = np.mgrid[:size, :size] / size
    source_mask = (y - 0.3) ** 2 + (x - 0.3) ** 2 < radius_of_source**2
    target_mask = (y - 0.6) ** 2 + (x - 0.6) ** 2 < radius_of_target**2
    source = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    source[source_mask] = (20, 30, 220)
    target = np.full((size, size, 3), FLAT, np.uint8)
    target[target_mask] = (220, 20, 30)
    return source, target, source_mask, target_mask


def mixed_over_inpainted(source, target, source_mask, target_mask):
    return compose(
        source,
        fill(target, inpainting_hole(target_mask)),
        kept_mask(source_mask, target_mask, "inpaint"),
    )


@pytest.mark.parametrize("size", [32, 64, 128])
def test_inpainting_leaves_no_colour_of_the_target_in_a_flat_background(size):
    source, target, source_mask, target_mask = scene(size)
    mixed = mixed_over_inpainted(source, target, source_mask, target_mask)
    assert np.array_equal(mixed[source_mask], source[source_mask])
    assert flatness(mixed, source_mask) <= ROUNDING
    # Without inpainting the target's object shows, which is what the test tells apart.
    assert flatness(compose(source, target, source_mask), source_mask) > 100


def test_inpainting_copes_with_a_mask_that_is_a_little_too_small():
    source, target, source_mask, target_mask = scene(64)
    mixed = mixed_over_inpainted(
        source, target, source_mask, scipy.ndimage.binary_erosion(target_mask)
    )
    assert flatness(mixed, source_mask) <= ROUNDING


@given(mask=numpy_strategies.arrays(bool, (40, 40), elements=st.booleans(), fill=st.just(False)))
@settings(max_examples=60)
def test_the_hole_is_the_foreground_with_a_margin_unless_that_is_too_much(mask):
    distance = (
        scipy.ndimage.distance_transform_edt(~mask) if mask.any() else np.full(mask.shape, np.inf)
    )
    expected = distance <= 2  # 5 % of 40 pixels
    if expected.mean() > LARGEST_HOLE:
        with pytest.raises(UnusableRow, match="too large"):
            inpainting_hole(mask)
    else:
        assert np.array_equal(inpainting_hole(mask), expected)


def test_inpainting_changes_the_hole_alone():
    _, target, _, target_mask = scene(64)
    noise = np.random.default_rng(1).integers(0, 256, target.shape, np.uint8)
    hole = inpainting_hole(target_mask)
    filled = fill(noise, hole)
    assert filled.dtype == np.uint8 and np.array_equal(filled[~hole], noise[~hole])
    assert not np.array_equal(filled[hole], noise[hole])
    assert np.array_equal(fill(noise, np.zeros_like(hole)), noise)


@pytest.mark.parametrize("size", [37, 64, 200])
def test_a_filled_pixel_lies_between_the_darkest_and_the_brightest_known_one(size):
    rng = np.random.default_rng(size)
    image = rng.integers(60, 180, (size, size, 3)).astype(np.uint8)
    hole = np.zeros((size, size), bool)
    hole[size // 8 : -size // 8, size // 4 :] = True
    image[hole] = rng.choice([0, 255], (hole.sum(), 3))
    filled = fill(image, hole)
    assert filled.min() >= 60 and filled.max() < 180


def test_a_slope_goes_through_the_hole_without_a_star():
    """A brightness that rises from left to right also rises in the hole, in every row."""
    image = np.repeat(
        np.tile(np.linspace(20, 230, 128).astype(np.uint8), (128, 1))[..., None], 3, 2
    )
    hole = np.hypot(*(np.mgrid[:128, :128] - 63.5)) < 40
    inside = fill(image, hole)[48:80, 30:98, 0].astype(int)
    assert (np.diff(inside[:, ::8], axis=1) >= 0).all()
    assert np.abs(inside - image[48:80, 30:98, 0]).mean() < 25


@given(source=images, target=images, mask=masks, feather=st.floats(0.001, 0.5))
@settings(max_examples=80)
def test_a_feather_stays_between_the_two_images(source, target, mask, feather):
    mixed = compose(source, target, mask, feather)
    assert mixed.dtype == np.uint8
    assert (mixed >= np.minimum(source, target)).all()
    assert (mixed <= np.maximum(source, target)).all()


@pytest.mark.parametrize("size", [32, 64, 256])
def test_a_feather_is_a_share_of_the_image_size(size):
    """White over black at a straight edge: the ramp from 16 % to 84 % is two sigmas wide."""
    white, black = np.full((size, size, 3), 255, np.uint8), np.zeros((size, size, 3), np.uint8)
    left = np.zeros((size, size), bool)
    left[:, : size // 2] = True
    profile = compose(white, black, left, feather=0.1)[size // 2, :, 0].astype(float)
    assert (np.diff(profile) <= 0).all()
    ramp = ((profile > 0.1587 * 255) & (profile < 0.8413 * 255)).sum()
    assert abs(ramp - 2 * 0.1 * size) <= 2
    assert np.array_equal(compose(white, black, left, feather=0.0)[:, :, 0] == 255, left)


def test_without_masks_or_with_full_ones_one_image_remains():
    source, target, _, _ = scene(32)
    none, everything = np.zeros((32, 32), bool), np.ones((32, 32), bool)
    for feather in (0.0, 0.1):
        assert np.array_equal(compose(source, target, none, feather), target)
        assert np.array_equal(compose(source, target, everything, feather), source)
