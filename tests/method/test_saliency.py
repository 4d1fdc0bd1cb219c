"""Saliency maps without a model: the spectral residual against OpenCV's, minimum barriers against
the exact ones, masks as maps.
"""

import heapq
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import scipy.spatial
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from pictures import iou
from PIL import Image

from sgdmix_hub.demo.domain import make_dataset
from sgdmix_hub.method.masks import threshold
from sgdmix_hub.method.saliency.model_free import (
    MAP_SIZE,
    barrier_distance,
    border_contrast,
    is_blank,
    mask_column_map,
    minimum_barrier,
    minimum_barrier_map,
    residual_amplitude,
    spectral_residual,
    spectral_residual_map,
)

# Written by make_opencv_saliency.py beside it.
OPENCV = Path(__file__).parents[1] / "support" / "data_files" / "opencv_saliency.npz"


@pytest.fixture(scope="module")
def birds_at_64():
    rows = make_dataset(4, 2, 1, 1, seed=5, resolution=64)["train"]
    return [image.convert("RGB") for image in rows["image"]]


def test_maps_that_separate_nothing_are_blank():
    assert is_blank(np.full((4, 4), 0.3))
    assert is_blank(np.array([[0.1, np.nan]]))
    assert is_blank(np.array([[0.1, np.inf]]))
    assert not is_blank(np.array([[0.0, 1e-3]], np.float16))


# ---- spectral residual ----


def second_spectral_residual(grey, sigma=6.0):
    """Hou & Zhang from the paper: real transform, residual as a ratio of amplitudes, power,
    Gaussian.
    """
    spectrum = scipy.fft.fft2(np.asarray(grey, np.float64))
    amplitude = np.abs(spectrum) + 1e-12
    average = scipy.ndimage.uniform_filter(np.log(amplitude), size=3, mode="wrap")
    unit_phase = spectrum / amplitude
    back = scipy.fft.ifft2(amplitude / np.exp(average) * unit_phase)
    smooth = scipy.ndimage.gaussian_filter(back.real**2 + back.imag**2, sigma, mode="mirror")
    return (smooth - smooth.min()) / np.ptp(smooth)


def correlation(first, second):
    return np.corrcoef(first.ravel(), second.ravel())[0, 1]


