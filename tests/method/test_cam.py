"""Class activation maps against stock pytorch-grad-cam on a model that nobody cut or froze."""

import re

import cv2
import numpy as np
import pytest
import pytorch_grad_cam
import torch
from PIL import Image
from pytorch_grad_cam.ablation_layer import AblationLayerVit
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn
from transformers import (
    AutoModelForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from sgdmix_hub.data.splits import load_split
from sgdmix_hub.demo.domain import make_dataset
from sgdmix_hub.errors import UserError
from sgdmix_hub.generation.saliency_maps import compute_maps
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.method.saliency.cam import CAMS, SMALLEST_GRID, CamSaliency
from sgdmix_hub.method.saliency.model_free import MAP_SIZE, is_blank
from sgdmix_hub.models.classifier import Classifier
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.presets import apply_preset
from sgdmix_hub.settings.saliency import CAM_METHODS

CPU = torch.device("cpu")
VIT_GRID = 8
STOCK = {
    "grad-cam": "GradCAM",
    "grad-cam++": "GradCAMPlusPlus",
    "grad-cam-elementwise": "GradCAMElementWise",
    "xgrad-cam": "XGradCAM",
    "hires-cam": "HiResCAM",
    "layer-cam": "LayerCAM",
    "eigen-cam": "EigenCAM",
    "eigen-grad-cam": "EigenGradCAM",
    "score-cam": "ScoreCAM",
    "ablation-cam": "AblationCAM",
}


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


def with_input_size(classifier, size, folder):
    """The classifier with an image processor that makes images of this size."""
    AutoModelForImageClassification.from_pretrained(classifier).save_pretrained(folder)
    ViTImageProcessor(size={"height": size, "width": size}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def images():
    rows = make_dataset(4, 1, 1, 1, seed=5, resolution=48)["train"]
    return [image.convert("RGB") for image in rows["image"]], list(rows["label"])


def pixels_of(images, size):
    """The classifier's input by another way: Pillow's resize, torch's arithmetic, the mean and
    deviation of ViTImageProcessor.
    """
    stretched = [
        torch.from_numpy(np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)).copy())
        for image in images
    ]
    return (torch.stack(stretched).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5


def cam_of(folder, method, **options):
    return CamSaliency(Classifier(resolve(str(folder)), CPU), method, **options)


class LogitsOf(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values):
        return self.model(pixel_values=pixel_values).logits


def last_stage(model):
    return model.resnet.encoder.stages[-1]


def last_norm(model):
    return model.vit.layers[-1].layernorm_before


def tokens_to_maps(tokens):
    return tokens[:, 1:].reshape(len(tokens), VIT_GRID, VIT_GRID, -1).permute(0, 3, 1, 2)


def stock_maps(folder, method, pixels, labels, layer_of=last_stage, model=None):
    """What pytorch-grad-cam gives for a model and a layer of ours, without the package, shrunk to
    64x64 by OpenCV.
    """
    model = model or AutoModelForImageClassification.from_pretrained(folder).eval()
    options = {"reshape_transform": tokens_to_maps} if layer_of is last_norm else {}
    if method == "ablation-cam" and layer_of is last_norm:
        options["ablation_layer"] = AblationLayerVit()
    cam = getattr(pytorch_grad_cam, STOCK[method])(LogitsOf(model), [layer_of(model)], **options)
    maps = cam(pixels, [ClassifierOutputTarget(label) for label in labels])
    return np.stack(
        [cv2.resize(m, (MAP_SIZE, MAP_SIZE), interpolation=cv2.INTER_AREA) for m in maps]
    )


# ---- the maps ----


def test_every_method_that_the_settings_know_is_there():
    assert tuple(CAMS) == CAM_METHODS == tuple(STOCK)


@pytest.mark.parametrize("method", CAMS)
@pytest.mark.parametrize("model", ["classifier", "vit"])
def test_a_map_is_bit_for_bit_that_of_pytorch_grad_cam(model, method, images, request, capfd):
    """The frozen weights and the cut graph save work and change nothing, a second time neither; no
    bar is shown.
    """
    pictures, labels = images
    folder = request.getfixturevalue(model)
    saliency = cam_of(folder, method)
    pixels = torch.stack([saliency.pixel_values(image, "stretch") for image in pictures])
    assert torch.allclose(pixels, pixels_of(pictures, 64), atol=1e-6)
    capfd.readouterr()
    maps = saliency.maps(pixels, labels)
    again = saliency.maps(pixels, labels)
    assert capfd.readouterr().err == ""
    expected = stock_maps(
        folder, method, pixels, labels, last_stage if model == "classifier" else last_norm
    )
    assert maps.dtype == np.float32 and maps.shape == (len(labels), MAP_SIZE, MAP_SIZE)
    assert np.ptp(expected) > 0.5 and maps.min() >= 0 and maps.max() <= 1
    assert np.array_equal(maps, expected) and np.array_equal(again, maps)
    assert all(
        parameter.grad is None and not parameter.requires_grad
        for parameter in saliency.classifier.model.parameters()
    )


@pytest.mark.parametrize("size", [72, 128])
def test_maps_are_64x64_in_the_unit_interval_whatever_the_input_size(classifier, images, size):
    pictures, labels = images
    saliency = cam_of(classifier, "grad-cam", input_size=size)
    pixels = torch.stack([saliency.pixel_values(image, "center-crop") for image in pictures])
    maps = saliency.maps(pixels, labels)
    assert maps.shape == (len(labels), MAP_SIZE, MAP_SIZE) and maps.min() >= 0 and maps.max() <= 1
    assert np.array_equal(maps, stock_maps(classifier, "grad-cam", pixels, labels))


@pytest.mark.parametrize("model", ["classifier", "vit"])
def test_the_map_is_that_of_the_label_given_whatever_its_neighbours(model, images, request):
    pictures, _ = images
    saliency = cam_of(request.getfixturevalue(model), "grad-cam")
    pixels = saliency.pixel_values(pictures[0], "stretch").repeat(4, 1, 1, 1)
    maps = saliency.maps(pixels, [0, 1, 2, 3])
    for first in range(4):
        for second in range(first):
            assert np.abs(maps[first] - maps[second]).max() > 0.05
    np.testing.assert_allclose(saliency.maps(pixels, [3, 2, 1, 0])[::-1], maps, atol=1e-5)


@pytest.mark.parametrize("method", ["grad-cam", "layer-cam", "ablation-cam"])
def test_another_layer_can_be_read_also_before_one_that_works_in_place(classifier, images, method):
    """The normalisation in front of an activation in place: what is handed on must not be a leaf
    that autograd forbids to change.
    """
    pictures, labels = images
    pixels = pixels_of(pictures, 64)
    name = "resnet.encoder.stages.1.layers.0.layer.0.normalization"
    saliency = cam_of(classifier, method, layer=name)
    stock = AutoModelForImageClassification.from_pretrained(classifier).eval()
    assert np.array_equal(
        saliency.maps(pixels, labels),
        stock_maps(None, method, pixels, labels, lambda m: m.get_submodule(name), stock),
    )
    for model in (saliency.classifier.model, stock):
        activations = [module for module in model.modules() if isinstance(module, nn.ReLU)]
        assert activations
        for activation in activations:
            activation.inplace = True
    assert np.array_equal(
        saliency.maps(pixels, labels),
        stock_maps(None, method, pixels, labels, lambda m: m.get_submodule(name), stock),
    )


def test_maps_that_separate_nothing_are_blank(classifier, images, tmp_path):
    """A head of zeros gives no gradient, and Grad-CAM zeros."""
    model = AutoModelForImageClassification.from_pretrained(classifier)
    # transformers replaces torch's initialisers while it loads models: they may leave it as it is
    with torch.no_grad():
        model.classifier[1].weight.zero_()
    model.save_pretrained(tmp_path)
    ViTImageProcessor.from_pretrained(classifier).save_pretrained(tmp_path)
    pictures, labels = images
    blank = cam_of(tmp_path, "grad-cam").maps(pixels_of(pictures, 64), labels)
    assert all(is_blank(saliency_map) for saliency_map in blank)
    usable = cam_of(classifier, "grad-cam").maps(pixels_of(pictures, 64), labels)
    assert not any(is_blank(saliency_map) for saliency_map in usable)


@pytest.mark.parametrize("method", ["grad-cam", "score-cam"])
def test_predictions_are_the_models_before_and_after_maps(classifier, images, method):
    pictures, labels = images
    pixels = pixels_of(pictures, 64)
    with torch.no_grad():
        expected = (
            AutoModelForImageClassification.from_pretrained(classifier)
            .eval()(pixel_values=pixels)
            .logits.argmax(-1)
            .numpy()
        )
    saliency = cam_of(classifier, method)
    assert np.array_equal(saliency.classifier.logits(pixels).argmax(-1), expected)
    maps = saliency.maps(pixels, labels)
    assert np.array_equal(saliency.classifier.logits(pixels).argmax(-1), expected)
    assert np.array_equal(saliency.maps(pixels, labels), maps)


# ---- layers and input sizes ----


def test_an_unknown_layer_is_refused_with_one_that_exists(classifier):
    with pytest.raises(UserError, match="layer9") as error:
        cam_of(classifier, "grad-cam", layer="layer9")
    cam_of(classifier, "grad-cam", layer=re.findall(r"'([^']+)'", str(error.value))[-1])


@pytest.mark.parametrize(
    "layer", ["resnet.encoder", "resnet.encoder.stages", "classifier.1", "resnet"]
)
def test_a_module_that_gives_no_maps_is_refused(classifier, layer):
    """One that gives an output object, one that is only a list, one that gives a vector."""
    with pytest.raises(UserError, match=f"{re.escape(repr(layer))}.*saliency_layer"):
        cam_of(classifier, "grad-cam", layer=layer)


def cells_of(classifier, size):
    model = AutoModelForImageClassification.from_pretrained(classifier).eval()
    with torch.no_grad():
        return model.resnet(torch.zeros(1, 3, size, size)).last_hidden_state.shape[-1]


@pytest.mark.parametrize("own", [8, 20, 33, 47, 56, 57, 64])
def test_the_input_is_enlarged_until_there_are_enough_cells(classifier, own, images, tmp_path):
    saliency = cam_of(with_input_size(classifier, own, tmp_path), "grad-cam")
    assert saliency.grid == (cells_of(classifier, saliency.size),) * 2
    assert saliency.size >= own and min(saliency.grid) >= SMALLEST_GRID
    assert saliency.size == own or cells_of(classifier, round(0.85 * saliency.size)) < SMALLEST_GRID
    assert saliency.pixel_values(images[0][0], "stretch").shape == (3, saliency.size, saliency.size)


@pytest.mark.parametrize("size", [16, 33, 48])
def test_an_input_size_that_is_given_is_kept(classifier, images, size):
    saliency = cam_of(classifier, "grad-cam", input_size=size)
    assert saliency.size == size and max(saliency.grid) < SMALLEST_GRID
    pixels = saliency.pixel_values(images[0][0], "stretch")[None]
    assert np.array_equal(
        saliency.maps(pixels, [0]), stock_maps(classifier, "grad-cam", pixels, [0])
    )


def test_a_layer_of_one_cell_is_refused(classifier):
    """Of the pooling there is one cell whatever the input: every map would be blank, and every row
    skipped.
    """
    with pytest.raises(UserError, match="resnet.pooler.* one cell.*saliency_layer"):
        cam_of(classifier, "grad-cam", layer="resnet.pooler")


def test_a_vit_with_a_coarse_grid_keeps_its_input_size(tmp_path, images):
    """It has position embeddings for one size alone."""
    saliency = cam_of(save_vit(tmp_path, image_size=32, patch_size=8), "grad-cam")
    assert (saliency.size, saliency.grid) == (32, (4, 4))
    assert saliency.maps(saliency.pixel_values(images[0][0], "stretch")[None], [0]).shape == (
        1,
        MAP_SIZE,
        MAP_SIZE,
    )


def test_an_input_size_that_the_classifier_cannot_take_is_a_users_mistake(vit):
    with pytest.raises(UserError, match="96x96.*saliency_input_size"):
        cam_of(vit, "grad-cam", input_size=96)


@pytest.mark.slow
def test_coarse_maps_are_made_and_warned_of_once(classifier, birds, tmp_path, caplog):
    asked = AugmentSettings(
        dataset_name=str(birds),
        output_dir=str(tmp_path / "run"),
        saliency_dir=str(tmp_path / "maps"),
        preset="paper",
        classifier=str(classifier),
        saliency_input_size=32,
        strength=0.0,
    )
    split = load_split(asked, resolve(str(birds), repo_type="dataset"))
    for warnings in (1, 0):
        maps = compute_maps(apply_preset(asked), split, resolve(str(classifier)), 0, 1, CPU)
        lines = [line for line in caplog.messages if "7x7" in line]
        caplog.clear()
        assert len(lines) == warnings
        assert all("4x4" in line and "saliency_input_size" in line for line in lines)
    assert maps[split.subset].shape == (len(split.subset), MAP_SIZE, MAP_SIZE)
