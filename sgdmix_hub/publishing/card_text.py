"""A card's YAML and template as one text."""

from __future__ import annotations

from pathlib import Path

import jinja2
from huggingface_hub import CardData

from .card_merge import plain
from .card_yaml import write_card_yaml

LONGEST_NAME = 200  # characters of a class's name in a card's tables; the YAML has all of it


def card_text(card_data: CardData, template: Path, /, **fields) -> str:
    """What huggingface_hub's `RepoCard.from_template` gives, which writes the YAML twice and reads
    it once in Python: half a minute for 10,000 classes.
    """
    written = write_card_yaml(card_data.to_dict()).strip()
    return jinja2.Template(template.read_text(encoding="utf-8")).render(card_data=written, **fields)


def plain_name(name: str) -> str:
    """A class's name as one line of Markdown without any markup of its own, not longer than a table
    can show.
    """
    return plain(name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…")
