"""The candidates that check each other, and the confidence of the best."""

from io import BytesIO

import cv2
import numpy as np
import pytest
from pictures import disc_on_texture, iou
from PIL import Image

from sgdmix_hub.method.confidence import CONSENSUS, PREDICTED, confidence, evidence, two_levels
from sgdmix_hub.method.outlines import small_lab, widen
from sgdmix_hub.method.saliency.consensus import (
    CANDIDATES,
    DILATION,
    candidates,
    chance_map,
    consensus,
    consensus_mask,
)
from sgdmix_hub.settings.saliency import SALIENCY_SOURCES


def of_disc(seed):
    """A disc on texture: the image as Lab, the disc, and a map that knows it."""
    image, disc, _ = disc_on_texture(seed, 256)
    known = cv2.resize(disc.astype(np.float32), (64, 64), interpolation=cv2.INTER_AREA)
    return small_lab(image), disc, known


def test_confidence_falls_for_a_mask_that_nothing_speaks_for():
    lab, disc, known = of_disc(1)
    corner, scattered = np.zeros_like(disc), disc.copy()
    corner[:40, :200] = True
    scattered[8:120, 8:30] = True
    noise = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    right = confidence(lab, disc, known)
    assert 0 <= confidence(lab, corner, known) < 0.1 < 0.5 < right <= 1
    assert confidence(lab, disc, noise) < right
    assert confidence(lab, scattered, known) < right
    assert confidence(lab, disc & False, known) == confidence(lab, disc | True, known) == 0


def test_evidence_names_what_has_a_weight():
    lab, disc, known = of_disc(1)
    seen = evidence(lab, disc, known)
    assert list(seen) == list(CONSENSUS.weights) and set(seen) > set(PREDICTED.weights)
    assert (seen["frame"], seen["largest"]) == (0, 1)
    assert 0.8 < seen["levels"] <= 1 and 0.5 < seen["separation"] <= 1
    assert evidence(lab, ~disc, known)["frame"] == 1


def test_a_map_of_two_values_has_two_levels_and_a_constant_one_none():
    parted = np.arange(100).reshape(10, 10) < 30
    assert two_levels(parted.astype(np.float32), parted) == pytest.approx(1)
    assert two_levels(np.ones((10, 10), np.float32), parted) == 0
    assert two_levels(parted.astype(np.float32), parted | True) == 0
    ramp = np.linspace(0, 1, 100, dtype=np.float32).reshape(10, 10)
    assert two_levels(ramp, ramp > 0.5) == pytest.approx(0.75, abs=0.01)


@pytest.mark.slow
def test_the_consensus_is_a_dilated_candidate_and_finds_the_object():
    image, disc, _ = disc_on_texture(2, 256)
    mask, trust = consensus(image)
    assert mask.shape == (256, 256) and mask.dtype == bool and iou(mask, disc) > 0.85
    assert 0.5 < trust <= 1
    found = candidates(image, chance_map(image))
    assert set(found) <= set(CANDIDATES)
    assert all(one.any() and not one.all() for one in found.values())
    assert any(np.array_equal(mask, widen(one, DILATION)) for one in found.values())
    again, same = consensus_mask(Image.fromarray(image), "stretch")
    assert np.array_equal(mask, again) and same == trust


@pytest.mark.slow
def test_noise_and_flat_images_have_no_trusted_mask():
    flat = np.full((256, 256, 3), 90, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    for image in (flat, noise):
        assert consensus(image)[1] < SALIENCY_SOURCES["consensus"].trusted_from
    assert not consensus(flat)[0].any() and not candidates(flat, chance_map(flat))


@pytest.mark.slow
def test_no_mask_of_an_image_without_colours_is_trusted():
    image, _, _ = disc_on_texture(2, 256)
    photograph = Image.fromarray(image)
    grey = photograph.convert("L").convert("RGB")
    stored = BytesIO()
    grey.save(stored, "JPEG", quality=60)
    for colourless in (grey, Image.open(stored)):
        mask, trust = consensus_mask(colourless, "stretch")
        assert mask.shape == (256, 256) and trust == 0
    assert consensus_mask(photograph, "stretch")[1] > 0.5
