"""The masks benchmark: its curve of failures against coverage, its floor, and its pictures."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import mask_tones
import soft_confidence
import soft_cuts
from parts.masks.drawing import Shown, draw_coverage, draw_reliability, sheet
from parts.masks.grey import textured, without_colours
from parts.masks.logistic import logistic_weights
from parts.masks.photographs import Photograph
from parts.masks.scores import Judged, above_floor, curve, good_masks, reliability

from sgdmix_hub.method.saliency.foreground import FITTED

TRUST = np.array([0.9, 0.1, 0.5, 0.7])
FAILED = np.array([False, True, False, True])
SIZE = 20


def disc(radius):
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    return x * x + y * y < radius * radius


def test_the_curve_keeps_the_most_trusted_first():
    points = curve(TRUST, FAILED, ~FAILED)
    assert [point["coverage"] for point in points] == [0.25, 0.5, 0.75, 1.0]
    assert [point["floor"] for point in points] == [0.9, 0.7, 0.5, 0.1]
    assert [point["failures"] for point in points] == [0, 0.5, 0.3333, 0.5]
    assert all(round(point["failures"] + point["good"], 3) == 1 for point in points)


def test_reliability_says_what_masks_were_worth_at_their_confidence():
    judged = Judged(TRUST, np.where(FAILED, 0.4, 0.8), ~FAILED, np.arange(4))
    bins = reliability(judged.and_of(judged))
    assert [(of["from"], of["confidence"], of["masks"]) for of in bins] == [
        (0.0, 0.1, 2),
        (0.4, 0.5, 2),
        (0.6, 0.7, 2),
        (0.8, 0.9, 2),
    ]
    assert [of["good"][0] for of in bins] == [0, 1, 0, 1]
    assert [of["failures"][0] for of in bins] == [1, 0, 1, 0] and bins[0]["iou"][0] == 0.4


def test_a_good_mask_keeps_the_object():
    true = np.stack([disc(8)] * 3)
    masks = np.stack([disc(8), disc(7), disc(9.9)])  # exact, too small, too large
    assert good_masks(masks, true).tolist() == [True, False, False]


def test_masks_below_the_floor_are_neither_mixed_nor_targets():
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    rows = [Photograph("ordinary", str(number), image, disc(4), None, None) for number in range(4)]
    masks = np.stack([disc(4), ~disc(4), disc(4), disc(4)])
    left = above_floor(rows, masks, TRUST, 0.5)
    assert left["coverage"] == 0.75 and left["failures"][0] == 0 and left["usable"][0] == 1
    assert above_floor(rows, masks, TRUST, 0.0)["failures"][0] == 0.25


def test_the_pictures_are_drawn(tmp_path):
    image = np.full((SIZE, SIZE, 3), 90, np.uint8)
    left_out, mixed = (Shown(image, disc(5), 0.5, mixture) for mixture in (None, image))
    tall, short = sheet([left_out, mixed] * 2), sheet([mixed])
    assert tall.size[0] == short.size[0] and tall.size[1] > short.size[1]
    points = curve(TRUST, FAILED, ~FAILED)
    draw_coverage({"ordinary": points}, {"ordinary": 0.5}, tmp_path / "curve.png")
    bins = reliability(Judged(TRUST, TRUST, ~FAILED, np.arange(4)))
    draw_reliability({"photographs": bins, "birds": bins}, tmp_path / "bins.png")
    assert all(Image.open(tmp_path / name).size[0] > 300 for name in ("curve.png", "bins.png"))


def test_logistic_weights_are_those_that_made_the_shares():
    rng = np.random.default_rng(0)
    seen, weight = rng.normal(size=(400, 3)) * [1, 10, 0.1], rng.random(400)
    share = 1 / (1 + np.exp(-(seen @ [1.0, -0.2, 5.0] - 0.5)))
    weights, bias = logistic_weights(seen, share, weight, ridge=1e-6)
    assert weights == pytest.approx([1.0, -0.2, 5.0], rel=1e-3)
    assert bias == pytest.approx(-0.5, rel=1e-3)
    shrunk, _ = logistic_weights(seen, share, weight, ridge=100.0)
    assert (abs(shrunk) < abs(weights)).all()


def test_texture_takes_the_place_of_colour():
    rng = np.random.default_rng(0)
    image = np.full((64, 64, 3), 128, np.uint8)
    image[:, 32:] = rng.integers(0, 256, (64, 32, 1), np.uint8)
    row = Photograph("ordinary", "a", image, np.ones((64, 64), bool), None, None)
    grey = without_colours(row).image
    assert (grey == grey[..., :1]).all()
    spread = np.ptp(textured(row).image.astype(int), axis=2)
    assert spread[:, :100].max() <= 4 and spread[:, 160:].mean() > 20


def of_object(number, size=128):
    """A disc on noise, and its alpha: every third is a vague one along the border."""
    rng, radius = np.random.default_rng(number), 0.2 * size
    y, x = np.mgrid[:size, :size] - size / 2
    true = x * x + y * y < radius * radius
    image = rng.integers(0, 60, (size, size, 3), np.uint8)
    image[true] = (200, 40, 30)
    alpha = np.clip((radius - np.hypot(x, y)) / (3 + number % 5) + 0.5, 0, 1).astype(np.float32)
    if number % 3 == 0:
        alpha = np.clip((x / size + 0.6) * rng.uniform(0.8, 1.1), 0, 1).astype(np.float32)
    kind = ("ordinary", "hard")[number % 2]
    return Photograph(kind, str(number), image, true, None, alpha)


@pytest.mark.slow
def test_the_confidence_of_soft_masks_is_fitted_and_told():
    rows = [of_object(number) for number in range(24)]
    weights = dict.fromkeys((row.obj for row in rows), FITTED)
    masks = soft_confidence.masks_of(rows, weights)
    assert masks.there.all() and (masks.iou < 0.5).sum() == 8
    fitted = soft_confidence.fit(masks)
    for kind in ("ordinary", "hard"):
        best = (4 - 2) / 10  # of 12 masks, of which 4 fail, the 10 most trusted
        assert fitted["compared"]["frame and levels"][kind]["most trusted"] == best
    assert fitted["weights"]["frame"] < 0 < fitted["weights"]["levels"]
    told = soft_confidence.told(rows, masks)
    for kind in ("ordinary", "hard"):
        assert told[kind]["trusted"]["failures"][0] == 0
        assert told[kind]["every mask"]["failures"][0] == pytest.approx(1 / 3, abs=1e-4)
    assert "| frame and levels |" in soft_confidence.fit_table(fitted)
    assert "| hard, the mean inside |" in soft_confidence.told_table(told)


def cut_figures(usable, failures):
    return {kind: {"usable": (usable,), "failures": failures} for kind in soft_cuts.SETS}


def test_the_cut_that_is_taken_beats_one_half_clearly_and_without_more_failures():
    half = {"0.5": cut_figures(0.5, 5)}
    alike = half | {"Otsu": cut_figures(0.509, 5)}
    better = half | {"Otsu": cut_figures(0.52, 5), "0.5, dilated": cut_figures(0.525, 5)}
    failing = half | {"Otsu": cut_figures(0.6, 6)}
    not_judged = half | {soft_cuts.PACKAGES: cut_figures(0.9, 0)}
    taken = [soft_cuts.taken(of) for of in (alike, better, failing, not_judged)]
    assert taken == ["0.5", "Otsu", "0.5", "0.5"]


def test_hysteresis_keeps_the_parts_that_are_sure_somewhere():
    alpha = np.zeros((SIZE, SIZE), np.float32)
    alpha[2:5, 2:9] = alpha[12:15, 2:9] = 0.4
    alpha[3, 4] = 0.9
    kept = alpha > 0.3
    kept[12:] = False
    assert np.array_equal(soft_cuts.touching(0.3, 0.5)(alpha), kept)


def test_toned_copies_have_one_colour_for_every_grey_value():
    image = of_object(1, 64).image
    for tone in ("sepia", *mask_tones.TONES):
        copy = mask_tones.toned(image, tone)
        assert copy.shape == image.shape and copy.dtype == np.uint8
        assert (np.ptp(copy.astype(int), axis=2) > 4).mean() > 0.1
