"""Samples: which image, mirrored or not, under which noise, is a function of (seed, number),
whoever asks and from whichever step on.
"""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from sgdmix_hub.data.splits import load_split
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.bases.latents import LatentSpace
from sgdmix_hub.seeds import sample_seed
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.settings.data import DataSettings
from sgdmix_hub.training.adapter.batches import Latents, training_batches
from sgdmix_hub.training.adapter.dataset import ClassImages, DomainImages, draw_noise
from sgdmix_hub.training.adapter.order import SampleOrder
from sgdmix_hub.training.share import Share

SHAPE = (4, 8, 8)
TIMESTEPS = 1000
seeds, numbers = st.integers(0, 2**32), st.integers(0, 10**6)
sizes = st.integers(1, 6)


def uniform(random):
    return torch.randint(TIMESTEPS, (), generator=random)


@pytest.fixture(scope="module")
def split(birds):
    return load_split(
        DataSettings(dataset_name=str(birds), output_dir="unused"), resolve(str(birds), "dataset")
    )


# ---- the order ----


@given(seed=seeds, count=st.integers(1, 40), epoch=st.integers(0, 50))
def test_every_epoch_shows_each_row_once(seed, count, epoch):
    order = SampleOrder(np.arange(count) + 7, seed)
    assert sorted(order[number] for number in range(epoch * count, (epoch + 1) * count)) == list(
        range(count)
    )


@pytest.mark.slow
@given(
    seed=seeds,
    count=st.integers(1, 20),
    asked=st.lists(st.integers(0, 500), min_size=1, max_size=30),
)
def test_the_order_is_a_function_of_seed_and_number_alone(seed, count, asked):
    """However it is asked: a loader's workers see every other number, a resumed training the last
    ones alone.
    """
    order = SampleOrder(np.arange(count), seed)
    before = [order[number] for number in range(max(asked) + 1)]
    assert [order[number] for number in asked] == [before[number] for number in asked]
    assert [SampleOrder(np.arange(count), seed)[number] for number in asked] == [
        before[number] for number in asked
    ]


def test_orders_of_epochs_and_seeds_are_unrelated():
    """Each image follows each other one about equally often: no epoch is a rotation of the one
    before.
    """
    count, epochs = 6, 600
    order = SampleOrder(np.arange(count), 0)
    shown = np.array([order[number] for number in range(count * epochs)]).reshape(epochs, count)
    # Of 6! = 720 orders; 600 draws with replacement show 407 of them on average.
    assert len({tuple(row) for row in shown}) > 0.5 * 720
    pairs = np.zeros((count, count))
    for row in shown:
        for first, second in pairwise(row):
            pairs[first, second] += 1
    assert stats.chisquare(pairs[~np.eye(count, dtype=bool)]).pvalue > 1e-4
    other = SampleOrder(np.arange(count), 1)
    assert np.mean([order[number] == other[number] for number in range(count * epochs)]) < 0.25


# ---- who takes which sample ----


@given(processes=sizes, batch=sizes, accumulation=sizes, step=st.integers(0, 1000))
def test_an_optimizer_step_has_the_same_samples_however_they_are_spread(
    processes, batch, accumulation, step
):
    shares = [Share(rank, processes, batch, accumulation) for rank in range(processes)]
    taken = [
        number
        for share in shares
        for numbers in share.batches(step, step + 1)
        for number in numbers
    ]
    total = processes * batch * accumulation
    assert [share.total_batch for share in shares] == [total] * processes
    assert sorted(taken) == list(range(step * total, (step + 1) * total))
    assert all(
        len(numbers) == batch for share in shares for numbers in share.batches(step, step + 1)
    )
    assert all(len(list(share.batches(step, step + 1))) == accumulation for share in shares)