@pytest.mark.parametrize("number", range(len(np.load(OPENCV)["images"])))
def test_the_residual_is_that_of_opencv(number):
    """cv2.saliency does the same up to its Gaussian, which it takes of the amplitude and not of its
    square.
    """
    stored = np.load(OPENCV)
    image, theirs = stored["images"][number], stored["maps"][number].astype(np.float64)
    amplitude = residual_amplitude(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    ours = cv2.GaussianBlur(amplitude, (5, 5), 8) ** 2
    assert correlation(ours, theirs) > 0.99999
    np.testing.assert_allclose(ours / ours.max(), theirs, atol=2e-3)  # OpenCV computes in float32


def test_spectral_residual_agrees_with_a_second_implementation(birds_at_64):
    for image in birds_at_64:
        grey = np.asarray(image.convert("L"), np.float64)
        for sigma in (2.5, 6.0):
            assert (
                correlation(spectral_residual(grey, sigma), second_spectral_residual(grey, sigma))
                > 0.99
            )


@pytest.mark.parametrize("seed", range(6))
def test_spectral_residual_finds_a_bright_patch(seed):
    rng = np.random.default_rng(seed)
    top, left = rng.integers(4, 48, 2)
    picture = scipy.ndimage.gaussian_filter(rng.normal(90, 30, (64, 64)), 1)
    picture[top : top + 12, left : left + 12] = 220
    peak = np.unravel_index(np.argmax(spectral_residual(picture)), (64, 64))
    assert abs(peak[0] - top - 5.5) <= 10 and abs(peak[1] - left - 5.5) <= 10


@pytest.mark.slow
@given(grey=numpy_strategies.arrays(np.float64, (16, 16), elements=st.integers(0, 255).map(float)))
@settings(max_examples=40)
def test_spectral_residual_stays_in_the_unit_interval(grey):
    saliency_map = spectral_residual(grey)
    assert saliency_map.dtype == np.float32 and saliency_map.shape == grey.shape
    assert is_blank(saliency_map) or (saliency_map.min() == 0 and saliency_map.max() == 1)


@pytest.mark.parametrize("size", [(64, 64), (200, 30), (31, 99)])
@pytest.mark.parametrize("resize", ["stretch", "center-crop"])
def test_spectral_residual_maps_are_64x64(size, resize):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    saliency_map = spectral_residual_map(Image.fromarray(noise), resize, sigma=6.0)
    assert saliency_map.shape == (MAP_SIZE, MAP_SIZE) and saliency_map.dtype == np.float32
    assert saliency_map.min() == 0 and saliency_map.max() == 1


def test_a_plain_image_has_no_salient_part():
    assert is_blank(spectral_residual_map(Image.new("RGB", (80, 80), "gray"), "stretch", sigma=6.0))


# ---- minimum barrier ----


def minimax(values, lowest):
    """The lowest maximum over the 4-connected paths to the border on which no value is below
    `lowest`; inf where there is none.
    """
    height, width = values.shape
    reached = np.full(values.shape, np.inf)
    border = [
        (y, x)
        for y in range(height)
        for x in range(width)
        if (y in (0, height - 1) or x in (0, width - 1)) and values[y, x] >= lowest
    ]
    queue = [(values[place], place) for place in border]
    heapq.heapify(queue)
    while queue:
        highest, (y, x) = heapq.heappop(queue)
        if highest >= reached[y, x]:
            continue
        reached[y, x] = highest
        for near_y, near_x in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= near_y < height and 0 <= near_x < width and values[near_y, near_x] >= lowest:
                heapq.heappush(queue, (max(highest, values[near_y, near_x]), (near_y, near_x)))
    return reached


def exact_barrier(values):
    """The exact minimum barrier distance: for every lowest value that a path may have, the lowest
    maximum.
    """
    return np.min([minimax(values, lowest) - lowest for lowest in np.unique(values)], axis=0)


@pytest.mark.slow
@given(
    values=numpy_strategies.arrays(
        np.float32,
        st.tuples(st.integers(3, 8), st.integers(3, 8)),
        elements=st.integers(0, 6).map(float),
    )
)
@settings(max_examples=120)
def test_the_barrier_is_never_below_the_exact_one(values):
    found = barrier_distance(values)
    exact = exact_barrier(values)
    assert found.dtype == np.float32 and (found >= exact).all()
    assert not found[[0, -1]].any() and not found[:, [0, -1]].any()
    straight = [
        np.ptp(values[: y + 1, x]) for y in range(len(values)) for x in range(values.shape[1])
    ]
    assert (found.ravel() <= straight).all()  # a path straight up is one that the scans try


@pytest.mark.slow
def test_the_barrier_is_not_far_above_the_exact_one():
    rng = np.random.default_rng(0)
    images = [
        cv2.resize(rng.random((4, 4), np.float32), (8, 8), interpolation=cv2.INTER_CUBIC)
        for _ in range(30)
    ]
    exact = np.stack([exact_barrier(values) for values in images])
    found = np.stack([barrier_distance(values) for values in images])
    assert found.sum() < 1.1 * exact.sum()


def simple_images():
    y, x = np.mgrid[:9, :9].astype(np.float32)
    inside = np.minimum(np.minimum(y, 8 - y), np.minimum(x, 8 - x))
    disc = (y - 4) ** 2 + (x - 4) ** 2 < 8
    yield "constant", np.full((9, 9), 3, np.float32)
    yield "stripes", x % 3
    yield "pyramid", inside
    yield "pit", -inside
    yield "disc", np.float32(disc * 5)
    yield "ring", np.float32((disc & ~((y == 4) & (x == 4))) * 5)
    yield "disc on a gradient", np.float32(np.where(disc, 20, x))
    yield "disc at the border", np.float32((y**2 + (x - 4) ** 2 < 10) * 5)
    yield "checkerboard", (x + y) % 2


@pytest.mark.parametrize(("name", "values"), list(simple_images()))
def test_the_barrier_of_a_simple_image_is_the_exact_one(name, values):
    assert np.array_equal(barrier_distance(values), exact_barrier(values))


@given(
    values=numpy_strategies.arrays(np.float32, (7, 6), elements=st.integers(0, 50).map(float)),
    by=st.integers(-30, 30),
)
@settings(max_examples=40)
def test_the_barrier_is_one_of_differences(values, by):
    found = barrier_distance(values)
    assert np.array_equal(barrier_distance(values + by), found)
    assert np.array_equal(barrier_distance(values * 2), found * 2)


def contrast_by_scipy(lab):
    """Sum of the three smaller of four Mahalanobis distances, pixel by pixel."""
    height, width = lab.shape[:2]
    rows, columns = round(0.1 * height), round(0.1 * width)
    distances = []
    for strip in (lab[:rows], lab[height - rows :], lab[:, :columns], lab[:, width - columns :]):
        colors = strip.reshape(-1, 3).astype(np.float64)
        inverse = np.linalg.inv(np.cov(colors, rowvar=False) + np.eye(3))
        pixels = lab.reshape(-1, 3).astype(np.float64)
        distance = scipy.spatial.distance.cdist(
            pixels, colors.mean(axis=0, keepdims=True), "mahalanobis", VI=inverse
        )
        distances.append(distance.reshape(height, width) / distance.max())
    return np.sort(distances, axis=0)[:3].sum(axis=0)


@pytest.mark.parametrize("shape", [(20, 30), (64, 64)])
def test_the_contrast_to_the_border_is_that_of_scipy(shape):
    lab = np.random.default_rng(0).normal(50, 20, (*shape, 3)).astype(np.float32)
    np.testing.assert_allclose(border_contrast(lab), contrast_by_scipy(lab), rtol=1e-6)


@pytest.mark.slow
@given(color=st.tuples(*[st.integers(0, 255)] * 3))
@settings(max_examples=60)
def test_an_image_of_one_color_has_no_salient_part(color):
    saliency_map = minimum_barrier_map(Image.new("RGB", (80, 50), color), "stretch")
    assert saliency_map.shape == (MAP_SIZE, MAP_SIZE) and not saliency_map.any()


@pytest.mark.parametrize("ground", ["flat", "gradient", "two halves"])
@pytest.mark.parametrize("seed", range(4))
def test_a_coloured_disc_is_found(ground, seed):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64] / 64
    centre_y, centre_x, radius = *rng.uniform(0.35, 0.65, 2), rng.uniform(0.12, 0.22)
    disc = (y - centre_y) ** 2 + (x - centre_x) ** 2 < radius**2
    slope = {"flat": np.zeros((64, 64)), "gradient": x, "two halves": np.float64(y > 0.5)}[ground]
    pixels = np.array([60, 140, 70]) + slope[..., None] * [40, 60, 30]
    pixels[disc] = (210, 40, 50)
    saliency_map = minimum_barrier_map(Image.fromarray(pixels.astype(np.uint8)), "stretch")
    assert saliency_map.dtype == np.float32 and (saliency_map.min(), saliency_map.max()) == (0, 1)
    assert iou(saliency_map > threshold(saliency_map), disc) > 0.75


