"""The segmenter that is trained on a split's own pseudo masks."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import disc_on_texture, iou

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from parts.masks import self_trained
from parts.masks.self_trained import Segmenter, predicted_shares, train_segmenter

SIZE = 64


@pytest.fixture(autouse=True)
def smaller_images(monkeypatch):
    """A fourth of the pixels, so a fourth of the time."""
    monkeypatch.setattr(self_trained, "SIZE", SIZE)
    monkeypatch.setattr(self_trained, "BATCH_SIZE", 8)


def split(count, wrong=0.2):
    """Discs on textures, their true masks, and pseudo masks of which some are of something else."""
    rng = np.random.default_rng(0)
    images, true = zip(*(disc_on_texture(seed, SIZE)[:2] for seed in range(count)), strict=True)
    images, true = np.stack(images), np.stack(true)
    pseudo = true.copy()
    for row in rng.permutation(count)[: int(wrong * count)]:
        pseudo[row] = np.roll(true[row], (20, 20), (0, 1))
    return images, true, pseudo


@pytest.mark.slow
def test_it_mends_pseudo_masks_and_is_deterministic():
    images, true, pseudo = split(32)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    model = train_segmenter(images, pseudo, np.full(32, 0.8), seed=1, steps=40)
    assert torch.equal(before, torch.get_rng_state())
    shares = predicted_shares(model, images)
    assert shares.shape == true.shape and shares.dtype == np.float32
    assert np.mean([iou(*pair) for pair in zip(shares > 0.5, true, strict=True)]) > 0.8
    first, second = (
        predicted_shares(
            train_segmenter(images, pseudo, np.full(32, 0.8), seed=1, steps=2), images[:2]
        )
        for _ in range(2)
    )
    assert np.array_equal(first, second)


def test_masks_that_nobody_trusts_train_nothing():
    images, _, pseudo = split(20)
    confidences = np.full(20, 0.9)
    confidences[5:] = 0.3
    assert train_segmenter(images, pseudo, confidences, seed=1, steps=2) is None


def test_the_network_is_small():
    assert sum(weights.numel() for weights in Segmenter().parameters()) < 600_000
