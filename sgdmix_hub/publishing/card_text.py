"""A card's YAML and template as one text."""

from __future__ import annotations

from pathlib import Path

import jinja2
import yaml
from huggingface_hub import CardData

from .card_merge import plain

LONGEST_NAME = 200  # characters of a class's name in a card's tables; the YAML has all of it
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # libyaml's, where PyYAML was built with it


def card_text(card_data: CardData, template: Path, /, **fields) -> str:
    """What huggingface_hub's `RepoCard.from_template` gives, which writes the YAML twice and reads it once in Python: half a minute for
    10,000 classes."""
    written = yaml.dump(card_data.to_dict(), Dumper=DUMPER, sort_keys=False, allow_unicode=True).strip()
    return jinja2.Template(template.read_text(encoding="utf-8")).render(card_data=written, **fields)


def plain_name(name: str) -> str:
    """A class's name as one line of Markdown without any markup of its own, not longer than a table can show."""
    return plain(name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…")
