"""YAML files of settings: flat, small, and read plainly. Values are texts, YAML 1.2's numbers and
truth values, or lists of numbers.

PyYAML's own loader follows YAML 1.1, where 12:30:45 is 45045, 0x1F is 31, and `no` is false. Here
these are the texts they look like.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import yaml

from sgdmix_hub.errors import UserError, shown

LARGEST_FILE = 100_000  # bytes: the largest published one has 3,000
DEEPEST = 10  # what is nested in what, of a file that is to be flat
NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)


class PlainLoader(yaml.SafeLoader):
    """Strict and small: a key stands once, nothing refers to something else, and few values are
    more than text.
    """

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
        """YAML's last-one-wins on repeated keys would hide a mistake."""
        counts = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        repeated = sorted(name for name, times in counts.items() if times > 1)
        if repeated:
            raise UserError(f"{repeated[0]} stands twice: keep one")
        return super().construct_mapping(node, deep=deep)


for tag, pattern, first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    (
        "int",
        r"[-+]?[0-9]{1,30}",
        list("-+0123456789"),
    ),  # longer ones are texts, which no setting takes for a number
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    PlainLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{tag}", re.compile(rf"^(?:{pattern})$"), first
    )


def decimal(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    """`007` is seven, as on the command line, and no octal number. Raises `ConstructorError` on
    `!!int` of anything else.
    """
    try:
        return int(loader.construct_scalar(node))
    except ValueError as error:
        raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from None


PlainLoader.add_constructor("tag:yaml.org,2002:int", decimal)


def read_yaml(path: str | Path) -> dict:
    """A YAML file as a flat dictionary: name -> text, number, truth value, or a list of numbers.
    Raises `UserError`, with the file's name, when it cannot be read, is malformed, large, nested,
    or holds a null.
    """
    name = shown(path)
    text = _text_of(path, name)
    try:
        values = yaml.load(text, Loader=PlainLoader)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    except (
        yaml.YAMLError,
        ValueError,
        TypeError,
        RecursionError,
    ) as error:  # a tag may ask for what a value is not
        raise UserError(
            f"{name} is not valid YAML: {shown(' '.join(str(error).split()), 200)}"
        ) from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise UserError(f"{name}: expected lines of `name: value`")
    for key, value in values.items():
        _check_flat(name, key, value)
    return values


def _text_of(path: str | Path, name: str) -> str:
    if not str(path):
        raise UserError("config is empty: name a YAML file, or leave it out")
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise UserError(
                f"{name} is larger than {LARGEST_FILE} bytes: it holds more than settings"
            )
        return content.decode("utf-8")
    except FileNotFoundError:
        raise UserError(f"{name}: no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not valid YAML: {error}") from None
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        raise UserError(
            f"{name} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None


def _check_flat(name: str, key: object, value: object) -> None:
    if not isinstance(key, str) or not NAME.fullmatch(key):
        raise UserError(f"{name}: {shown(key)} is no name of a setting")
    if value is None:
        raise UserError(f"{name}: {key} has no value: give one or leave the line out")
    if (
        isinstance(value, list) and value
    ):  # of numbers alone: a text in a list could pass for the name of another setting
        if not all(
            isinstance(number, (int, float)) and not isinstance(number, bool) for number in value
        ):
            raise UserError(f"{name}: {key} must be one value or a list of numbers")
    elif not isinstance(value, (str, int, float, bool)):
        raise UserError(
            f"{name}: {key} must be one value or a list of numbers, not a {type(value).__name__}"
        )
