"""What the texts of prompts may hold: known fields in braces, and no learned token.

A template's text may come from a published configuration. It is replaced, never formatted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from sgdmix_hub.errors import UserError, shown

MOST_VECTORS = 64  # learned tokens of a class
NAME_PROMPT = "a photo of a {class_name}"  # for a base model without an adapter
FIELD = re.compile(r"\{([^{}]*)\}")
LEARNED_TOKEN = re.compile("<class_", re.IGNORECASE)  # tokenizers ignore the case
# Fields of a template -> how often each may stand in it: the fewest and the most times.
Fields = dict[str, tuple[int, int]]
ADAPTER_FIELDS: Fields = {"token": (1, 1), "metaclass": (0, 1)}
NAME_FIELDS: Fields = {"class_name": (1, 1), "metaclass": (0, 1)}
NO_FIELDS: Fields = {}


def check_templates(setting: str, templates: Iterable[str], fields: Fields) -> None:
    """Raises `UserError` unless every template holds the fields, as often as they may, and no
    learned token.
    """
    for template in templates:
        _check(setting, template, fields)


def _check(setting: str, template: str, fields: Fields) -> None:
    found = FIELD.findall(template)
    if unknown := [name for name in found if name not in fields]:
        known = " and ".join(f"{{{name}}}" for name in fields) or "no field"
        raise UserError(
            f"{setting} holds {{{shown(unknown[0])}}}: it takes {known}: {shown(template)}"
        )
    if re.search("[{}]", FIELD.sub("", template)):
        raise UserError(f"{setting} has a brace without its pair: {shown(template)}")
    for name, (fewest, most) in fields.items():
        if not fewest <= found.count(name) <= most:
            often = "exactly once" if fewest else "at most once"
            raise UserError(f"{setting} must contain {{{name}}} {often}: {shown(template)}")
    if LEARNED_TOKEN.search(template):
        raise UserError(
            f"{setting} names a learned token, which only {{token}} may: {shown(template)}"
        )
