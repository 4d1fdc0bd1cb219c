"""Saliency maps against pytorch-grad-cam called directly, and against a second implementation of the spectral residual."""

import re

import cv2
import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from PIL import Image
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from transformers import AutoModelForImageClassification, ViTConfig, ViTForImageClassification, ViTImageProcessor

from sgdmix_hub.config import UserError
from sgdmix_hub.demo.domain import make_dataset
from sgdmix_hub.saliency import (
    MAP_SIZE,
    GradCamSaliency,
    is_blank,
    mask_column_map,
    spectral_residual,
    spectral_residual_map,
)

CPU = torch.device("cpu")
VIT_GRID = 8


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A ViT of random weights: input 64, patches of 8, hence a grid of 8x8."""
    return save_vit(tmp_path_factory.mktemp("vit"), image_size=64, patch_size=64 // VIT_GRID)


def save_vit(folder, image_size, patch_size):
    torch.manual_seed(0)
    names = {0: "a", 1: "b", 2: "c", 3: "d"}
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=image_size,
        patch_size=patch_size,
        id2label=names,
        label2id={name: label for label, name in names.items()},
    )
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": image_size, "width": image_size}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def images():
    rows = make_dataset(4, 2, 1, 1, seed=5, resolution=48)["train"]
    return [image.convert("RGB") for image in rows["image"]], list(rows["label"])


class LogitsOf(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values):
        return self.model(pixel_values=pixel_values).logits


def direct_maps(folder, pixels, labels, layer_of, reshape_transform):
    """What pytorch-grad-cam gives for a model and a layer of ours, without the package."""
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    cam = GradCAM(LogitsOf(model), [layer_of(model)], reshape_transform=reshape_transform)
    return cam(pixels, [ClassifierOutputTarget(label) for label in labels])


def pixels_of(images, size):
    """The classifier's input by another way: Pillow's resize, torch's arithmetic, the mean and deviation of ViTImageProcessor."""
    stretched = [torch.from_numpy(np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)).copy()) for image in images]
    return (torch.stack(stretched).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5


def test_grad_cam_of_a_resnet_is_that_of_pytorch_grad_cam(classifier, images):
    pictures, labels = images
    saliency = GradCamSaliency(str(classifier), CPU)
    pixels = torch.stack([saliency.pixel_values(image, "stretch") for image in pictures])
    assert torch.allclose(pixels, pixels_of(pictures, 64), atol=1e-6)
    maps = saliency.maps(pixels, labels)
    expected = direct_maps(classifier, pixels, labels, lambda model: model.resnet.encoder.stages[-1].layers[-1], None)
    assert maps.dtype == np.float32 and maps.shape == (len(labels), MAP_SIZE, MAP_SIZE)
    assert np.ptp(expected) > 0.5
    np.testing.assert_allclose(maps, expected, atol=1e-5)


def test_grad_cam_of_a_vit_is_that_of_pytorch_grad_cam(vit, images):
    pictures, labels = images
    saliency = GradCamSaliency(str(vit), CPU)
    pixels = pixels_of(pictures, 64)
    expected = direct_maps(
        vit,
        pixels,
        labels,
        lambda model: model.vit.layers[-1].layernorm_before,
        lambda tokens: tokens[:, 1:].reshape(len(tokens), VIT_GRID, VIT_GRID, -1).permute(0, 3, 1, 2),
    )
    assert np.ptp(expected) > 0.5
    np.testing.assert_allclose(saliency.maps(pixels, labels), expected, atol=1e-5)


@pytest.mark.parametrize("size", [64, 96, 128])
def test_maps_are_64x64_in_the_unit_interval_whatever_the_input_size(classifier, images, size):
    pictures, labels = images
    saliency = GradCamSaliency(str(classifier), CPU, input_size=size)
    maps = saliency.maps(torch.stack([saliency.pixel_values(image, "center-crop") for image in pictures]), labels)
    assert maps.shape == (len(labels), MAP_SIZE, MAP_SIZE) and maps.dtype == np.float32
    assert maps.min() >= 0 and maps.max() <= 1
    expected = direct_maps(classifier, pixels_of(pictures, size), labels, lambda model: model.resnet.encoder.stages[-1].layers[-1], None)
    shrunk = np.stack([cv2.resize(m, (64, 64), interpolation=cv2.INTER_AREA) for m in expected])
    np.testing.assert_allclose(maps, shrunk, atol=1e-5)


@pytest.mark.parametrize("model", ["classifier", "vit"])
def test_the_map_is_that_of_the_label_given_whatever_its_neighbours(model, images, request):
    pictures, _ = images
    saliency = GradCamSaliency(str(request.getfixturevalue(model)), CPU)
    pixels = saliency.pixel_values(pictures[0], "stretch").repeat(4, 1, 1, 1)
    maps = saliency.maps(pixels, [0, 1, 2, 3])
    for first in range(4):
        for second in range(first):
            assert np.abs(maps[first] - maps[second]).max() > 0.05
    np.testing.assert_allclose(saliency.maps(pixels, [3, 2, 1, 0])[::-1], maps, atol=1e-5)


def test_another_layer_can_be_read(classifier, images):
    pictures, labels = images
    pixels = pixels_of(pictures, 64)
    earlier = GradCamSaliency(str(classifier), CPU, layer="resnet.encoder.stages.0")
    expected = direct_maps(classifier, pixels, labels, lambda model: model.resnet.encoder.stages[0], None)
    np.testing.assert_allclose(earlier.maps(pixels, labels), expected, atol=1e-5)


def test_an_unknown_layer_is_refused_with_one_that_exists(classifier):
    with pytest.raises(UserError, match="layer9") as error:
        GradCamSaliency(str(classifier), CPU, layer="layer9")
    GradCamSaliency(str(classifier), CPU, layer=re.findall(r"'([^']+)'", str(error.value))[-1])


def size_named_in(error):
    return int(re.search(r"saliency_input_size to (\d+)", str(error)).group(1))


@pytest.mark.parametrize("size", [*range(8, 49, 4), 33, 47])
def test_too_coarse_a_grid_is_refused_with_a_size_that_works(classifier, size):
    with pytest.raises(UserError, match="too coarse") as error:
        GradCamSaliency(str(classifier), CPU, input_size=size)
    GradCamSaliency(str(classifier), CPU, input_size=size_named_in(error.value))


def test_too_coarse_a_grid_of_a_vit_is_refused_with_a_size_that_works(tmp_path, images):
    """A ViT has position embeddings of one size: either the size that is named works, or none may be named."""
    folder = save_vit(tmp_path, image_size=32, patch_size=8)
    with pytest.raises(UserError, match="too coarse") as error:
        GradCamSaliency(str(folder), CPU)
    if "saliency_input_size" in str(error.value):
        saliency = GradCamSaliency(str(folder), CPU, input_size=size_named_in(error.value))
        assert saliency.maps(saliency.pixel_values(images[0][0], "stretch")[None], [0]).shape == (1, MAP_SIZE, MAP_SIZE)


def test_an_input_size_that_the_classifier_cannot_take_is_a_users_mistake(vit):
    """Unless the model can interpolate to it."""
    try:
        saliency = GradCamSaliency(str(vit), CPU, input_size=96)
    except UserError as error:
        assert "saliency_input_size" in str(error) or "96" in str(error)
    else:
        assert saliency.size == 96


def test_maps_that_separate_nothing_are_blank(classifier, images, tmp_path):
    """A head of zeros gives no gradient, and Grad-CAM zeros."""
    model = AutoModelForImageClassification.from_pretrained(classifier)
    torch.nn.init.zeros_(model.classifier[1].weight)
    model.save_pretrained(tmp_path)
    ViTImageProcessor.from_pretrained(classifier).save_pretrained(tmp_path)
    pictures, labels = images
    blank = GradCamSaliency(str(tmp_path), CPU).maps(pixels_of(pictures, 64), labels)
    assert all(is_blank(saliency_map) for saliency_map in blank)
    assert is_blank(np.full((4, 4), 0.3)) and is_blank(np.array([[0.1, np.nan]])) and is_blank(np.array([[0.1, np.inf]]))
    usable = GradCamSaliency(str(classifier), CPU).maps(pixels_of(pictures, 64), labels)
    assert not any(is_blank(saliency_map) for saliency_map in usable)
    assert not is_blank(np.array([[0.0, 1e-3]], np.float16))


# --- spectral residual


def second_spectral_residual(grey, sigma=6.0):
    """Hou & Zhang from the paper: real transform, residual as a ratio of amplitudes, power, Gaussian."""
    spectrum = scipy.fft.fft2(np.asarray(grey, np.float64))
    amplitude = np.abs(spectrum) + 1e-12
    average = scipy.ndimage.uniform_filter(np.log(amplitude), size=3, mode="wrap")
    unit_phase = spectrum / amplitude
    back = scipy.fft.ifft2(amplitude / np.exp(average) * unit_phase)
    smooth = scipy.ndimage.gaussian_filter(back.real**2 + back.imag**2, sigma, mode="mirror")
    return (smooth - smooth.min()) / np.ptp(smooth)


def test_spectral_residual_agrees_with_a_second_implementation(images):
    for image in images[0]:
        grey = np.asarray(image.convert("L").resize((64, 64)), np.float64)
        ours, theirs = spectral_residual(grey), second_spectral_residual(grey)
        assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("seed", range(6))
def test_spectral_residual_finds_a_bright_patch(seed):
    rng = np.random.default_rng(seed)
    top, left = rng.integers(4, 48, 2)
    picture = scipy.ndimage.gaussian_filter(rng.normal(90, 30, (64, 64)), 1)
    picture[top : top + 12, left : left + 12] = 220
    peak = np.unravel_index(np.argmax(spectral_residual(picture)), (64, 64))
    assert abs(peak[0] - top - 5.5) <= 10 and abs(peak[1] - left - 5.5) <= 10


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
    saliency_map = spectral_residual_map(Image.fromarray(noise), resize)
    assert saliency_map.shape == (MAP_SIZE, MAP_SIZE) and saliency_map.dtype == np.float32
    assert saliency_map.min() == 0 and saliency_map.max() == 1


def test_a_plain_image_has_no_salient_part():
    assert is_blank(spectral_residual_map(Image.new("RGB", (80, 80), "gray"), "stretch"))


# --- masks from the dataset


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "I;16"])
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_a_mask_of_any_mode_becomes_its_share_of_each_cell(mode, scale):
    """Class indices such as 1 count as foreground like 255 does; the map is the mean of each cell, written out here."""
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
    assert mask_column_map(Image.fromarray(tall), "stretch").mean() == pytest.approx(64 / 96, abs=0.01)
