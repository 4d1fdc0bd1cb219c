"""Masks that a dataset brings: read as shares of foreground in [0, 1], cut at one half, at the
image's size.
"""

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from sgdmix_hub import augment
from sgdmix_hub.data.images import foreground_share
from sgdmix_hub.method.mixer import Mixer
from sgdmix_hub.method.saliency.model_free import mask_column_map
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.method import MethodSettings
from sgdmix_hub.settings.presets import apply_preset

SIDE = 512


def bird_with_crest(side=SIDE):
    """A disc with a crest of three pixels and a bill of one, bool."""
    y, x = np.mgrid[:side, :side]
    bird = (x - side // 2) ** 2 + (y - side // 2) ** 2 < (side // 5) ** 2
    bird[side // 8 : side // 2, side // 2 : side // 2 + 3] = True
    bird[side // 2, side // 2 : side - side // 8] = True
    return bird


def matte(bird):
    """The bird as a segmentation model gives it: nearly white, on a background of 0 to 2 of 255."""
    rng = np.random.default_rng(0)
    return Image.fromarray(
        np.where(bird, rng.integers(200, 256, bird.shape), rng.integers(0, 3, bird.shape)).astype(
            np.uint8
        )
    )


def mask_of(stored, **values):
    return masked(stored, **values).mask


def masked(stored, *, aspect=None, resolution=SIDE, size=(SIDE, SIDE), **values):
    settings = apply_preset(
        MethodSettings(strength=0.0, resolution=resolution, saliency_method="mask-column", **values)
    )
    mixer = Mixer(settings)
    image = Image.fromarray(
        np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)
    )
    saliency_map = mask_column_map(stored, settings.resize).astype(np.float16)
    return mixer.mask(image, saliency_map, aspect, stored)


@pytest.mark.parametrize("preset", ["paper", "recommended"])
def test_a_hard_mask_cuts_as_it_is_whatever_the_preset_makes_of_maps(preset):
    bird = bird_with_crest()
    assert np.array_equal(mask_of(Image.fromarray(np.uint8(bird) * 255), preset=preset), bird)


def test_the_grain_of_a_matte_is_background():
    bird = bird_with_crest()
    assert np.array_equal(mask_of(matte(bird)), bird)
    assert mask_column_map(matte(bird), "stretch")[0, 0] < 0.01


def test_parts_thinner_than_a_cell_of_the_map_survive_at_half_the_size():
    bird = bird_with_crest()
    mask = mask_of(Image.fromarray(np.uint8(bird) * 255), resolution=SIDE // 2)
    crest = mask[SIDE // 16 : SIDE // 4 - SIDE // 8, SIDE // 4 - 2 : SIDE // 4 + 4]
    assert crest.any(axis=1).all()
    true = bird.reshape(SIDE // 2, 2, SIDE // 2, 2).mean(axis=(1, 3)) > 0.5
    assert (mask & true).sum() / (mask | true).sum() > 0.98


def test_a_mask_is_cropped_with_its_image():
    bird = bird_with_crest()
    stored = Image.fromarray(np.uint8(bird) * 255)
    target = masked(stored, aspect=0.5)
    left, top, right, bottom = target.box
    assert (top, right - left, bottom) == (0, SIDE // 2, SIDE)
    cropped = np.asarray(
        Image.fromarray(bird[:, left:right]).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    )
    mask = target.mask
    assert cropped.any() and (mask & cropped).sum() / (mask | cropped).sum() > 0.97
    wide = Image.fromarray(np.pad(np.uint8(bird) * 255, ((0, 0), (SIDE // 2, SIDE // 2))))
    assert np.array_equal(mask_of(wide, resize="center-crop", size=(2 * SIDE, SIDE)), bird)


def test_a_mask_of_another_size_than_its_image_is_brought_to_it():
    bird = bird_with_crest(SIDE // 2)
    mask = mask_of(Image.fromarray(np.uint8(bird) * 255))
    true = np.kron(bird, np.ones((2, 2), bool))
    assert (mask & true).sum() / (mask | true).sum() > 0.98


def in_colours(bird):
    image = Image.fromarray(np.uint8(bird)).convert("P")
    image.putpalette([0, 0, 0, 128, 0, 0])
    return image


MODES = {
    "black and white": lambda bird: Image.fromarray(bird),
    "zeros and ones": lambda bird: Image.fromarray(np.uint8(bird)),
    "bytes": lambda bird: Image.fromarray(np.uint8(bird) * 255),
    "a palette of segments": in_colours,
    "a palette of greys": lambda bird: Image.fromarray(np.uint8(bird) * 255).quantize(4),
    "16 bits": lambda bird: Image.fromarray(np.uint16(bird) * 65535),
    "32 bits": lambda bird: Image.fromarray(np.int32(bird) * 255),
    "floats": lambda bird: Image.fromarray(np.float32(bird)),
    "red": lambda bird: Image.fromarray(
        np.dstack([np.uint8(bird) * 255, *np.zeros((2, *bird.shape), np.uint8)])
    ),
    "with alpha": lambda bird: Image.fromarray(np.uint8(bird) * 255).convert("RGBA"),
}


@pytest.mark.parametrize("mode", MODES)
def test_masks_of_every_mode_are_read(mode):
    bird = bird_with_crest(64)
    share = foreground_share(MODES[mode](bird))
    assert share.dtype == np.float32
    assert np.array_equal(share > 0.5, bird)
    assert set(np.unique(share)) <= {0.0, 1.0}


def test_half_shares_stay_shares_and_numbers_that_are_none_are_background():
    assert np.allclose(foreground_share(Image.fromarray(np.full((4, 4), 51, np.uint8))), 0.2)
    values = np.array([[np.nan, np.inf, -np.inf, -3.0, 0.75, 1.0]], np.float32)
    assert foreground_share(Image.fromarray(values)).tolist() == [[0, 0, 0, 0, 0.75, 1]]


@pytest.mark.slow
def test_a_generation_keeps_exactly_what_the_masks_of_its_dataset_show(tmp_path):
    rng = np.random.default_rng(0)
    rows, birds = {"image": [], "label": [], "mask": []}, []
    for number in range(6):
        bird = np.roll(bird_with_crest(64), int(rng.integers(-8, 8)), axis=1)
        birds.append(bird)
        rows["image"].append(Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)))
        rows["mask"].append(matte(bird))
        rows["label"].append(number % 2)
    features = Features(
        image=ImageFeature(), label=ClassLabel(names=["kite", "tern"]), mask=ImageFeature()
    )
    (tmp_path / "birds").mkdir()
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "birds" / "train.parquet")
    for selection in ("l2", "novel-background"):
        settings = AugmentSettings(
            dataset_name=str(tmp_path / "birds"),
            output_dir=str(tmp_path / selection),
            preset="recommended",
            saliency_method="mask-column",
            mask_column="mask",
            selection_method=selection,
            strength=0.0,
            resolution=64,
        )
        augment.main(settings)
        (shard,) = (tmp_path / selection / "repo" / "data").glob("*.parquet")
        for row in pq.read_table(shard).to_pylist():
            assert row["foreground_area"] == pytest.approx(
                birds[row["source_index"]].mean(), abs=1e-6
            )
