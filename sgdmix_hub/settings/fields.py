"""The fields of settings: a default, the text of `--help`, bounds; and one check of their values,
for Python and command line alike.
"""

from __future__ import annotations

import dataclasses
import math
import os
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral, Real
from typing import Any, Literal, get_args, get_origin, get_type_hints

from sgdmix_hub.errors import UserError, shown

LONGEST_TEXT = 4096  # characters: a path is no longer
LONGEST_NAME = 100  # of columns, splits, repositories: no library or file system refuses it
LONGEST_PROMPT = 1000
MOST_VALUES = 100  # in a list
LARGEST_SEED = 2**32 - 1  # NumPy's own generator, which trainings seed too, takes no more
UNWRITABLE = (
    "Cc",
    "Cs",
    "Zl",
    "Zp",
)  # control characters, lone surrogates, line ends: none is part of a name or a prompt


@dataclass(frozen=True)
class Bounds:
    """The values a number may have; of a text, `at_most` is the number of its characters."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    multiple_of: int | None = None

    def hold(self, value: float) -> bool:
        """Whether a finite number is within them."""
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
            and (self.multiple_of is None or value % self.multiple_of == 0)
        )

    def __str__(self) -> str:
        left = f"[{self.at_least:g}" if self.above is None else f"({self.above:g}"
        right = f"{self.at_most}]" if self.below is None else f"{self.below:g})"
        return f"{'a value' if self.multiple_of is None else f'a multiple of {self.multiple_of}'} in {left}, {right}"


def setting(default, help: str, **bounds):
    """A dataclass field with a default, the text that `--help` shows, and `Bounds`: every number
    has a lower and an upper one.
    """
    metadata = {"help": help, "bounds": Bounds(**bounds)}
    if isinstance(default, list):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def required(help: str, **bounds):
    """A dataclass field that has to be given."""
    return dataclasses.field(metadata={"help": help, "bounds": Bounds(**bounds)})


class Checked:
    """Settings that cannot exist with a value of the wrong type, an unknown word, or a number out
    of its bounds.
    """

    def __post_init__(self) -> None:
        """Puts every field's value into the type that it is declared with. Raises `UserError`."""
        hints = hints_of(type(self))
        for field in dataclasses.fields(self):
            setattr(
                self,
                field.name,
                checked(
                    field.name,
                    getattr(self, field.name),
                    hints[field.name],
                    field.metadata["bounds"],
                ),
            )


@lru_cache
def hints_of(settings_class: type) -> dict[str, Any]:
    """The fields' types by name."""
    return get_type_hints(settings_class)


def checked(name: str, value: object, hint: Any, bounds: Bounds) -> object:
    """A setting's value as its type `hint` has it: numbers may be NumPy's, a word of a `Literal`
    torch's data type, a text a path, one number stands for a list of it. Raises `UserError`, which
    names the setting, the value, and what to give.
    """
    options = get_args(hint)
    if type(None) in options:
        if value is None:
            return None
        (hint,) = (option for option in options if option is not type(None))
    if get_origin(hint) is Literal:
        return _word(name, value, get_args(hint))
    if get_origin(hint) is list:
        return _numbers(name, value, bounds)
    return {bool: _flag, int: _whole, float: _number, str: _text}[hint](name, value, bounds)


def _word(name: str, value: object, words: tuple[str, ...]) -> str:
    word = str(value).removeprefix("torch.") if type(value).__name__ == "dtype" else value
    if not isinstance(word, str) or word not in words:
        raise UserError(f"{name} is {shown(value)}: choose {', '.join(words)}")
    return str(word)


def _flag(name: str, value: object, bounds: Bounds) -> bool:
    if type(value).__name__ not in ("bool", "bool_"):  # NumPy's has either name
        raise UserError(f"{name} is {shown(value)}: give True or False")
    return bool(value)


def _whole(name: str, value: object, bounds: Bounds) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise UserError(f"{name} is {shown(value)}: give a whole number")
    return _within(name, int(value), bounds)


def _number(name: str, value: object, bounds: Bounds) -> float:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise UserError(f"{name} is {shown(value)}: give a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    return _within(name, number, bounds)


def _numbers(name: str, value: object, bounds: Bounds) -> list[float]:
    values = [value] if isinstance(value, Real) else value
    if (
        isinstance(values, str)
        or not hasattr(values, "__len__")
        or not 1 <= len(values) <= MOST_VALUES
    ):
        raise UserError(
            f"{name} is {shown(value)}: give a number, or a list of at most {MOST_VALUES}"
        )
    return [_number(name, number, bounds) for number in values]


def _within(name: str, number: float, bounds: Bounds) -> Any:
    if not math.isfinite(number) or not bounds.hold(number):
        raise UserError(f"{name} is {shown(number)}: give {bounds}")
    return number


def _text(name: str, value: object, bounds: Bounds) -> str:
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str):
        raise UserError(f"{name} is {shown(value)}: give a text")
    longest = bounds.at_most or LONGEST_TEXT
    if not text.strip():
        raise UserError(f"{name} is empty: give one, or leave the setting out")
    if len(text) > longest:
        raise UserError(f"{name} has {len(text)} characters: give at most {longest}")
    if any(unicodedata.category(character) in UNWRITABLE for character in text):
        raise UserError(
            f"{name} is {shown(text)}: it holds a character that cannot be written; leave that out"
        )
    return str(text)
