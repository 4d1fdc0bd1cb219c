"""Tiny classifiers of many architectures with random weights, in the formats of the real ones."""

from pathlib import Path

import torch
import transformers as hf
from transformers.models.timm_wrapper import TimmWrapperConfig

SIDE = 64
NAMES = ("heron", "kite", "tern")
IDS = {
    "id2label": dict(enumerate(NAMES)),
    "label2id": {name: label for label, name in enumerate(NAMES)},
}
SQUARE = {"height": SIDE, "width": SIDE}
VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": SIDE,
    "patch_size": 8,
}
SWIN = {
    "image_size": SIDE,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [1, 1],
    "num_heads": [1, 2],
    "window_size": 4,
}
STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1]}

# Configuration, and the image processor that models of this architecture are published with.
ARCHITECTURES = {
    "resnet": (
        hf.ResNetConfig(embedding_size=8, layer_type="basic", **STAGES, **IDS),
        hf.ConvNextImageProcessor(size={"shortest_edge": SIDE}),
    ),
    "bit": (
        hf.BitConfig(embedding_size=8, num_groups=4, **STAGES, **IDS),
        hf.BitImageProcessor(size={"shortest_edge": 73}, crop_size=SQUARE),
    ),
    "regnet": (
        hf.RegNetConfig(embedding_size=8, groups_width=8, **STAGES, **IDS),
        hf.ConvNextImageProcessor(size={"shortest_edge": SIDE}, crop_pct=0.75),
    ),
    "convnext": (
        hf.ConvNextConfig(patch_size=2, num_stages=2, **STAGES, **IDS),
        hf.ConvNextImageProcessor(size={"shortest_edge": SIDE}),
    ),
    "vit": (hf.ViTConfig(**VIT, **IDS), hf.ViTImageProcessor(size=SQUARE)),
    "vit without normalisation": (
        hf.ViTConfig(**VIT, **IDS),
        hf.ViTImageProcessor(size=SQUARE, do_normalize=False),
    ),
    "deit": (
        hf.DeiTConfig(**VIT, **IDS, architectures=["DeiTForImageClassification"]),
        hf.DeiTImageProcessor(size={"height": 72, "width": 72}, crop_size=SQUARE),
    ),
    "swin": (hf.SwinConfig(**SWIN, **IDS), hf.ViTImageProcessor(size=SQUARE)),
    "swinv2": (hf.Swinv2Config(**SWIN, **IDS), hf.ViTImageProcessor(size=SQUARE, resample=3)),
    "efficientnet": (
        hf.EfficientNetConfig(
            image_size=SIDE, width_coefficient=0.25, depth_coefficient=0.25, hidden_dim=320, **IDS
        ),
        hf.EfficientNetImageProcessor(size=SQUARE),
    ),
    "mobilenet_v2": (
        hf.MobileNetV2Config(image_size=SIDE, depth_multiplier=0.25, **IDS),
        hf.MobileNetV2ImageProcessor(size={"shortest_edge": 72}, crop_size=SQUARE),
    ),
    "siglip": (hf.SiglipConfig(vision_config=VIT, **IDS), hf.SiglipImageProcessor(size=SQUARE)),
    "mobilevit": (
        hf.MobileViTConfig(
            image_size=SIDE, hidden_sizes=[16, 24, 32], num_attention_heads=2, **IDS
        ),
        hf.MobileViTImageProcessor(size={"shortest_edge": 72}, crop_size=SQUARE),
    ),
    "mobilevitv2": (
        hf.MobileViTV2Config(image_size=SIDE, width_multiplier=0.25, **IDS),
        hf.MobileViTImageProcessor(
            size={"shortest_edge": 72}, crop_size=SQUARE, do_flip_channel_order=False
        ),
    ),
}
# Name in timm, arguments of the model, and how its images are cropped.
TIMM = {
    "timm resnet": ("resnet10t", {}, {"crop_pct": 8 / 9}),
    "timm convnext": (
        "convnext_atto",
        {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)},
        {"crop_pct": 0.875},
    ),
    "timm vit": (
        "vit_tiny_patch16_224",
        {"img_size": SIDE, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2},
        {"crop_pct": 8 / 9},
    ),
    "timm swin": (
        "swin_tiny_patch4_window7_224",
        {
            "img_size": SIDE,
            "window_size": 4,
            "embed_dim": 16,
            "depths": (1, 1),
            "num_heads": (1, 2),
        },
        {"crop_pct": 8 / 9},
    ),
    "timm regnet": ("regnetx_002", {}, {}),
    "timm efficientnet": ("efficientnet_lite0", {}, {"crop_mode": "squash", "crop_pct": 0.875}),
    "timm mobilenet": ("mobilenetv3_small_050", {}, {"crop_pct": 0.875}),
}
VALUES = {
    "input_size": [3, SIDE, SIDE],
    "interpolation": "bicubic",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}


def save_tiny(name: str, folder: Path) -> Path:
    """Saves one of the architectures above in the files that a third party would publish."""
    torch.manual_seed(0)
    if name in TIMM:
        architecture, arguments, cut = TIMM[name]
        config = TimmWrapperConfig(
            architecture=architecture, model_args=arguments or None, num_labels=len(NAMES), **IDS
        )
        config.pretrained_cfg = VALUES | cut
    else:
        config, processor = ARCHITECTURES[name]
        processor.save_pretrained(folder)
    lively(hf.AutoModelForImageClassification.from_config(config)).save_pretrained(folder)
    return folder


def lively(model: torch.nn.Module) -> torch.nn.Module:
    """Re-initialises a model so that its outputs depend on the image.

    Batch norms take the statistics of random images; the head gets weights of standard deviation 1.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
            torch.nn.init.ones_(module.weight)
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.Linear) and module.out_features == len(NAMES):
            torch.nn.init.normal_(module.weight)
    with torch.no_grad():
        model.train()(
            pixel_values=torch.nn.functional.interpolate(
                torch.randn(8, 3, 8, 8), (SIDE, SIDE), mode="bilinear"
            )
        )
    return model.eval()


ALL = (*ARCHITECTURES, *TIMM)
