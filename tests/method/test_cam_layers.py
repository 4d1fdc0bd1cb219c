"""Which layer a CAM reads, a row for each kind of network: its maps are of every image, lie where
the image is, and show something.
"""

import re

import numpy as np
import pytest
import torch
import transformers as hf
from generations import ROOT
from PIL import Image
from tiny_classifiers import ALL, NAMES, SIDE, save_tiny

from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.method.saliency.cam import SMALLEST_GRID, CamSaliency
from sgdmix_hub.method.saliency.cam_layers import LAYER_RULES, default_layer, maps_last, to_maps
from sgdmix_hub.method.saliency.model_free import MAP_SIZE, is_blank
from sgdmix_hub.models.classifier import Classifier

CPU = torch.device("cpu")
CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))
LAYERS = {
    "resnet": "resnet.encoder.stages.1",
    "bit": "bit.encoder.stages.1",
    "regnet": "regnet.encoder.stages.1",
    "convnext": "convnext.encoder.stages.1",
    "vit": "vit.layers.1.layernorm_before",
    "vit without normalisation": "vit.layers.1.layernorm_before",
    "deit": "deit.layers.1.layernorm_before",
    "swin": "swin.encoder.layers.1.blocks.0.layernorm_before",
    "swinv2": "swinv2.encoder.layers.1.blocks.0.layernorm_before",
    "efficientnet": "efficientnet.encoder.top_conv",
    "mobilenet_v2": "mobilenet_v2.conv_1x1.convolution",
    "siglip": "vision_model.encoder.layers.1.layer_norm1",
    "mobilevit": "mobilevit.conv_1x1_exp",
    "mobilevitv2": "mobilevitv2.encoder.layer.4",
    "timm resnet": "timm_model.layer4",
    "timm convnext": "timm_model.stages.3",
    "timm vit": "timm_model.blocks.1.norm1",
    "timm swin": "timm_model.layers.1.blocks.0.norm1",
    "timm regnet": "timm_model.s4",
    "timm efficientnet": "timm_model.blocks.6",
    "timm mobilenet": "timm_model.blocks.5",
}


@pytest.fixture(scope="module", params=ALL)
def named_cam(request, tmp_path_factory):
    folder = save_tiny(request.param, tmp_path_factory.mktemp("models") / "classifier")
    return request.param, CamSaliency(Classifier(resolve(str(folder)), CPU), "grad-cam")


def picture(corner=None):
    """Even grey, with stripes in one corner."""
    pixels = np.full((96, 96, 3), 128, np.uint8)
    if corner is not None:
        top, left = (60 * of for of in corner)
        pixels[top : top + 36, left : left + 36] = np.where(
            np.arange(36)[:, None, None] % 12 < 6, [255, 60, 0], [0, 40, 255]
        )
    return Image.fromarray(pixels)


def activations(cam, image):
    """float32 (C, h, w) of the layer that is read."""
    seen = []
    handle = cam.layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    cam.classifier.logits(cam.pixel_values(image, "stretch")[None])
    handle.remove()
    return to_maps(cam.channels_last)(seen[0])[0]


@pytest.mark.slow
def test_the_layer_is_the_one_of_the_table(named_cam):
    name, cam = named_cam
    assert cam.layer_name == LAYERS[name]
    assert min(cam.grid) >= SMALLEST_GRID and cam.grid[0] == cam.grid[1]


@pytest.mark.slow
def test_activations_change_where_the_image_does(named_cam):
    """Rows are rows and columns columns, in whatever order the network keeps its numbers."""
    _, cam = named_cam
    even, found = activations(cam, picture()), []
    for corner in CORNERS:
        change = (activations(cam, picture(corner)) - even).abs().sum(0)
        half = change.shape[0] // 2
        sides = slice(half), slice(-half, None)
        found.append([float(change[sides[top], sides[left]].mean()) for top, left in CORNERS])
    # Shares, because squeeze-and-excitation changes every cell a little.
    shares = np.array(found) / np.sum(found, axis=1, keepdims=True)
    assert np.argmax(shares, axis=0).tolist() == [0, 1, 2, 3]


@pytest.mark.slow
def test_maps_are_of_each_image_alone_and_show_something(named_cam):
    _, cam = named_cam
    rng = np.random.default_rng(0)
    images = [
        Image.fromarray(rng.integers(0, 256, (6, 9, 3), np.uint8)).resize((90, 60))
        for _ in range(4)
    ]
    pixels = torch.stack([cam.pixel_values(image, "stretch") for image in images])
    assert pixels.shape == (4, 3, cam.size, cam.size)
    shown = 0
    for label in range(len(NAMES)):
        maps = cam.maps(pixels, [label] * 4)
        assert maps.shape == (4, MAP_SIZE, MAP_SIZE)
        assert np.isfinite(maps).all()
        assert maps.min() >= 0
        assert maps.max() <= 1
        alone = np.concatenate([cam.maps(one[None], [label]) for one in pixels])
        np.testing.assert_allclose(maps, alone, atol=2e-3)
        shown += sum(not is_blank(of_image) for of_image in maps)
    # Of 12 maps. If all features of a random network speak against a label, its map is empty.
    assert shown >= 6


# ---- what gives no maps ----


def test_a_layer_that_turns_an_image_into_several_is_refused(tmp_path):
    """MobileViT's transformers see four images for every one: the maps of the first would be taken
    for those of four.
    """
    classifier = Classifier(resolve(str(save_tiny("mobilevit", tmp_path / "mobilevit"))), CPU)
    names = [name for name, _ in classifier.model.named_modules()]
    inner = [name for name in names if name.endswith("layernorm_before")]
    with pytest.raises(UserError, match="8 maps for 2 images.*saliency_layer"):
        CamSaliency(classifier, "grad-cam", layer=inner[-1], input_size=SIDE)


def levit():
    return hf.LevitConfig(
        image_size=SIDE,
        hidden_sizes=[16, 16, 16],
        num_attention_heads=[2, 2, 2],
        depths=[1, 1, 1],
        key_dim=[8, 8, 8],
        num_labels=3,
    )


def test_a_network_without_maps_is_refused_with_the_setting_that_helps(tmp_path):
    torch.manual_seed(0)
    hf.LevitForImageClassification(levit()).save_pretrained(tmp_path)
    hf.ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="name another --saliency_layer"):
        CamSaliency(Classifier(resolve(str(tmp_path)), CPU), "grad-cam")


def test_a_network_without_any_known_layer_is_refused():
    with pytest.raises(UserError, match="--saliency_layer"):
        default_layer(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)))


@pytest.mark.parametrize(
    ("shape", "last"),
    [((2, 65, 16), True), ((2, 7, 7, 16), True), ((2, 16, 7, 7), False), ((2, 8, 8, 8), False)],
    ids=str,
)
def test_channels_are_found_in_either_place(shape, last):
    assert maps_last(torch.Size(shape)) == last
    maps = to_maps(last)(torch.arange(float(np.prod(shape))).reshape(shape))
    assert maps.shape[0] == 2 and maps.shape[2] == maps.shape[3]


def test_the_page_on_the_method_has_every_rule():
    page = (ROOT / "docs" / "method.md").read_text()
    for pattern, _ in LAYER_RULES:
        for word in re.findall(r"[a-z]\w+", re.sub(r"\\\w\+?", "", pattern)):
            assert word in page, word
