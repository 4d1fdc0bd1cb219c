"""Z-Image's transformer for batches of one size: the same values up to rounding, in one graph.

The stock class takes lists and complex numbers, which no compiler joins; on a CPU, where small
networks are slow for their many small operations, this one trains several times faster.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ZImageTransformer2DModel
from torch import nn
from torch.nn.utils.rnn import pad_sequence

PATCH = 2


class PlainAttention:
    """A processor of `diffusers.models.attention_processor.Attention`, in plain products."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: None = None,
        attention_mask: None = None,
        freqs_cis: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """`freqs_cis`: cosines and sines (tokens, 1, dim / 2, 2)."""
        query, key, value = (
            layer(hidden_states).unflatten(-1, (attn.heads, -1))
            for layer in (attn.to_q, attn.to_k, attn.to_v)
        )
        query, key = (turned(norm, freqs_cis) for norm in (attn.norm_q(query), attn.norm_k(key)))
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
        mixed = scores.float().softmax(-1).to(value.dtype) @ value
        return attn.to_out[0](mixed.transpose(1, 2).flatten(2))


def turned(heads: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """(B, tokens, heads, dim), each pair of numbers rotated."""
    first, second = heads.unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = turns.unbind(-1)
    pairs = torch.stack([first * cosine - second * sine, first * sine + second * cosine], -1)
    return pairs.flatten(-2).to(heads.dtype)


class Batched(nn.Module):
    """In a training, the transformer of `ZImage.predict`: images of one size, short prompts.

    `words`: the tokens of a prompt are padded to, a multiple of 32.
    """

    def __init__(self, transformer: ZImageTransformer2DModel, size: int, words: int):
        super().__init__()
        self.transformer, self.side, self.words = transformer, size // PATCH, words
        for module in transformer.modules():
            if hasattr(module, "set_processor"):
                module.set_processor(PlainAttention())
        told = torch.zeros(words, 3, dtype=torch.int64)
        told[:, 0] = torch.arange(1, words + 1)
        place = torch.arange(self.side)
        shown = torch.cartesian_prod(torch.tensor([words + 1]), place, place)
        self.of_text, self.of_image = (
            torch.view_as_real(transformer.rope_embedder(ids))[:, None] for ids in (told, shown)
        )

    def forward(
        self,
        images: list[torch.Tensor],
        time: torch.Tensor,
        texts: list[torch.Tensor],
        return_dict: bool,
    ) -> tuple[torch.Tensor]:
        """As the stock class: images (c, 1, h, w), texts (length, dim) -> (B, c, 1, h, w)."""
        lengths = torch.tensor([len(text) for text in texts])
        text = pad_sequence(texts, batch_first=True)
        text = nn.functional.pad(text, (0, 0, 0, self.words - text.shape[1]))
        shown = torch.arange(self.words) < lengths[:, None]
        return (self.batch(torch.stack(images).squeeze(2), time, text, shown)[:, :, None],)

    def batch(
        self, images: torch.Tensor, time: torch.Tensor, text: torch.Tensor, shown: torch.Tensor
    ) -> torch.Tensor:
        net, rows = self.transformer, len(images)
        key = f"{PATCH}-1"
        patches = images.reshape(rows, -1, self.side, PATCH, self.side, PATCH)
        patches = patches.permute(0, 2, 4, 3, 5, 1).reshape(rows, self.side**2, -1)
        at = net.t_embedder(time * net.t_scale).type_as(images)
        tokens = net.all_x_embedder[key](patches)
        for layer in net.noise_refiner:
            tokens = layer(tokens, None, self.of_image, at)
        words = torch.where(shown[..., None], net.cap_embedder(text), net.cap_pad_token)
        for layer in net.context_refiner:
            words = layer(words, None, self.of_text)
        whole, turns = torch.cat([tokens, words], 1), torch.cat([self.of_image, self.of_text])
        for layer in net.layers:
            whole = layer(whole, None, turns, at)
        found = net.all_final_layer[key](whole, c=at)[:, : self.side**2]
        found = found.reshape(rows, self.side, self.side, PATCH, PATCH, -1)
        return found.permute(0, 5, 1, 3, 2, 4).reshape(images.shape)