@given(
    rank=st.integers(0, 5),
    processes=sizes,
    batch=sizes,
    accumulation=sizes,
    last=st.integers(0, 20),
    first=st.integers(0, 20),
)
def test_a_share_that_begins_later_is_the_tail_of_one_that_begins_at_once(
    rank, processes, batch, accumulation, last, first
):
    share = Share(min(rank, processes - 1), processes, batch, accumulation)
    whole = list(share.batches(0, last))
    assert list(share.batches(first, last)) == whole[min(first, last) * accumulation :]


# ---- what is drawn for a sample ----


@given(seed=seeds, asked=st.lists(numbers, min_size=1, max_size=4), flip=st.booleans())
@settings(max_examples=30)
def test_noise_is_a_function_of_seed_and_number_alone(seed, asked, flip):
    """Not of the batch around it, and drawing it leaves the process's own random numbers alone."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    together = draw_noise(seed, asked, SHAPE, uniform, flip)
    assert torch.equal(torch.get_rng_state(), before)
    for row, number in enumerate(asked):
        alone = draw_noise(seed, [number], SHAPE, uniform, flip)
        for field in dataclasses.fields(alone):
            assert torch.equal(getattr(alone, field.name)[0], getattr(together, field.name)[row])


def test_no_two_samples_share_their_noise():
    found = {sample_seed(seed, number) for seed in range(5) for number in range(1500)}
    assert len(found) == 5 * 1500 and all(0 <= value < 2**63 for value in found)


def test_mirrored_only_when_asked_with_all_else_the_same():
    with_flip, without = (
        draw_noise(0, list(range(50)), SHAPE, uniform, flip) for flip in (True, False)
    )
    assert not without.mirrored.any() and with_flip.mirrored.any()
    for name in ("posterior", "diffusion", "timesteps"):
        assert torch.equal(getattr(with_flip, name), getattr(without, name))


def test_draws_have_the_distributions_they_should():
    """Half mirrored, timesteps uniform, both noises standard normal, and none of it correlated; the
    seed is fixed.
    """
    count = 2000
    noise = draw_noise(1, list(range(count)), (1, 2, 2), uniform, True)
    assert stats.binomtest(int(noise.mirrored.sum()), count).pvalue > 0.01
    assert stats.kstest((noise.timesteps.numpy() + 0.5) / TIMESTEPS, "uniform").pvalue > 0.01
    assert noise.timesteps.min() >= 0 and noise.timesteps.max() < TIMESTEPS
    posterior, diffusion = noise.posterior.flatten(1).numpy(), noise.diffusion.flatten(1).numpy()
    for values in (posterior, diffusion):
        assert stats.kstest(values.ravel(), "norm").pvalue > 0.01
    columns = np.column_stack([noise.mirrored, noise.timesteps, posterior, diffusion])
    correlations = np.corrcoef(columns, rowvar=False) - np.eye(columns.shape[1])
    assert np.abs(correlations).max() < 4.5 / np.sqrt(count)
    neighbours = np.corrcoef(columns[:-1].T, columns[1:].T)[: columns.shape[1], columns.shape[1] :]
    assert np.abs(neighbours).max() < 4.5 / np.sqrt(count)


# ---- images ----


def test_a_sample_shows_the_image_of_its_row_in_the_range_of_the_autoencoder(split):
    images = DomainImages(split, split.subset, seed=3, resolution=16, resize="center-crop")
    for number in (0, 1, 24, 100):
        item = images[number]
        row = item["row"]
        expected = split.image(row).resize((16, 16), Image.Resampling.BICUBIC)
        np.testing.assert_allclose(
            item["pixels"].permute(1, 2, 0).numpy(), np.asarray(expected) / 127.5 - 1, atol=1e-6
        )
        assert item["label"] == split.labels[row] and item["number"] == number
    undecoded = DomainImages(split, split.subset, 3, 16, "center-crop", decoded=False)
    assert [undecoded[n]["row"] for n in range(30)] == [images[n]["row"] for n in range(30)]
    assert undecoded[0]["pixels"].numel() == 0


@pytest.fixture(scope="module")
def class_image_paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("class_images")
    paths = [folder / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        Image.new("RGB", (32, 32), (40 * number, 0, 255)).save(path)
    return paths


def test_class_images_are_shown_in_turn_under_no_class(class_image_paths):
    images = ClassImages(class_image_paths, seed=0, label=4)
    for epoch in range(3):
        shown = [images[number] for number in range(3 * epoch, 3 * epoch + 3)]
        assert sorted(round((item["pixels"][0, 0, 0].item() + 1) * 127.5) for item in shown) == [
            0,
            40,
            80,
        ]
        assert {item["label"] for item in shown} == {4}


# ---- whole batches ----


@pytest.fixture(scope="module")
def batches_of(split, tiny_base, birds, class_image_paths):
    """The batches of a share of three optimizer steps with eight samples each, from a step on, with
    prior preservation.
    """
    vae = AutoencoderKL.from_pretrained(tiny_base / "vae")
    common = {
        "dataset_name": str(birds),
        "output_dir": "unused",
        "metaclass": "bird",
        "resolution": 32,
    }

    def made(processes, batch, accumulation, rank=0, first_step=0, **more):
        share = Share(rank, processes, batch, accumulation)
        sizes = {"total_batch_size": share.total_batch, "prior_loss_weight": 0.25}
        chosen = AdapterSettings(**common | sizes | more)
        images = DomainImages(split, split.decodable(), chosen.seed, 32, "stretch")
        latents = Latents(vae, torch.device("cpu"), LatentSpace())
        steps = range(first_step, 3)
        return list(
            training_batches(chosen, images, class_image_paths, latents, uniform, share, steps)
        )

    return made


def step_of(batches, step, accumulation):
    """All samples of one optimizer step, as rows that can be compared, with their weights in the
    step's mean loss.
    """
    parts = []
    for batch in batches[step * accumulation : (step + 1) * accumulation]:
        columns = [
            batch.latents.flatten(1),
            batch.noise.flatten(1),
            batch.timesteps[:, None],
            batch.labels[:, None],
        ]
        parts.append(torch.cat([*columns, batch.weights[:, None] / accumulation], dim=1).float())
    return torch.cat(parts)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "batch", "accumulation"), [(1, 2, 4), (2, 4, 1), (4, 1, 2)])
def test_processes_and_accumulation_train_on_the_very_same_tensors(
    processes, batch, accumulation, batches_of
):
    """Latents, noise, timesteps, labels, and each sample's weight in the mean over processes."""
    one = batches_of(1, 8, 1)
    spread = [batches_of(processes, batch, accumulation, rank) for rank in range(processes)]
    for step in range(3):
        whole = step_of(one, step, 1)
        joined = torch.cat([step_of(batches, step, accumulation) for batches in spread])
        joined[:, -1] /= processes
        assert whole.shape == joined.shape and len(whole) == 16
        assert sorted(whole.tolist()) == sorted(joined.tolist())
        torch.testing.assert_close(whole[:, -1].sum(), torch.tensor(1.25))


def test_batches_from_a_step_on_are_the_tail_of_all(batches_of):
    whole, tail = batches_of(2, 2, 2, rank=1), batches_of(2, 2, 2, rank=1, first_step=2)
    assert len(whole) == 6 and len(tail) == 2
    for expected, found in zip(whole[-2:], tail, strict=True):
        assert expected.seeds == found.seeds
        for name in ("latents", "noise", "timesteps", "labels", "weights"):
            assert torch.equal(getattr(expected, name), getattr(found, name))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed",
    [{"dataloader_num_workers": 2}],
    ids=lambda changed: next(iter(changed)),
)
def test_batches_are_the_same_bits_whoever_loads_them(changed, batches_of):
    for expected, found in zip(batches_of(1, 4, 1), batches_of(1, 4, 1, **changed), strict=True):
        for name in ("latents", "noise", "timesteps", "labels", "weights"):
            assert torch.equal(getattr(expected, name), getattr(found, name))
