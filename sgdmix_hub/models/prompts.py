"""Class -> learned tokens -> prompt, the same in training, sampling and cards; prompts of rows.

Tokens are made from the class's number; `adapter.json` maps class names to tokens. Names would not
do: they may collide, contain anything, or differ in case alone, which tokenizers ignore.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from sgdmix_hub.errors import UserError
from sgdmix_hub.settings.method import MethodSettings
from sgdmix_hub.settings.prompts import MOST_VECTORS, NAME_PROMPT
from sgdmix_hub.settings.strengths import keeps_to_the_end

if TYPE_CHECKING:
    from .adapters import Adapter
    from .bases.family import Encoder


@dataclass(frozen=True)
class RowPrompt:
    """What the diffusion model is told of one row.

    `text`: of the whole image. `background`: of what is painted around the source's foreground,
    for as long as that is kept; None if `text` is for then too.
    """

    text: str
    background: str | None = None

    def told(self, kept: bool) -> str:
        """The text of a step. `kept`: whether the foreground is kept in it."""
        return self.background if kept and self.background is not None else self.text


class Prompts:
    """The prompts that rows may have, numbered: template by template, each with every background.

    `settings.prompt_template` or else the adapter's own template, with `background_prompts`.
    """

    def __init__(
        self, settings: MethodSettings, adapter: Adapter | None, class_names: list[str] | None
    ):
        """`class_names`: for a base model without an adapter, in the order of the labels."""
        self.settings, self.adapter, self.class_names = settings, adapter, class_names or []
        own = NAME_PROMPT if adapter is None else adapter.facts["prompt_template"]
        self.templates = settings.prompt_template or [own]
        self.backgrounds = settings.background_prompts or [""]

    def __len__(self) -> int:
        return num_prompts(self.settings)

    @property
    def kept_to_the_end(self) -> bool:
        """Whether the source's foreground is kept through all steps."""
        return keeps_to_the_end(self.settings)

    def of(self, label: int, number: int) -> RowPrompt:
        """The prompt of a class with one of the numbers, 0 to `len(self) - 1`."""
        template, background = divmod(number, len(self.backgrounds))
        suffix, alone = self.backgrounds[background], self.settings.background_prompt_template
        text = self._of_class(label, self.templates[template])
        return RowPrompt(
            f"{text} {suffix}" if suffix else text,
            None if alone is None else alone.replace("{background}", suffix),
        )

    def texts(self, most: int) -> list[str] | None:
        """All texts that rows may have, each once; None if there could be more than `most`."""
        labels = range(len(self.class_names))
        if 2 * len(labels) * len(self) > most:
            return None
        prompts = [self.of(label, number) for label in labels for number in range(len(self))]
        texts = [text for prompt in prompts for text in (prompt.text, prompt.background)]
        return list(dict.fromkeys(text for text in texts if text is not None))

    def longest(self, length: Callable[[str], int]) -> list[str]:
        """The prompts of which no other is longer, if words add up: one of each kind of text.

        `length`: text -> its number of tokens.
        """
        alike = self.adapter is not None and self.adapter.learns_tokens
        labels = range(1 if alike else len(self.class_names))
        if not labels:
            return []
        first = [self.of(0, number) for number in range(len(self))]
        number = max(range(len(first)), key=lambda number: length(first[number].text))
        texts = [max((self.of(label, number).text for label in labels), key=length)]
        alone = [prompt.background for prompt in first if prompt.background is not None]
        return texts + ([max(alone, key=length)] if alone else [])

    def published(self, label: int, number: int) -> str:
        """What the column `prompt` says of such a row: the text of its last step."""
        return self.of(label, number).told(self.kept_to_the_end)

    def _of_class(self, label: int, template: str) -> str:
        if self.adapter is None:
            return name_prompt(self.class_names[label], template, self.settings.metaclass)
        return self.adapter.prompt(label, template)


def token_for(label: int) -> str:
    """The learned token of a class in prompts; it stands for all tokens of the class."""
    return f"<class_{label}>"


def tokens_of(label: int, num_vectors: int) -> list[str]:
    """All learned tokens of a class, named as diffusers names an embedding of several vectors."""
    return [token_for(label), *(f"{token_for(label)}_{number}" for number in range(1, num_vectors))]


