"""Where soft masks that a model predicted are cut."""

import cv2
import numpy as np
import pytest
from pictures import iou
from PIL import Image

from sgdmix_hub.data.images import foreground_share
from sgdmix_hub.method.masks import CUT, CUT_AT, centred, predicted_cut, share_of
from sgdmix_hub.method.saliency.segmentation import MaskFunctionSource, centred_mask

SIDE = 96


def disc(side=SIDE):
    y, x = np.mgrid[:side, :side]
    return (x - side / 2) ** 2 + (y - side / 2) ** 2 < (side / 4) ** 2


def predicted(seed, low, high, side=SIDE):
    """A soft disc between two levels, with noise, float32 in [0, 1]."""
    noise = np.random.default_rng(seed).normal(0, 0.02, (side, side))
    soft = cv2.GaussianBlur(disc(side).astype(np.float32), (0, 0), 0.02 * side)
    return np.clip(low + (high - low) * soft + noise, 0, 1).astype(np.float32)


@pytest.mark.parametrize("seed", range(8))
def test_a_centred_mask_is_above_one_half_where_the_prediction_is_above_its_cut(seed):
    rng = np.random.default_rng(seed)
    share = (rng.random((SIDE, SIDE)) ** rng.uniform(0.2, 5)).astype(np.float32)
    share[0, :2] = 0, 1
    moved, cut = centred(share), predicted_cut(share)
    assert moved.dtype == np.float32 and 0 < cut <= CUT
    assert np.array_equal(moved > CUT, share > cut)
    assert moved[0].tolist()[:2] == [0, 1] and moved.min() == 0 and moved.max() == 1
    order = np.argsort(share, axis=None)
    assert (np.diff(moved.ravel()[order]) >= 0).all()


@pytest.mark.parametrize("level", [0.55, 0.7, 1.0])
def test_an_object_that_the_model_is_not_sure_of_is_cut_out_whole(level):
    share = predicted(1, 0.03, level)
    assert iou(centred(share) > CUT, disc()) > 0.93
    unsure = share.copy()
    unsure[:, SIDE // 2 :] *= 0.45 / level
    assert iou(centred(unsure) > CUT, disc()) >= iou(unsure > CUT, disc())


@pytest.mark.parametrize("share", [disc(), ~disc(), disc() & False, disc() | True])
def test_a_hard_mask_stays_as_it_is(share):
    assert np.array_equal(centred(share.astype(np.float32)), share)


def test_a_mask_that_is_high_everywhere_is_whole_and_a_faint_one_shows_nothing():
    assert (centred(predicted(0, 0.7, 0.9)) > CUT).all()
    assert not (centred(predicted(0, 0.0, 0.03)) > CUT).any()
    for level in (0.1, 0.3, CUT):  # two levels would be trusted, whatever their height
        faint = np.where(disc(), level, 0).astype(np.float32)
        assert not (centred(faint) > CUT).any()


def test_a_large_mask_is_cut_where_it_is_cut_when_it_is_small():
    large = predicted(3, 0.05, 0.8, 3 * CUT_AT)
    small = cv2.resize(large, (CUT_AT, CUT_AT), interpolation=cv2.INTER_AREA)
    assert predicted_cut(large) == predicted_cut(small)
    assert centred(large).shape == large.shape


@pytest.mark.parametrize("side", [64, 256, 700])
def test_a_stored_prediction_is_cut_like_the_functions_mask_at_any_size(side):
    share = predicted(5, 0.02, 0.35, side)
    surest = slice(side * 7 // 16, side * 9 // 16)  # the rest is below one half
    share[surest, surest] = 0.9
    stored = Image.fromarray(np.rint(255 * share).astype(np.uint8))
    image = Image.new("RGB", (256, 256), "grey")
    (found,) = MaskFunctionSource(lambda image: stored, "stretch").found([image], None, None)
    share = share_of(centred_mask(stored), image.size, None, 256, "stretch")
    assert iou(share > CUT, found.mask) > 0.98 and iou(found.mask, disc(256)) > 0.93
    assert (foreground_share(stored) > CUT).mean() < 0.1 * disc().mean()
