"""YAML files of settings: flat, small, and without surprises.

A value is text, a number or truth value of YAML 1.2, or a list of numbers or of texts. PyYAML's
own loader follows YAML 1.1, where 12:30:45 is 45045, 0x1F is 31, and `no` is false; here these are
text.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from sgdmix_hub.errors import UserError, shown

LARGEST_FILE = 100_000  # bytes; the largest published file has 3,000
DEEPEST = 10  # levels of nesting, where the file should have one
NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
# Tag -> pattern, and the characters a value starts with. Longer integers stay text, which no
# setting takes for a number.
SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]{1,30}", list("-+0123456789")),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}


class PlainLoader(yaml.SafeLoader):
    """Strict: no repeated keys, no aliases, little nesting, few types."""

    yaml_implicit_resolvers = {}
    depth = 0

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise UserError("it refers to a value by *name: write the value out")
        self.depth += 1
        if self.depth > DEEPEST:
            raise UserError("it is nested: give lines of `name: value`")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node, deep=False):
        """Refuses repeated keys: YAML would silently take the last one."""
        counts = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        repeated = sorted(name for name, times in counts.items() if times > 1)
        if repeated:
            raise UserError(f"{repeated[0]} appears twice: keep one")
        return super().construct_mapping(node, deep=deep)


for tag, (pattern, first) in SCALARS.items():
    PlainLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{tag}", re.compile(rf"^(?:{pattern})$"), first
    )


def decimal(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    """Reads `007` as seven, as the command line does, not as octal. Raises `ConstructorError` on
    `!!int` of anything else.
    """
    try:
        return int(str(loader.construct_scalar(node)))
    except ValueError as error:
        raise ConstructorError(None, None, str(error), node.start_mark) from None


PlainLoader.add_constructor("tag:yaml.org,2002:int", decimal)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file as a flat dictionary: name -> text, number, truth value, or list of numbers or
    texts.

    Raises `UserError`, with the file's name, if the file cannot be read, is malformed, large or
    nested, or contains a null.
    """
    name = shown(path)
    text = _text_of(path, name)
    try:
        values = yaml.load(text, Loader=PlainLoader)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    # the last three come from explicit tags, such as `!!float [1]`
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        reason = shown(" ".join(str(error).split()), 200)
        raise UserError(f"{name} is not valid YAML: {reason}") from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise UserError(f"{name}: expected lines of `name: value`")
    for key, value in values.items():
        _check_flat(name, key, value)
    return values


def _text_of(path: str | Path, name: str) -> str:
    if not str(path):
        raise UserError("config is empty: give a YAML file, or leave the setting out")
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise UserError(
                f"{name} is larger than {LARGEST_FILE} bytes: a file of settings is smaller"
            )
        return content.decode("utf-8")
    except FileNotFoundError:
        raise UserError(f"{name}: no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not valid YAML: {error}") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{name} cannot be read: {reason}") from None


def _check_flat(name: str, key: object, value: object) -> None:
    if not isinstance(key, str) or not NAME.fullmatch(key):
        raise UserError(f"{name}: {shown(key)} is not the name of a setting")
    if value is None:
        raise UserError(f"{name}: {key} has no value: give one or remove the line")
    if isinstance(value, list) and value:
        # with a - in front, text in a list could pass for the name of another setting
        if not all(map(_is_number, value)) and not all(map(_is_plain_text, value)):
            raise UserError(
                f"{name}: {key} must be one value or a list of numbers, or of texts that do not "
                "begin with -"
            )
    elif not isinstance(value, (str, int, float, bool)):
        kind = type(value).__name__
        raise UserError(f"{name}: {key} must be one value or a list of them, not a {kind}")


def _is_plain_text(value: object) -> bool:
    return isinstance(value, str) and not value.startswith("-")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
