"""The stages in order on single rows: what is kept of the source, and which rows cannot be made."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from sgdmix_hub.adapters import read_adapter
from sgdmix_hub.config import AugmentSettings, apply_preset
from sgdmix_hub.pins import resolve
from sgdmix_hub.pipeline import SGDMixPipeline, UnusableRow
from sgdmix_hub.refine import Refiner


@pytest.fixture(scope="module")
def settings(birds, adapter, tiny_base):
    return apply_preset(
        AugmentSettings(
            dataset_name=str(birds),
            output_dir="unused",
            adapter=str(adapter),
            saliency_method="spectral-residual",
            strength=0.5,
            num_inference_steps=4,
            guidance_scale=1.0,
            resolution=32,
            batch_size=2,
        )
    )


@pytest.fixture(scope="module")
def refiner(settings, adapter, tiny_base):
    import torch

    return Refiner(resolve(str(tiny_base)), read_adapter(resolve(str(adapter))), settings, torch.device("cpu"))


@pytest.fixture(scope="module")
def pair():
    """Two images of other sizes and their maps: a bright square left of the middle, and one right of it."""
    rng = np.random.default_rng(0)
    images, maps = [], []
    for left in (12, 36):
        images.append(Image.fromarray(rng.integers(0, 256, (48, 40, 3), dtype=np.uint8)))
        saliency_map = np.full((64, 64), 0.1, np.float16)
        saliency_map[20:44, left : left + 16] = 1.0
        maps.append(saliency_map)
    return images, maps


def mixture_of(pipeline, pair):
    (source, target), (source_map, target_map) = pair
    return pipeline.mix(pipeline.mask(source, source_map), pipeline.mask(target, target_map))


def test_a_mixture_is_eq_9_and_10_at_the_runs_resolution(settings, pair):
    mixture = mixture_of(SGDMixPipeline(settings, refiner=None), pair)
    union = mixture.source.mask | mixture.target.mask
    assert mixture.mixed.shape == (32, 32, 3)
    assert np.array_equal(mixture.mixed, np.where(union[..., None], mixture.source.pixels, mixture.target.pixels))
    assert mixture.foreground_area == union.mean() and 0 < mixture.foreground_area < 1


def test_a_pasted_foreground_is_the_sources_to_the_pixel_and_the_rest_is_refined(settings, refiner, pair):
    pasting = SGDMixPipeline(dataclasses.replace(settings, paste_foreground=True), refiner)
    mixture = mixture_of(pasting, pair)
    (pasted,) = pasting.refine([mixture], [0], [7])
    (refined,) = SGDMixPipeline(settings, refiner).refine([mixture], [0], [7])
    foreground = mixture.source.mask
    assert np.array_equal(pasted[foreground], mixture.source.pixels[foreground])
    assert np.array_equal(pasted[~foreground], refined[~foreground])
    assert not np.array_equal(refined[foreground], mixture.source.pixels[foreground])


def test_without_a_refiner_the_mixture_is_the_image(settings, pair):
    pipeline = SGDMixPipeline(settings, refiner=None)
    mixture = mixture_of(pipeline, pair)
    (made,) = pipeline.refine([mixture], [0], [7])
    assert np.array_equal(made, mixture.mixed)


def test_a_source_without_foreground_is_unusable(settings, pair):
    pipeline = SGDMixPipeline(settings, refiner=None)
    (source, target), (_, target_map) = pair
    blank = np.zeros((64, 64), np.float16)
    with pytest.raises(UnusableRow, match="no foreground"):
        pipeline.mix(pipeline.mask(source, blank), pipeline.mask(target, target_map))
