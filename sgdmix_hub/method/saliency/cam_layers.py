"""Which layer of a classifier a CAM reads, and how that layer lays its maps out."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import nn

from sgdmix_hub.errors import UserError

# Module names and the networks that have them, the first that is there; of several modules the last
# one is read. A norm in front of an attention is read since behind the last one only the class
# token counts: everything else has no gradient.
LAYER_RULES = (
    (
        r"conv_1x1_exp|mobilevitv2\.encoder\.layer\.\d+",
        "MobileViT, MobileViTV2: behind the transformers, which split each image",
    ),
    (
        r"stages\.\d+",
        "ResNet, BiT, RegNet, ConvNeXt, SegFormer, ConvNeXt and MobileViT of timm: the last stage",
    ),
    (r"timm_model\.(layer|s)\d+", "ResNet and RegNet of timm: the last stage"),
    (
        r"layernorm_before|layer_norm1|norm1",
        "ViT, DeiT, BEiT, DINOv2, CLIP, SigLIP, Swin, SwinV2, and those of timm: the last block's first norm",
    ),
    (r"timm_model\.blocks\.\d+", "EfficientNet and MobileNet of timm: the last stage"),
)


def default_layer(model: nn.Module) -> str:
    """The name of the layer that a CAM reads: by the rules above, else the last convolution. Raises
    `UserError` when there is none.
    """
    names = [name for name, _ in model.named_modules()]
    for pattern, _ in LAYER_RULES:
        found = [name for name in names if re.fullmatch(rf"(.+\.)?({pattern})", name)]
        if found:
            return found[-1]
    convolutions = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    if not convolutions:
        raise UserError(
            "found no layer for a class activation map in this classifier: name one with --saliency_layer"
        )
    return convolutions[-1]


def maps_last(shape: torch.Size) -> bool:
    """Whether a layer that gave `shape` for square images has its channels last: tokens (B, n, C),
    or maps (B, h, w, C) as timm's Swin.
    """
    return len(shape) == 3 or (shape[1] == shape[2] != shape[3])


def to_maps(channels_last: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    """How a layer's activations become (B, C, h, w)."""

    def turned(activations: torch.Tensor) -> torch.Tensor:
        if not channels_last:
            return activations
        if activations.ndim == 4:
            return activations.permute(0, 3, 1, 2)
        side = int(activations.shape[1] ** 0.5)
        extra = activations.shape[1] - side * side  # class token, registers: they come first
        return activations[:, extra:].transpose(1, 2).unflatten(2, (side, side))

    return turned
