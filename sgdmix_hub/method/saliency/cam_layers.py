"""Which layer of a classifier a CAM reads, and the layout of its activations."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import nn

from sgdmix_hub.errors import UserError

# Module names (regular expressions) and the networks that have them. The first rule that matches a
# module applies; of several modules the last one is read. Transformers are read at the norm before
# the last attention: after it only the class token has a gradient.
LAYER_RULES = (
    (
        r"conv_1x1_exp|mobilevitv2\.encoder\.layer\.\d+",
        "MobileViT, MobileViTV2: after the transformers, which split each image",
    ),
    (
        r"stages\.\d+",
        "ResNet, BiT, RegNet, ConvNeXt, SegFormer; ConvNeXt and MobileViT of timm: the last stage",
    ),
    (r"timm_model\.(layer|s)\d+", "ResNet and RegNet of timm: the last stage"),
    (
        r"layernorm_before|layer_norm1|norm1",
        "ViT, DeiT, BEiT, DINOv2, CLIP, SigLIP, Swin, SwinV2, also of timm: first norm of the last "
        "block",
    ),
    (r"timm_model\.blocks\.\d+", "EfficientNet and MobileNet of timm: the last stage"),
)


def default_layer(model: nn.Module) -> str:
    """Name of the layer that a CAM reads: by `LAYER_RULES`, else the last convolution.

    Raises `UserError` if there is neither.
    """
    names = [name for name, _ in model.named_modules()]
    for pattern, _ in LAYER_RULES:
        matching = [name for name in names if re.fullmatch(rf"(.+\.)?({pattern})", name)]
        if matching:
            return matching[-1]
    convolutions = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    if not convolutions:
        raise UserError(
            "the classifier has no known layer for a class activation map: "
            "name one with --saliency_layer"
        )
    return convolutions[-1]


def maps_last(shape: torch.Size) -> bool:
    """Whether activations of square images have their channels last.

    So do tokens (B, n, C), and maps (B, h, w, C) as of timm's Swin.
    """
    return len(shape) == 3 or (shape[1] == shape[2] != shape[3])


def to_maps(channels_last: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function that brings a layer's activations to (B, C, h, w)."""

    def channels_first(activations: torch.Tensor) -> torch.Tensor:
        if not channels_last:
            return activations
        if activations.ndim == 4:
            return activations.permute(0, 3, 1, 2)
        side = int(activations.shape[1] ** 0.5)
        extra = activations.shape[1] - side * side  # class token and registers come first
        return activations[:, extra:].transpose(1, 2).unflatten(2, (side, side))

    return channels_first
