"""Superpixels, what is seen of them, and the chance of foreground."""

import cv2
import numpy as np
import pytest
from pictures import disc_on_texture, iou

from sgdmix_hub.method.saliency.foreground import FITTED, foreground_chance, like_coloured
from sgdmix_hub.method.saliency.model_free import barrier_distance, border_distances
from sgdmix_hub.method.saliency.region_features import manifold_ranking, region_features
from sgdmix_hub.method.saliency.regions import background_probability, distances, superpixels


def of_disc(seed=0):
    """A disc on texture, whether each superpixel is mostly disc, and the superpixels."""
    image, disc, _ = disc_on_texture(seed, 128)
    regions = superpixels(image)
    return image, regions.mean(disc.astype(float)) > 0.5, regions


def test_superpixels_partition_the_image_and_follow_its_edges():
    image, disc, _ = disc_on_texture(0, 128)
    regions = superpixels(image)
    count = len(regions.colours)
    assert set(np.unique(regions.numbers)) == set(range(count))
    assert regions.areas.sum() == pytest.approx(1)
    assert np.array_equal(regions.neighbours, regions.neighbours.T)
    assert not regions.neighbours.diagonal().any() and regions.neighbours.any(axis=1).all()
    for side, line in zip(
        regions.sides,
        (regions.numbers[0], regions.numbers[-1], regions.numbers[:, 0], regions.numbers[:, -1]),
        strict=True,
    ):
        assert np.array_equal(np.flatnonzero(side), np.unique(line))
    assert iou((regions.mean(disc.astype(float)) > 0.5)[regions.numbers], disc) > 0.9


def test_what_is_seen_parts_the_disc_from_its_ground():
    image, inside, regions = of_disc()
    colour = distances(regions.colours)
    first, second = manifold_ranking(regions, colour)
    probability = background_probability(regions, colour)
    assert first[inside].mean() > first[~inside].mean() + 0.3
    assert second[inside].mean() > second[~inside].mean() + 0.3
    assert probability[inside].mean() < probability[~inside].mean() - 0.3
    seen = region_features(cv2.resize(image, (256, 256)), regions)
    assert list(seen) == list(FITTED.regions)
    assert all(value.shape == inside.shape and np.isfinite(value).all() for value in seen.values())
    for name in ("barrier", "third_barrier", "second_side", "third_side", "nearest", "edge"):
        assert seen[name][inside].mean() > seen[name][~inside].mean()


def test_the_distances_are_to_the_border_that_they_name():
    lab = np.zeros((20, 20, 3), np.float32)
    lab[:, 10:] = 50  # the right half is like the right border
    distance = border_distances(lab)
    assert distance.shape == (4, 20, 20)
    assert distance[2, :, 15].min() > 10 * distance[3, :, 15].max()
    assert not barrier_distance(lab[..., 0]).any()


def test_like_coloured_is_a_mean_over_colour_and_place():
    lab = np.zeros((40, 40, 3), np.float32)
    lab[:, ::2, 0] = 80
    values = np.zeros((40, 40), np.float32)
    values[:20, ::2] = 1
    of_image, nearby = (like_coloured(lab, values, 5, cells) for cells in (1, 5))
    assert of_image[:, ::2] == pytest.approx(0.5, abs=0.01)
    assert of_image[:, 1::2] == pytest.approx(0, abs=0.01)
    assert nearby[:8, ::2].min() > 0.9 and nearby[-8:, ::2].max() < 0.1


@pytest.mark.parametrize("seed", range(2))
def test_the_chance_is_high_on_the_object_and_low_on_the_border(seed):
    image, disc, _ = disc_on_texture(seed, 256)
    chance = foreground_chance(image)
    assert chance.shape == (128, 128) and chance.dtype == np.float32
    assert chance.min() >= 0 and chance.max() <= 1
    assert iou(cv2.resize(chance, (256, 256)) > 0.5, disc) > 0.8
    assert np.array_equal(chance, foreground_chance(image))


@pytest.mark.parametrize("shape", [(64, 64), (40, 40)])
def test_a_flat_image_has_no_foreground(shape):
    assert not foreground_chance(np.full((*shape, 3), 77, np.uint8)).any()
