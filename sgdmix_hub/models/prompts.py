"""Class -> learned tokens -> prompt, the same in training, sampling and cards.

Tokens are made from the class's number; `adapter.json` maps class names to tokens. Names would not
do: they may collide, contain anything, or differ in case alone, which tokenizers ignore.
"""

from __future__ import annotations

from typing import Any

import torch

from sgdmix_hub.errors import UserError


def token_for(label: int) -> str:
    """The learned token of a class in prompts; it stands for all tokens of the class."""
    return f"<class_{label}>"


def tokens_of(label: int, num_vectors: int) -> list[str]:
    """All learned tokens of a class, named as diffusers names an embedding of several vectors."""
    return [token_for(label), *(f"{token_for(label)}_{number}" for number in range(1, num_vectors))]


def prompt_for(label: int, metaclass: str, template: str) -> str:
    """The prompt of a class (`a photo of a [v_i] [metaclass]`, paper section 3)."""
    return template.replace("{token}", token_for(label)).replace("{metaclass}", metaclass)


def expanded_prompt(label: int, num_vectors: int, metaclass: str, template: str) -> str:
    """The prompt of a class with all its tokens.

    diffusers' `maybe_convert_prompt` gives the same, but takes minutes for thousands of classes.
    """
    tokens = " ".join(tokens_of(label, num_vectors))
    return template.replace("{token}", tokens).replace("{metaclass}", metaclass)


def name_prompt(class_name: str, template: str) -> str:
    """The prompt of a class for a base model without learned tokens: with the class's name."""
    return template.replace("{class_name}", " ".join(class_name.replace("_", " ").split()))


def bare_prompt(metaclass: str, template: str) -> str:
    """The prompt without a class, which shows what the base knows of the metaclass."""
    return " ".join(template.replace("{token}", "").replace("{metaclass}", metaclass).split())


def add_tokens(tokenizer: Any, num_classes: int, num_vectors: int) -> None:
    """Adds every class's tokens, in the order of the classes.

    Raises `UserError` if the tokenizer has one of them already, in upper or lower case.
    """
    tokens = [token for label in range(num_classes) for token in tokens_of(label, num_vectors)]
    known = {word.lower() for word in tokenizer.get_vocab()}
    taken = next((token for token in tokens if token in known), None)
    if taken is not None:
        raise UserError(
            f"the base model's tokenizer already has {taken}: "
            "it was adapted before, use the original base"
        )
    tokenizer.add_tokens(tokens)


def prompt_ids(
    tokenizer: Any, num_classes: int, num_vectors: int, metaclass: str, template: str
) -> torch.Tensor:
    """Input ids of every class's prompt and, last, of the bare prompt: int64 (classes + 1, length).

    The tokenizer has the tokens. Raises `UserError` if a prompt is too long for the text
    encoder, or if the tokenizer does not find the tokens in it.
    """
    prompts = [prompt_for(label, metaclass, template) for label in range(num_classes)]
    expanded = [
        expanded_prompt(label, num_vectors, metaclass, template) for label in range(num_classes)
    ]
    expanded.append(bare_prompt(metaclass, template))
    length = max(len(ids) for ids in tokenizer(expanded).input_ids)
    if length > tokenizer.model_max_length:
        raise UserError(
            f"the prompt takes {length} tokens, the text encoder reads "
            f"{tokenizer.model_max_length}: shorten prompt_template or lower num_vectors"
        )
    ids = tokenizer(
        expanded, padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt"
    ).input_ids
    for label, (prompt, short) in enumerate(
        zip(prompts, tokenizer(prompts).input_ids, strict=True)
    ):
        wanted = tokenizer.convert_tokens_to_ids(tokens_of(label, num_vectors))
        # diffusers draws with the short prompt and looks for the first token in it
        if wanted[0] not in short or not set(wanted) <= set(ids[label].tolist()):
            raise UserError(
                f"the tokenizer lost {token_for(label)} in {prompt!r}: put spaces around {{token}}"
            )
    return ids
