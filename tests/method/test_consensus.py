"""Robust background, the candidates that check each other, and the confidence of the best."""

import numpy as np
import pytest
from pictures import disc_on_texture, iou
from PIL import Image

from sgdmix_hub.method.confidence import WEIGHTS, confidence, evidence, overlap
from sgdmix_hub.method.outlines import small_lab, widen
from sgdmix_hub.method.saliency.consensus import (
    DILATION,
    candidates,
    consensus,
    consensus_mask,
)
from sgdmix_hub.method.saliency.robust_background import robust_background, superpixels
from sgdmix_hub.settings.saliency import SALIENCY_SOURCES


@pytest.mark.parametrize("seed", range(2))
def test_robust_background_is_high_on_the_object_and_low_on_the_border(seed):
    image, disc, _ = disc_on_texture(seed, 128)
    saliency_map = robust_background(image)
    assert saliency_map.dtype == np.float32 and saliency_map.min() == 0 and saliency_map.max() == 1
    assert iou(saliency_map > 0.5, disc) > 0.8
    assert np.array_equal(saliency_map, robust_background(image))


@pytest.mark.parametrize("shape", [(64, 64), (1, 1), (40, 90)])
def test_a_flat_image_has_no_salient_region(shape):
    assert not robust_background(np.full((*shape, 3), 77, np.uint8)).any()


def test_superpixels_partition_the_image():
    image, _, _ = disc_on_texture(0, 128)
    regions = superpixels(image)
    count = len(regions.colours)
    assert set(np.unique(regions.numbers)) == set(range(count))
    assert np.array_equal(regions.neighbours, regions.neighbours.T)
    assert not regions.neighbours.diagonal().any() and regions.neighbours.any(axis=1).all()
    border = np.concatenate([regions.numbers[0], regions.numbers[-1]])
    border = np.concatenate([border, regions.numbers[:, 0], regions.numbers[:, -1]])
    assert np.array_equal(np.flatnonzero(regions.on_border), np.unique(border))


def test_confidence_falls_for_a_mask_that_nothing_speaks_for():
    image, disc, _ = disc_on_texture(1, 256)
    lab = small_lab(image)
    corner = np.zeros_like(disc)
    corner[:40, :200] = True
    right = confidence(lab, disc, [disc, widen(disc, 0.01)], [disc])
    wrong = confidence(lab, corner, [disc, widen(disc, 0.01)], [disc])
    assert 0 <= wrong < 0.1 < 0.4 < right <= 1
    assert confidence(lab, np.zeros_like(disc), [disc]) == 0
    assert confidence(lab, np.ones_like(disc), [disc]) == 0
    assert confidence(lab, disc, [disc], [disc]) > confidence(lab, disc, [disc], [corner])


def test_evidence_names_what_has_a_weight():
    image, disc, _ = disc_on_texture(1, 256)
    seen = evidence(small_lab(image), disc, [disc, ~disc], [disc])
    assert list(seen) == list(WEIGHTS) and seen["frame"] == 0
    assert seen["agreement"] == 0.5 and seen["stability"] == 1
    alone = evidence(small_lab(image), disc, [])
    assert alone["agreement"] == 0 and alone["stability"] == 0
    assert overlap(disc, disc) == 1 and overlap(disc & False, disc & False) == 1


@pytest.mark.slow
def test_the_consensus_is_a_dilated_candidate_and_finds_the_object():
    image, disc, _ = disc_on_texture(2, 256)
    mask, trust = consensus(image)
    assert mask.shape == (256, 256) and mask.dtype == bool and iou(mask, disc) > 0.85
    assert 0.5 < trust <= 1
    found = candidates(image)
    assert len(found) <= 8 and all(one.any() and not one.all() for one in found.values())
    assert any(np.array_equal(mask, widen(one, DILATION)) for one in found.values())
    again, same = consensus_mask(Image.fromarray(image), "stretch")
    assert np.array_equal(mask, again) and same == trust


@pytest.mark.slow
def test_noise_and_flat_images_have_no_trusted_mask():
    flat = np.full((256, 256, 3), 90, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    for image in (flat, noise):
        assert consensus(image)[1] < SALIENCY_SOURCES["consensus"].trusted_from
    assert not consensus(flat)[0].any() and not candidates(flat)
