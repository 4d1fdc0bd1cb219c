"""Learned tokens in a text encoder's input."""

from __future__ import annotations

import torch
from torch import nn


class TokenEmbedding(nn.Module):
    """The text encoder's embedding, frozen, with learned rows from the id `first` on."""

    scale = 1.0  # as in `KnownPrompts`

    def __init__(self, embedding: nn.Embedding, initial: torch.Tensor, first: int | None = None):
        """`initial`: float (tokens, dim), of the learned rows. `first`: the number of rows if None;
        less for encoders whose last rows have no tokens.
        """
        super().__init__()
        self.embedding = embedding.requires_grad_(False)
        self.learned = nn.Parameter(initial.clone())
        self.first = embedding.num_embeddings if first is None else first

    def tensors(self, key: str) -> dict[str, torch.Tensor]:
        """What a file of learned tokens holds of it."""
        return {key: self.learned}

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        rows = self.embedding(input_ids.clamp(max=self.embedding.num_embeddings - 1))
        number = input_ids - self.first
        is_learned = (number >= 0) & (number < len(self.learned))
        learned = self.learned[number.clamp(0, len(self.learned) - 1)].to(rows.dtype)
        return torch.where(is_learned[..., None], learned, rows)
