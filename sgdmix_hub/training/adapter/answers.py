"""What stands for a text encoder in a training that learns no tokens: its answers to all prompts.

The prompts of such a training are constant. Each encoder is asked once and then freed, and its
answers are looked up by the ids, in training steps and in the pipeline's own calls alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from sgdmix_hub.models.bases.family import Encoder
from sgdmix_hub.models.bases.flow import masked
from sgdmix_hub.models.bases.loading import LoadedBase

from .model import AdaptedModel
from .stand_in import StandIn, not_asked

Key = tuple[int, ...]  # the ids that an encoder sees


@dataclass(frozen=True)
class Answer:
    """What is read of an encoder's output; rows are prompts.

    `first`: the output's first entry, whatever the encoder's class calls it; none of a language
    model's. `hidden_states`: by their number.
    """

    first: torch.Tensor | None
    pooler_output: torch.Tensor | None
    hidden_states: dict[int, torch.Tensor]

    def __getitem__(self, place: int) -> torch.Tensor:
        assert place == 0 and self.first is not None, "nothing else is read by its place"
        return self.first


class AnsweredEncoder(StandIn):
    """A text encoder's answers to known prompts; asked another one, `ValueError`."""

    def __init__(self, config: Any, answers: dict[Key, Answer], like: torch.Tensor):
        """`like`: as of `StandIn`."""
        super().__init__(like)
        self.config, self._answers = config, answers

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **options: Any
    ) -> Answer:
        """`input_ids`, `attention_mask`: (B, length). Hidden states of padding are zeros where the
        encoder was asked a shorter text.
        """
        found = []
        for key in keys_of(input_ids, attention_mask):
            if key not in self._answers:
                raise not_asked()
            found.append(self._answers[key])
        length = input_ids.shape[1]
        return Answer(
            self._joined([answer.first for answer in found], length),
            self._joined([answer.pooler_output for answer in found], length),
            {
                layer: self._joined([answer.hidden_states[layer] for answer in found], length)
                for layer in found[0].hidden_states
            },
        )

    def _joined(self, parts: list[Any], length: int) -> Any:
        """Rows (1, dim) or (1, any, dim) as (B, dim) or (B, length, dim) on the device; or None."""
        if parts[0] is None:
            return None
        if parts[0].ndim == 3:
            parts = [
                F.pad(part[:, :length], (0, 0, 0, max(length - part.shape[1], 0))) for part in parts
            ]
        return torch.cat(parts).to(self.device)


def keys_of(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> list[Key]:
    """The ids of every row that an encoder sees."""
    rows = input_ids.tolist()
    if attention_mask is None:
        return [tuple(row) for row in rows]
    shown = attention_mask.bool().tolist()
    return [
        tuple(token for token, is_shown in zip(row, of_row, strict=True) if is_shown)
        for row, of_row in zip(rows, shown, strict=True)
    ]


def answer_ahead(
    base: LoadedBase,
    model: AdaptedModel,
    prompts: list[torch.Tensor],
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Asks every text encoder all prompts of a training and frees it, in the model and in the
    pipeline.

    `prompts`: the input ids of every encoder, as `prompt_ids` gives them. `dtype`: the training's.
    """
    for place, (encoder, ids) in enumerate(zip(base.encoders, prompts, strict=True)):
        asked = torch.cat([ids, unwanted_ids(encoder, base.tokenizer(encoder), ids.shape[1])])
        network = base.network(encoder).to(device).eval()
        with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            answers = {}
            for row in asked.to(device).unique(dim=0):  # alone: its bits depend on nothing else
                key, answer = ask(encoder, network, row[None])
                answers[key] = answer
        like = torch.zeros(1, dtype=network.dtype, device=device)
        known = AnsweredEncoder(network.config, answers, like)
        model.text_encoders[place] = known
        setattr(base.pipeline, encoder.model, known)
        del network
        if device.type == "cuda":
            torch.cuda.empty_cache()


def unwanted_ids(encoder: Encoder, tokenizer: Any, length: int) -> torch.Tensor:
    """What drawn images are guided away from, as `prompt_ids` gives it: int64 (1, length)."""
    text = encoder.text(tokenizer, "")
    tokens = tokenizer([text], padding="max_length", max_length=length, return_tensors="pt")
    ids = tokens.input_ids
    return torch.where(tokens.attention_mask == 0, ~ids, ids) if encoder.masked else ids


def ask(encoder: Encoder, network: Any, ids: torch.Tensor) -> tuple[Key, Answer]:
    """An encoder's answer to one prompt, (1, length), as families ask it; kept in main memory."""
    wanted = encoder.outputs or encoder.hidden
    options: dict[str, Any] = {"output_hidden_states": True} if wanted else {}
    first = pooled = None
    if encoder.masked:
        ids, shown = masked(ids)
        (key,) = keys_of(ids, shown)
        options |= {"attention_mask": shown.long(), "use_cache": False}
        output = network.base_model(input_ids=ids, **options)
    else:
        (key,) = keys_of(ids, None)
        output = network(ids, **options)
        first, pooled = output[0].cpu(), getattr(output, "pooler_output", None)
    return key, Answer(
        first,
        None if pooled is None else pooled.cpu(),
        {layer: output.hidden_states[layer].cpu() for layer in wanted},
    )
