"""An adapter trained on images at their own aspect ratio: each optimizer step has one shape."""

from collections import Counter

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from diffusers import AutoencoderKL
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_bases import build_sdxl
from trainings import adapter_settings, learned, train

from sgdmix_hub.data.images import buckets, frame_for, trained_geometry
from sgdmix_hub.data.splits import load_split
from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.bases.latents import LatentSpace
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.settings.data import DataSettings
from sgdmix_hub.training.adapter.batches import Latents, training_batches
from sgdmix_hub.training.adapter.dataset import DomainImages
from sgdmix_hub.training.adapter.latents import kept_latents
from sgdmix_hub.training.adapter.order import FrameOrder
from sgdmix_hub.training.share import Share

FRAMES = [(32, 32), (48, 24), (24, 48)]
SIZES = [(40, 40), (96, 48), (30, 60), (90, 46), (64, 60), (50, 99), (33, 33)]
CPU = torch.device("cpu")


def uniform(random):
    return torch.randint(1000, (), generator=random)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Folder dataset of seven images of two classes, at several aspect ratios."""
    random = np.random.default_rng(0)
    images = [
        Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
        for width, height in SIZES
    ]
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["kite", "tern"])})
    labels = [number % 2 for number in range(len(SIZES))]
    folder = tmp_path_factory.mktemp("wide") / "birds"
    (folder / "data").mkdir(parents=True)
    rows = Dataset.from_dict({"image": images, "label": labels}, features=features)
    rows.to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    return folder


@pytest.fixture(scope="module")
def split(wide):
    return load_split(
        DataSettings(dataset_name=str(wide), output_dir="unused"), resolve(str(wide), "dataset")
    )


@given(
    frames=st.lists(st.sampled_from(FRAMES), min_size=1, max_size=30),
    batch=st.integers(1, 9),
    seed=st.integers(0, 2**32),
    epoch=st.integers(0, 20),
)
def test_a_step_has_one_frame_and_an_epoch_shows_every_row(frames, batch, seed, epoch):
    order = FrameOrder(np.arange(len(frames)) + 5, frames, seed, batch)
    first = epoch * order.length
    shown = [order[number] for number in range(first, first + order.length)]
    for start in range(0, len(shown), batch):
        assert len({frames[place] for place in shown[start : start + batch]}) == 1
    times = Counter(shown)
    assert set(times) == set(range(len(frames)))
    assert order.length < len(frames) + len(set(frames)) * batch
    for frame in set(frames):  # no row is shown again before all of its frame were
        counts = [times[place] for place, of_row in enumerate(frames) if of_row == frame]
        assert max(counts) - min(counts) <= 1
    again = FrameOrder(np.arange(len(frames)), frames, seed, batch)
    assert [again[first + place] for place in reversed(range(order.length))] == shown[::-1]


@pytest.fixture(scope="module")
def batches_of(split, tiny_base, wide):
    vae = AutoencoderKL.from_pretrained(tiny_base / "vae")
    common = {"dataset_name": str(wide), "output_dir": "unused", "metaclass": "bird"}

    def made(processes=1, batch=4, accumulation=1, rank=0, kept_in=None):
        share = Share(rank, processes, batch, accumulation)
        chosen = AdapterSettings(
            **common, resolution=32, resize="aspect-buckets", total_batch_size=share.total_batch
        )
        images = DomainImages(
            split, split.decodable(), chosen.seed, 32, chosen.resize, kept_in is None, 4
        )
        latents = Latents(vae, CPU, LatentSpace())
        if kept_in is not None:
            base = resolve(str(tiny_base))
            latents.kept = kept_latents(kept_in, chosen, images, base, latents.encode, 0, 1)
        return list(training_batches(chosen, images, [], latents, uniform, share, range(5)))

    return made


def test_processes_train_on_the_very_same_tensors_of_several_shapes(batches_of, split):
    whole = batches_of()
    parts = [batches_of(2, 1, 2, rank) for rank in (0, 1)]
    shapes = set()
    for step, one in enumerate(whole):
        frames = {frame_for(SIZES[row], 32, "aspect-buckets") for row in one.rows.tolist()}
        ((width, height),) = frames
        assert one.latents.shape == one.noise.shape == (4, 4, height // 4, width // 4)
        shapes.add(one.latents.shape)
        joined = [batch for part in parts for batch in part[2 * step : 2 * step + 2]]
        rows = {
            (row, *latents.flatten().tolist(), *noise.flatten().tolist())
            for batch in joined
            for row, latents, noise in zip(
                batch.rows.tolist(), batch.latents, batch.noise, strict=True
            )
        }
        assert rows == {
            (row, *latents.flatten().tolist(), *noise.flatten().tolist())
            for row, latents, noise in zip(one.rows.tolist(), one.latents, one.noise, strict=True)
        }
    assert len(shapes) > 1


def test_kept_latents_are_those_that_are_encoded_again(batches_of, tmp_path):
    for fresh, kept in zip(batches_of(), batches_of(kept_in=tmp_path), strict=True):
        assert torch.equal(fresh.latents, kept.latents) and torch.equal(fresh.noise, kept.noise)


def test_a_base_that_is_told_geometries_is_told_the_frames():
    for width, height in SIZES:
        frame = frame_for((width, height), 32, "aspect-buckets")
        assert frame in buckets(32)
        told = trained_geometry((width, height), 32, "aspect-buckets")
        assert told == (height, width, 0, 0, frame[1], frame[0])


@pytest.mark.slow
@pytest.mark.parametrize("family", ["stable-diffusion", "stable-diffusion-xl"])
def test_an_adapter_is_trained_on_several_shapes_with_its_latents_kept_or_not(
    family, wide, tiny_base, tmp_path
):
    base = tiny_base
    if family == "stable-diffusion-xl":
        base = tmp_path / "base"
        build_sdxl().save_pretrained(base, safe_serialization=True)
    common = {
        "resize": "aspect-buckets",
        "num_train_samples": 8,
        "checkpointing_steps": 2,
        "cache_latents": True,
    }
    whole = train(adapter_settings(wide, base, tmp_path / "whole", **common))
    half = adapter_settings(wide, base, tmp_path / "half", **common)
    train(half | {"cache_latents": False})
    assert learned(tmp_path / "half") == learned(whole)


def test_squares_of_prior_preservation_cannot_be_mixed_with_other_shapes():
    with pytest.raises(UserError, match="draws squares"):
        AdapterSettings(
            dataset_name="a/b",
            output_dir="out",
            metaclass="bird",
            resize="aspect-buckets",
            with_prior_preservation=True,
        ).validate()