def prompt_for(label: int, metaclass: str, template: str) -> str:
    """The prompt of a class (`a photo of a [v_i] [metaclass]`, paper section 3)."""
    return prompt_of(token_for(label), metaclass, template)


def prompt_of(word: str, metaclass: str, template: str) -> str:
    """The prompt of a class that this word or these words stand for."""
    return template.replace("{metaclass}", metaclass).replace("{token}", word)


def words_of(class_name: str) -> str:
    """What stands in a prompt for a class without learned tokens: its name."""
    return " ".join(class_name.replace("_", " ").split())


def expanded_prompt(label: int, num_vectors: int, metaclass: str, template: str) -> str:
    """The prompt of a class with all its tokens.

    diffusers' `maybe_convert_prompt` gives the same, but takes minutes for thousands of classes.
    """
    tokens = " ".join(tokens_of(label, num_vectors))
    return template.replace("{token}", tokens).replace("{metaclass}", metaclass)


def name_prompt(class_name: str, template: str, metaclass: str | None = None) -> str:
    """The prompt of a class without learned tokens of its own: with the class's name."""
    words = words_of(class_name)
    return template.replace("{metaclass}", metaclass or "").replace("{class_name}", words)


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


def fault_of_count(count: int, num_classes: int) -> str | None:
    """Why so many learned tokens are not those of an adapter of these classes, or None."""
    if count == 0 or count % num_classes:
        return f"has no tokens of {num_classes} classes"
    if count > MOST_VECTORS * num_classes:
        return f"has {count // num_classes} tokens a class, and at most {MOST_VECTORS} are taken"
    return None


def check_width(rows: torch.Tensor, network: Any) -> None:
    """Raises `ValueError` for learned rows, (..., dim), of another width than the encoder's.

    Assigned to its embeddings, rows of width 1 would fill all of it.
    """
    width = network.get_input_embeddings().weight.shape[1]
    if rows.shape[-1] != width:
        raise ValueError(
            f"learned tokens of width {rows.shape[-1]}, for a text encoder of width {width}"
        )


def prompt_ids(
    encoder: Encoder,
    tokenizer: Any,
    num_classes: int,
    num_vectors: int,
    metaclass: str,
    template: str,
    class_names: list[str] | None = None,
) -> torch.Tensor:
    """Input ids of every class's prompt and, last, of the bare prompt: int64 (classes + 1, length).

    Padding that the encoder masks is negative, `~id`. The tokenizer has the tokens. Raises
    `UserError` if a prompt is too long for the text encoder, or if the tokenizer does not find the
    tokens in it. `class_names`: what prompts name without learned tokens, at `num_vectors` 0.
    """
    if num_vectors == 0:
        words = map(words_of, class_names or [])
        prompts, expanded = [], [prompt_of(word, metaclass, template) for word in words]
    else:
        labels = range(num_classes)
        prompts = [prompt_for(label, metaclass, template) for label in labels]
        expanded = [expanded_prompt(label, num_vectors, metaclass, template) for label in labels]
    expanded.append(bare_prompt(metaclass, template))
    expanded = [encoder.text(tokenizer, text) for text in expanded]
    length, read = max(map(len, tokenizer(expanded).input_ids)), encoder.reads(tokenizer)
    if length > read:
        raise UserError(
            f"the prompt takes {length} tokens, the text encoder reads "
            f"{read}: shorten prompt_template or lower num_vectors"
        )
    length = read if encoder.padded else length
    tokens = tokenizer(expanded, padding="max_length", max_length=length, return_tensors="pt")
    ids = tokens.input_ids
    if encoder.masked:
        ids = torch.where(tokens.attention_mask == 0, ~ids, ids)
    shorts = tokenizer(prompts).input_ids if prompts else []
    for label, (prompt, short) in enumerate(zip(prompts, shorts, strict=True)):
        wanted = tokenizer.convert_tokens_to_ids(tokens_of(label, num_vectors))
        # diffusers draws with the short prompt and looks for the first token in it
        if wanted[0] not in short or not set(wanted) <= set(ids[label].tolist()):
            raise UserError(
                f"the tokenizer lost {token_for(label)} in {prompt!r}: put spaces around {{token}}"
            )
    return ids


def num_prompts(settings: MethodSettings) -> int:
    """How many prompts a row of one class may have."""
    return len(settings.prompt_template or [None]) * len(settings.background_prompts or [None])
