"""Learned tokens in a text encoder's output: rows that stand in the place of a token's own.

The encoder reads a placeholder where the token is, the same one for all classes. What it makes of a
prompt is therefore known before a training, which needs no encoder.
"""

from __future__ import annotations

from typing import Any

import torch

from sgdmix_hub.errors import shown
from sgdmix_hub.models.prompts import fault_of_count

OUTPUT, PLACEHOLDER = ".output", ".placeholder"  # the ends of names in a file of tokens

States = dict[int, torch.Tensor]  # number of a hidden state -> (B, length, dim)


def placed(learned: torch.Tensor, first: int, input_ids: torch.Tensor, states: States) -> States:
    """The states with learned rows where the ids, int64 (B, length), are those of learned tokens.

    `learned`: (tokens, states * dim), those of the id `first` first; each row has a part for every
    state, in their order.
    """
    number = input_ids.to(learned.device) - first
    is_learned = ((number >= 0) & (number < len(learned)))[..., None]
    rows = learned[number.clamp(0, len(learned) - 1)].chunk(len(states), dim=-1)
    return {
        layer: torch.where(is_learned.to(state.device), row.to(state), state)
        for (layer, state), row in zip(states.items(), rows, strict=True)
    }


def place_in_output(
    network: Any, learned: torch.Tensor, first: int, layers: tuple[int, ...]
) -> None:
    """Makes a text encoder put the rows of learned tokens into the hidden states `layers`."""

    def after(module: Any, args: tuple, options: dict[str, Any], output: Any) -> Any:
        states = list(output.hidden_states)
        found = {layer: states[layer] for layer in layers}
        for layer, state in placed(learned, first, options["input_ids"], found).items():
            states[layer] = state
        output.hidden_states = tuple(states)
        return output

    network.base_model.register_forward_hook(after, with_kwargs=True)


def fault_of_output(
    tokens: dict[str, torch.Tensor], layers: dict[str, tuple[int, ...]], num_classes: int
) -> str | None:
    """What such a file lacks for an adapter of these classes, or None.

    `layers`: the hidden states of every text encoder, by its key.
    """
    names = {f"{key}{end}" for key in layers for end in (OUTPUT, PLACEHOLDER)}
    if (missing := names - set(tokens)) or not all(layers.values()):
        return f"has no learned tokens {min(missing, default='for an output')}"
    if unknown := set(tokens) - names:
        return f"has learned tokens {shown(min(unknown))}, and its base takes none of that name"
    for key, of_key in layers.items():
        rows, placeholder = tokens[key + OUTPUT], tokens[key + PLACEHOLDER]
        fault = fault_of_count(len(rows) if rows.ndim == 2 else 0, num_classes)
        if fault is not None:
            return fault
        if placeholder.ndim != 1 or rows.shape[1] != len(of_key) * len(placeholder):
            return f"has tokens of another width than {key + PLACEHOLDER}"
    return None
