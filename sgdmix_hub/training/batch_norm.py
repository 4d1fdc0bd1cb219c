"""Batch normalisation whose statistics are those of the total batch, over all processes.

On GPUs torch's SyncBatchNorm (timm's for a model of timm). Over gloo, which it does not support,
the same from two sums that are reduced over the processes, with their gradients.
"""

from __future__ import annotations

import importlib
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

LAYERS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def batch_norm_layers(model: nn.Module) -> list[Any]:
    """The layers whose output in training depends on the other samples of the batch."""
    kinds = (*LAYERS, nn.SyncBatchNorm)
    return [module for module in model.modules() if isinstance(module, kinds)]


def share_statistics(model: nn.Module, on_gpu: bool) -> nn.Module:
    """The model with statistics over all processes; for `on_gpu`, made of other modules.

    Weights and their names stay.
    """
    if not on_gpu:
        for layer in batch_norm_layers(model):
            layer.forward = MethodType(_forward, layer)
        return model
    if any(type(layer) not in LAYERS for layer in batch_norm_layers(model)):
        # timm's layers hold an activation too, which torch's conversion would lose
        return importlib.import_module("timm.layers").convert_sync_batchnorm(model)
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


class Sum(torch.autograd.Function):
    """The sum of a tensor over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, *args: torch.Tensor) -> torch.Tensor:
        (values,) = args
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> torch.Tensor:
        return Sum.forward(ctx, *grad_outputs)


def _forward(layer: Any, inputs: torch.Tensor) -> torch.Tensor:
    """The layer's forward pass, and what timm's layers do after it: dropout and activation."""
    if layer.training or layer.running_mean is None:
        outputs = total_batch_norm(layer, inputs)
    else:
        outputs = F.batch_norm(
            inputs, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=layer.eps
        )
    for name in ("drop", "act"):
        outputs = getattr(layer, name, nn.Identity())(outputs)
    return outputs


def total_batch_norm(layer: Any, inputs: torch.Tensor) -> torch.Tensor:
    """Normalises inputs (b, c, ...) by mean and variance over all processes, which all have b.

    Updates the layer's running statistics as torch does, with the unbiased variance. A collective,
    and so is its backward pass.
    """
    dims = [0, *range(2, inputs.dim())]
    shape = (1, -1, *[1] * (inputs.dim() - 2))
    values = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
    count = inputs.numel() // inputs.shape[1] * torch.distributed.get_world_size()
    mean = Sum.apply(values.sum(dims)) / count
    centred = values - mean.view(shape)
    variance = Sum.apply(centred.square().sum(dims)) / count
    if layer.training and layer.track_running_stats:
        _update(layer, mean.detach(), variance.detach() * count / max(count - 1, 1))
    outputs = centred * (variance + layer.eps).rsqrt().view(shape)
    if layer.affine:
        outputs = outputs * layer.weight.view(shape) + layer.bias.view(shape)
    return outputs.to(inputs.dtype)


@torch.no_grad()
def _update(layer: Any, mean: torch.Tensor, variance: torch.Tensor) -> None:
    layer.num_batches_tracked += 1
    share = 1 / int(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
    layer.running_mean.lerp_(mean.to(layer.running_mean.dtype), share)
    layer.running_var.lerp_(variance.to(layer.running_var.dtype), share)
