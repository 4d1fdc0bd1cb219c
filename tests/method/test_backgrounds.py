"""Background features: what they describe, what they must not see, and their store."""

import dataclasses

import numpy as np
import pytest
import scipy.ndimage
import skimage.color
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from PIL import Image
from rowstores import in_two_processes, many_rows

from sgdmix_hub.data.images import aspect_box
from sgdmix_hub.data.splits import load_split
from sgdmix_hub.generation import row_blocks
from sgdmix_hub.generation.background_features import compute_backgrounds
from sgdmix_hub.generation.saliency_maps import compute_maps
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.method.backgrounds import MARGIN, SIZE, background_box, background_features
from sgdmix_hub.method.masks import foreground_mask, widen
from sgdmix_hub.method.mixer import Mixer
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.method import MethodSettings
from sgdmix_hub.settings.presets import apply_preset

CPU = torch.device("cpu")
HALF = 8  # features of the upper half, then those of the lower


def scene(seed):
    """A picture of noise and an elliptic foreground in its middle."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    mask = ((y - rng.uniform(24, 40)) / rng.uniform(5, 16)) ** 2 + (
        (x - rng.uniform(24, 40)) / rng.uniform(5, 16)
    ) ** 2 < 1
    smooth = scipy.ndimage.gaussian_filter(rng.random((SIZE, SIZE, 3)), (2, 2, 0))
    return np.uint8((smooth - smooth.min()) / np.ptp(smooth) * 255), mask


def features_by_scipy(pixels, shown):
    """Of one set of pixels: mean Lab, mean slopes of L, deviation of Lab; by scikit-image and
    SciPy.
    """
    lab = skimage.color.rgb2lab(pixels)
    slopes = [
        np.abs(scipy.ndimage.sobel(lab[..., 0], axis, mode="mirror"))[shown].mean()
        for axis in (1, 0)
    ]
    return [*lab[shown].mean(axis=0), *slopes, *lab[shown].std(axis=0)]


@pytest.mark.parametrize("seed", range(5))
def test_features_are_means_and_deviations_of_each_half_of_the_background(seed):
    pixels, mask = scene(seed)
    features = background_features(pixels, mask)
    assert features.shape == (2 * HALF,) and features.dtype == np.float32
    background = ~widen(mask, MARGIN)
    halves = [background.copy(), background.copy()]
    halves[0][SIZE // 2 :] = halves[1][: SIZE // 2] = False
    expected = np.concatenate([features_by_scipy(pixels, half) for half in halves])
    np.testing.assert_allclose(features, expected, rtol=2e-3, atol=0.05)


@given(seed=st.integers(0, 1000))
@settings(max_examples=30)
def test_the_foregrounds_colours_play_no_part(seed):
    pixels, mask = scene(seed)
    other = pixels.copy()
    other[mask] = np.random.default_rng(seed).integers(0, 256, (mask.sum(), 3))
    assert np.array_equal(background_features(other, mask), background_features(pixels, mask))


@given(seed=st.integers(0, 1000), channel=st.integers(0, 2), lower=st.booleans())
@settings(max_examples=30)
def test_a_half_of_the_background_is_seen_in_its_own_features(seed, channel, lower):
    """Far enough from the other half: slopes look one row across."""
    pixels, mask = scene(seed)
    other = pixels.copy()
    half = other[SIZE // 2 + 2 :] if lower else other[: SIZE // 2 - 2]
    half[..., channel] //= 3
    before, after = (background_features(image, mask).reshape(2, HALF) for image in (pixels, other))
    assert np.array_equal(before[1 - lower], after[1 - lower])
    assert np.abs(before[int(lower)] - after[int(lower)]).max() > 0.5


def test_without_background_there_are_zeros_and_a_covered_half_is_told_by_the_other():
    pixels, mask = scene(0)
    everything = np.ones_like(mask)
    assert not background_features(pixels, everything).any()
    upper = everything.copy()
    upper[SIZE // 2 + 8 :] = False
    features = background_features(pixels, upper).reshape(2, HALF)
    assert np.array_equal(features[0], features[1]) and features.any()


# ---- the store ----


def background_settings(dataset, output, **values):
    chosen = {
        "saliency_method": "spectral-residual",
        "strength": 0.0,
        "resolution": 32,
        "selection_method": "novel-background",
    } | values
    return apply_preset(
        AugmentSettings(dataset_name=str(dataset), output_dir=str(output), **chosen)
    )


def backgrounds_of(asked, rank=0, world_size=1):
    split = load_split(asked, resolve(asked.dataset_name, repo_type="dataset"))
    maps = compute_maps(asked, split, None, rank, world_size, CPU)
    return split, maps, compute_backgrounds(asked, split, maps, rank, world_size)


def in_small_blocks(asked, rank, world_size):
    row_blocks.BLOCK_ROWS = 16  # in this process, whichever it is
    return backgrounds_of(asked, rank, world_size)


@pytest.mark.slow
@pytest.mark.parametrize("resize", ["stretch", "center-crop"])
def test_the_store_holds_the_features_of_every_usable_row(source_rows, resize, tmp_path):
    data = many_rows(tmp_path / "data", source_rows, 24, damaged=[5])
    asked = background_settings(data, tmp_path / "run", resize=resize, threshold_method="li")
    split, maps, backgrounds = backgrounds_of(asked)
    assert list(maps.unusable) == [5] and not backgrounds[5].any()
    assert backgrounds[split.subset].shape == (24, 2 * HALF)
    for row in (0, 7, 23):
        # The images are square, so both ways of resizing are Pillow's bicubic.
        pixels = np.asarray(split.image(row).resize((SIZE, SIZE), 3))
        expected = background_features(pixels, foreground_mask(pixels, maps[row], asked))
        assert np.array_equal(backgrounds[row], expected) and expected.any()


@pytest.mark.slow
def test_two_processes_make_the_same_store(source_rows, tmp_path, monkeypatch):
    monkeypatch.setattr(row_blocks, "BLOCK_ROWS", 16)
    data = many_rows(tmp_path / "data", source_rows, 40, damaged=[20])
    alone = backgrounds_of(background_settings(data, tmp_path / "one"))[2]
    asked = background_settings(data, tmp_path / "two")
    split, _, together = in_two_processes(in_small_blocks, asked)
    assert np.array_equal(alone[split.subset], together[split.subset])
    ones, twos = (
        {
            path.name: (path / "values.npy").read_bytes()
            for path in (tmp_path / name / "state" / "saliency").iterdir()
        }
        for name in ("one", "two")
    )
    assert ones == twos and len(ones) == 2


@pytest.mark.slow
def test_another_mask_has_another_store_and_another_draw_has_not(source_rows, tmp_path):
    asked = background_settings(many_rows(tmp_path / "data", source_rows, 12), tmp_path / "run")

    def stores(**values):
        backgrounds_of(dataclasses.replace(asked, **values))
        return {path.name for path in (tmp_path / "run" / "state" / "saliency").iterdir()}

    first = stores()
    assert (
        stores(num_candidates=3, seed=5, feather=0.1, num_variants=2, max_target_reuse=1) == first
    )
    known = first
    for values in (
        {"threshold_method": "yen"},
        {"mask_dilation": 0.1},
        {"fill_holes": True},
        {"mask_refinement": "none"},
    ):
        now = stores(**values)
        assert len(now - known) == 1
        known = now


# ---- the crop that shows the most background ----

sides = st.integers(1, 400)


@given(
    foreground=numpy_strategies.arrays(bool, (9, 7)),
    width=sides,
    height=sides,
    aspect=st.floats(0.2, 5),
)
@settings(max_examples=60)
def test_a_background_box_lies_in_the_image_and_has_its_aspect(foreground, width, height, aspect):
    left, top, right, bottom = background_box(foreground, width, height, aspect)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    largest = aspect_box(width, height, aspect)
    assert (right - left, bottom - top) == (largest[2] - largest[0], largest[3] - largest[1])


def test_without_foreground_the_box_is_the_largest_in_the_middle():
    for width, height, aspect in ((300, 200, 1.0), (200, 301, 1.5), (64, 64, 1.0)):
        nothing = np.zeros((32, 32), bool)
        assert background_box(nothing, width, height, aspect) == aspect_box(width, height, aspect)


def test_the_box_leaves_out_what_it_can_of_the_foreground():
    """An object at the left of a wide image, and at the bottom of a tall one."""
    foreground = np.zeros((64, 64), bool)
    foreground[10:50, :20] = True
    left, top, right, bottom = background_box(foreground, 200, 100, 1.0)
    assert (top, right - left, bottom) == (0, 100, 100) and 62 <= left < 80
    left, top, right, bottom = background_box(foreground.T[::-1], 100, 200, 1.0)
    assert (left, right, bottom - top) == (0, 100, 100) and 20 < top <= 38


def test_a_target_is_cropped_where_its_mask_leaves_background():
    """By the mask at hand: the dataset's, else the saliency source's, else that of the map."""
    size = (200, 100)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 200, 3), np.uint8))
    left = np.zeros((64, 64), np.float32)
    left[10:50, :20] = 1
    mixer = Mixer(apply_preset(MethodSettings(strength=0.0, resolution=64)))
    by_map = mixer.mask(image, left, 1.0)
    assert by_map.box is not None and by_map.box[0] >= 62
    by_mask = mixer.mask(image, left, 1.0, None, left[:, ::-1] > 0)
    assert by_mask.box is not None and by_mask.box[2] <= 138
    stored = Image.fromarray(np.uint8(left[:, ::-1] * 255)).resize(size)
    by_column = mixer.mask(image, left, 1.0, stored, left > 0)
    assert by_column.box is not None and by_column.box[2] <= 138
    assert mixer.mask(image, left).box is None
