"""What stands for a text encoder that was asked all prompts before a training."""

from __future__ import annotations

import torch
from torch import nn


class StandIn(nn.Module):
    """Has what families and pipelines ask of a text encoder besides its answers."""

    like: torch.Tensor

    def __init__(self, like: torch.Tensor):
        """`like`: a tensor of the encoder's dtype, where it was."""
        super().__init__()
        self.register_buffer("like", like)

    @property
    def dtype(self) -> torch.dtype:
        return self.like.dtype

    @property
    def device(self) -> torch.device:
        return self.like.device

    @property
    def base_model(self) -> StandIn:
        return self


def not_asked() -> ValueError:
    """Of a prompt that is none of the training's."""
    return ValueError("the text encoder was not asked this prompt before the training")
