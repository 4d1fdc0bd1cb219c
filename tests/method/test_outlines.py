"""Outlines: contrast and sharpness, and that GrabCut leaves a mask alone that follows edges."""

import numpy as np
import pytest
from pictures import disc_on_texture, iou

from sgdmix_hub.method.masks import GRABCUT, GrabCut, grabcut_mask, threshold_mask
from sgdmix_hub.method.outlines import contrast, narrow, sharpness, small_lab, widen


def two_colours(size):
    """A grey square on black, and its mask."""
    mask = np.zeros((size, size), bool)
    mask[size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = True
    return np.repeat(np.where(mask, 119, 0).astype(np.uint8)[..., None], 3, axis=2), mask


@pytest.mark.parametrize("size", [64, 128, 256])
def test_contrast_is_the_colour_difference_in_lab(size):
    """Grey 119 of sRGB has a lightness of 50."""
    image, mask = two_colours(size)
    assert contrast(small_lab(image), mask) == pytest.approx(50, abs=8 if size == 64 else 1)
    flat = np.full_like(image, 90)
    assert contrast(small_lab(flat), mask) == pytest.approx(0, abs=1e-3)


def test_the_frame_and_a_mask_of_nothing_or_everything_have_no_contrast():
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    for value in (False, True):
        assert contrast(small_lab(noise), np.full((128, 128), value)) == 0


def test_an_outline_is_sharp_on_an_edge_and_not_beside_it():
    image, mask = two_colours(128)
    lab = small_lab(image)
    assert sharpness(lab, mask) > 3
    assert sharpness(lab, widen(mask, 0.08)) < 1 and sharpness(lab, ~widen(~mask, 0.08)) < 1


@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.parametrize("seed", range(3))
def test_grabcut_leaves_a_true_mask_alone(seed, size):
    image, disc, saliency_map = disc_on_texture(seed, size)
    assert np.array_equal(grabcut_mask(image, saliency_map, disc), disc)
    coarse = threshold_mask(saliency_map, size)
    assert iou(grabcut_mask(image, saliency_map, coarse), disc) > iou(coarse, disc)


def test_a_refined_mask_of_less_contrast_is_not_taken():
    """With seeds so far out that GrabCut takes the frame, the coarse mask stays."""
    rng = np.random.default_rng(3)
    noise = rng.integers(0, 256, (128, 128, 3), np.uint8)
    coarse = np.hypot(*(np.mgrid[:128, :128] - 64)) < 25
    saliency_map = coarse[::2, ::2].astype(np.float32)
    lab = small_lab(noise)
    for radius in (0.02, 0.1):
        mask = grabcut_mask(noise, saliency_map, coarse, GrabCut(probable_radius=radius))
        assert np.array_equal(mask, coarse) or contrast(lab, mask) > contrast(lab, coarse)
    assert GRABCUT.sharp is not None


@pytest.mark.parametrize("size", [64, 256])
def test_a_narrowed_mask_is_the_inside_of_the_mask(size):
    _, mask = two_colours(size)
    inner = narrow(mask, 0.05)
    assert not (inner & ~mask).any() and not (narrow(mask, 0.1) & ~inner).any()
    # a square loses the same ring that its complement gains
    assert np.array_equal(inner, ~widen(~mask, 0.05))
    assert not narrow(mask, 0.3).any()


def test_the_frame_narrows_no_mask():
    mask = np.zeros((64, 64), bool)
    mask[:, :32] = True
    inner = narrow(mask, 0.0625)
    assert inner[:, :28].all() and not inner[:, 28:].any()