@pytest.mark.parametrize(
    "turned",
    [lambda p: p[:, ::-1], lambda p: p[::-1], lambda p: p.swapaxes(0, 1)],
    ids=["mirror", "flip", "transpose"],
)
def test_turned_images_have_nearly_the_turned_maps(turned, birds_at_64):
    """The contrast to the border turns with the image. The barriers are what a few scans in a fixed
    order found: they need not, and turn exactly where they are exact.
    """
    for image in birds_at_64:
        pixels = np.asarray(image)
        again = np.ascontiguousarray(turned(pixels))
        assert correlation(minimum_barrier(again), turned(minimum_barrier(pixels))) > 0.995
        lab = pixels.astype(np.float32)
        np.testing.assert_allclose(
            border_contrast(turned(lab)), turned(border_contrast(lab)), rtol=1e-9
        )
    for _, values in simple_images():
        assert np.array_equal(
            barrier_distance(np.ascontiguousarray(turned(values))), turned(barrier_distance(values))
        )


# ---- masks from the dataset ----


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "I;16"])
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_a_mask_of_any_mode_becomes_its_share_of_each_cell(mode, scale):
    """Class indices such as 1 count as foreground like 255 does; the map is the mean of each cell,
    written out here.
    """
    rng = np.random.default_rng(scale)
    mask = rng.random((MAP_SIZE * scale, MAP_SIZE * scale)) < 0.4
    if mode == "1":
        image = Image.fromarray(mask)
    elif mode == "RGB":
        image = Image.fromarray(np.repeat(np.uint8(mask)[..., None] * 255, 3, axis=2))
    elif mode == "I;16":
        image = Image.fromarray(np.uint16(mask) * 65535)
    elif mode == "P":
        image = Image.fromarray(np.uint8(mask)).convert("P")
    else:
        image = Image.fromarray(np.uint8(mask))
    expected = mask.reshape(MAP_SIZE, scale, MAP_SIZE, scale).mean(axis=(1, 3))
    np.testing.assert_allclose(mask_column_map(image, "stretch"), expected, atol=1 / 255)


def test_a_palette_mask_like_that_of_pascal_voc_is_read():
    """Index 0 is black, the classes have dark colours of their own."""
    mask = np.zeros((MAP_SIZE, MAP_SIZE), np.uint8)
    mask[10:30, 5:50] = 1
    mask[40:50, 20:30] = 4
    image = Image.frombytes("P", mask.shape[::-1], mask.tobytes())
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128])
    assert np.array_equal(mask_column_map(image, "stretch") == 1, mask > 0)


def test_masks_and_images_go_through_the_same_geometry():
    tall = np.zeros((96, 64), np.uint8)
    tall[16:80] = 255  # what a centre crop of a 64x96 image keeps
    assert mask_column_map(Image.fromarray(tall), "center-crop").min() == 1
    assert mask_column_map(Image.fromarray(tall), "stretch").mean() == pytest.approx(
        64 / 96, abs=0.01
    )
