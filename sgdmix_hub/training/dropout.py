"""Dropout whose masks belong to the samples: not to the batch, the process or the last checkpoint.

A layer's mask of a sample is a function of (the sample's seed, the layer), so a step drops the same
activations however its samples are spread, and a resumed training needs no generator's state.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sgdmix_hub.seeds import RandomStream, seed_of


@dataclass
class SampleSeeds:
    """The seeds of the samples in the batch that is passed forward, in the order of its rows."""

    rows: list[int] = field(default_factory=list)


class SampleDropout(nn.Module):
    """nn.Dropout, or stochastic depth if `whole`: a sample's residual branch is kept or dropped.

    Input: (B * k, ...) for B samples, k rows each, one after the other.
    """

    def __init__(self, p: float, seeds: SampleSeeds, layer: int, whole: bool = False):
        """`p`: probability of dropping. `layer`: the layer's number in the model."""
        super().__init__()
        self.p, self.seeds, self.layer, self.whole = p, seeds, layer, whole

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return inputs
        rows = len(inputs) // len(self.seeds.rows)
        tail = (1,) * (inputs.dim() - 1) if self.whole else inputs.shape[1:]
        drawn = []
        for seed in self.seeds.rows:
            random = torch.Generator(inputs.device)
            random.manual_seed(seed_of(RandomStream.DROPOUT, seed, self.layer))
            drawn.append(torch.rand((rows, *tail), generator=random, device=inputs.device))
        return inputs * (torch.cat(drawn) >= self.p) / (1 - self.p)


def use_sample_dropout(model: nn.Module) -> SampleSeeds:
    """Replaces a model's dropout and stochastic depth; returns where to set the samples' seeds.

    Dropout inside fused attention is no module and stays as it is.
    """
    seeds = SampleSeeds()
    parents = [(parent, *child) for parent in model.modules() for child in parent.named_children()]
    for layer, (parent, name, child) in enumerate(parents):
        if isinstance(child, nn.Dropout) and child.p > 0:
            setattr(parent, name, SampleDropout(child.p, seeds, layer))
        elif type(child).__name__.endswith("DropPath") and (p := _drop_prob(child)) > 0:
            setattr(parent, name, SampleDropout(p, seeds, layer, whole=True))
    return seeds


def _drop_prob(layer: Any) -> float:
    """Of stochastic depth, as transformers and timm call it; None means never."""
    return layer.drop_prob or 0.0
