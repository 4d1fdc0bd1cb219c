"""What an epoch of a classifier's training shows, and that the docs name every setting."""

import dataclasses
import re

import pytest
import torch
from generations import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from sgdmix_hub.data.splits import load_split
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.preprocessing import Preprocessing
from sgdmix_hub.settings.data import DataSettings
from sgdmix_hub.settings.training import ClassifierSettings, TrainingSettings
from sgdmix_hub.training.classifier.dataset import TrainingImages


@pytest.fixture(scope="module", params=["crops", "randaugment", "resized-crops"])
def images(request, birds):
    """The training images of the birds, augmented at random."""
    split = load_split(
        DataSettings(dataset_name=str(birds), output_dir="unused"), resolve(str(birds), "dataset")
    )
    transform = Preprocessing(32, 32, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "rgb").training(
        request.param
    )
    return TrainingImages(split, split.decodable(), transform, None, 0.0, seed=3, total_batch=6)


@pytest.mark.slow
@given(
    epoch=st.integers(0, 1000),
    position=st.integers(0, 23),
    others=st.lists(st.integers(0, 23), max_size=4),
)
@settings(max_examples=50)
def test_a_crop_is_a_function_of_epoch_and_position(images, epoch, position, others):
    """Whatever was loaded before, and without touching the random numbers of the process that
    loads.
    """
    images.epoch = epoch
    first = images[position]["pixel_values"]
    for other in others:
        images[other]
    torch.manual_seed(len(others))
    before = torch.get_rng_state()
    assert torch.equal(images[position]["pixel_values"], first)
    assert torch.equal(torch.get_rng_state(), before)
    images.epoch = epoch + 1
    assert not torch.equal(images[position]["pixel_values"], first)


@pytest.mark.slow
def test_workers_crop_as_the_process_itself_does(images):
    def loaded(epoch, workers):
        images.epoch = epoch
        return torch.cat(
            [
                batch["pixel_values"]
                for batch in DataLoader(images, batch_size=5, num_workers=workers)
            ]
        )

    for epoch in range(2):
        assert torch.equal(loaded(epoch, 0), loaded(epoch, 2))
    assert not torch.equal(loaded(0, 0), loaded(1, 0))


def test_the_page_on_training_names_every_setting_of_a_classifier():
    page = (ROOT / "docs" / "training.md").read_text()
    own = {field.name for field in dataclasses.fields(ClassifierSettings)} - {
        field.name for field in dataclasses.fields(TrainingSettings)
    }
    left_out = {"from_scratch", "synthetic_config_name"}
    assert {name for name in own if not re.search(rf"`(--)?{name}\b|--{name}\b", page)} == left_out
