"""What stands for a text encoder in a training whose learned tokens are in the encoder's output."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from sgdmix_hub.errors import UserError
from sgdmix_hub.models.bases.family import Encoder
from sgdmix_hub.models.bases.loading import LoadedBase
from sgdmix_hub.models.bases.output_tokens import OUTPUT, PLACEHOLDER, placed
from sgdmix_hub.models.prompts import bare_prompt, expanded_prompt
from sgdmix_hub.settings.adapter_training import AdapterSettings

from .stand_in import StandIn, not_asked
from .token_embedding import TokenEmbedding

NOTHING = -1  # in the place of an id that the encoder does not see


class KnownPrompts(StandIn):
    """A text encoder's answers to the prompts of a training, with the learned rows in them.

    All classes have one prompt but for their tokens, and the encoder reads the same placeholder for
    every token: it was asked once. `learned`: float32 (tokens, states * dim). `scale`: how many
    times larger its rows are than the encoder's input, as root mean squares.
    """

    ids: torch.Tensor
    states: torch.Tensor
    placeholder: torch.Tensor

    def __init__(
        self,
        ids: torch.Tensor,
        states: dict[int, torch.Tensor],
        placeholder: torch.Tensor,
        first: int,
        num_tokens: int,
        num_vectors: int,
    ):
        """`ids`: int64 (prompts, length), `NOTHING` at padding; the first is of a class. `states`:
        number of a hidden state -> (prompts, length, dim). `first`: the id of the first token.
        """
        found = torch.stack(list(states.values()))
        super().__init__(found.new_zeros(1))
        self.first, self.num_vectors, self.layers = first, num_vectors, tuple(states)
        self.register_buffer("ids", ids)
        self.register_buffer("states", found)
        self.register_buffer("placeholder", placeholder)
        row = ids[0].tolist()
        at = [row.index(first + number) for number in range(num_vectors)]
        initial = torch.cat([state[0, at] for state in states.values()], dim=-1).float()
        self.learned = nn.Parameter(initial.repeat(num_tokens // num_vectors, 1))
        self.scale = rms(initial) / rms(placeholder.float())

    def tensors(self, key: str) -> dict[str, torch.Tensor]:
        """What a file of learned tokens holds of it."""
        return {key + OUTPUT: self.learned, key + PLACEHOLDER: self.placeholder}

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **options: Any
    ) -> SimpleNamespace:
        """The `hidden_states` that are read, by their number; for other prompts `ValueError`."""
        length, seen = input_ids.shape[1], attention_mask.bool()
        number = input_ids - self.first
        is_learned = (number >= 0) & (number < len(self.learned))
        of_first = torch.where(is_learned, self.first + number % self.num_vectors, input_ids)
        asked = torch.where(seen, of_first, NOTHING)
        same = (asked[:, None] == self.ids[:, :length]).all(-1)
        same &= (self.ids[:, length:] == NOTHING).all(-1)
        if not same.any(1).all():
            raise not_asked()
        rows = same.int().argmax(1)
        states = dict(zip(self.layers, self.states[:, rows, :length], strict=True))
        return SimpleNamespace(hidden_states=placed(self.learned, self.first, input_ids, states))


def rms(values: torch.Tensor) -> float:
    return float(values.square().mean().sqrt())


@torch.no_grad()
def know_prompts(
    base: LoadedBase, encoder: Encoder, settings: AdapterSettings, tokens: TokenEmbedding
) -> KnownPrompts:
    """Asks a text encoder all prompts of a training. `tokens`: its embedding, all rows alike.

    Raises `UserError` if a prompt is too long.
    """
    tokenizer, network = base.tokenizer(encoder), base.network(encoder)
    metaclass, template, vectors = (
        settings.metaclass,
        settings.prompt_template,
        settings.num_vectors,
    )
    texts = [
        expanded_prompt(0, vectors, metaclass, template),
        bare_prompt(metaclass, template),
        "",  # what images are guided away from
    ]
    texts = [encoder.text(tokenizer, text) for text in texts]
    length, read = max(map(len, tokenizer(texts).input_ids)), encoder.reads(tokenizer)
    if length > read:
        raise UserError(
            f"the prompt takes {length} tokens, the text encoder reads "
            f"{read}: shorten prompt_template or lower num_vectors"
        )
    padded = tokenizer(texts, padding="max_length", max_length=read, return_tensors="pt")
    ids, mask = padded.input_ids, padded.attention_mask
    output = network.base_model(
        input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False
    )
    return KnownPrompts(
        torch.where(mask.bool(), ids, NOTHING),
        {layer: output.hidden_states[layer] for layer in encoder.outputs},
        tokens.learned[0].detach(),
        tokens.first,
        len(tokens.learned),
        vectors,
    )
