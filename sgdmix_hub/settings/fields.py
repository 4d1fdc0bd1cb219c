"""The fields of settings: default, help text, bounds, and what a setting changes.

`Checked` holds every value to its type and bounds, in Python and on the command line alike.
"""

from __future__ import annotations

import dataclasses
import math
import os
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from sgdmix_hub.errors import UserError, shown

LONGEST_TEXT = 4096  # characters, as long as a path can be
LONGEST_NAME = 100  # characters of a column, split or repository
LONGEST_PROMPT = 1000
MOST_VALUES = 100  # in a list
MOST_ROWS = 1000  # in a list of row numbers
LARGEST_SEED = 2**32 - 1  # NumPy's global generator, which trainings seed too, takes no more
# control characters, lone surrogates, line and paragraph separators
UNWRITABLE = ("Cc", "Cs", "Zl", "Zp")

# What another value of a setting changes: the images (of a training: the weights or measurements),
# rounding at most, or nothing that is published.
Changes = Literal["result", "last_bits", "nothing"]
INFO = "info"  # the key of a field's metadata that holds its `SettingInfo`

AUTO = "auto"
if TYPE_CHECKING:
    CountOrAuto = int | Literal["auto"]
    NumberOrAuto = float
else:

    class CountOrAuto:
        """The type of a field that takes a whole number or `auto`."""

    class NumberOrAuto:
        """The type of a list's numbers, in whose place the list may be `auto`."""


@dataclass(frozen=True)
class Bounds:
    """The range of a number. For a text, `at_most` is its number of characters."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    multiple_of: float | None = None

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
        kind = "a value" if self.multiple_of is None else f"a multiple of {self.multiple_of}"
        left = f"[{self.at_least:g}" if self.above is None else f"({self.above:g}"
        right = f"{self.at_most}]" if self.below is None else f"{self.below:g})"
        return f"{kind} in {left}, {right}"


@dataclass(frozen=True)
class SettingInfo:
    """What a field says of its setting besides default and help.

    `pinned`: names an input (dataset or model) that is recorded as its pin, not by this name.
    `makes_masks`: decides how a saliency map becomes a mask.
    """

    bounds: Bounds
    changes: Changes = "result"
    pinned: bool = False
    makes_masks: bool = False


def setting(
    default: Any,
    help: str,
    *,
    changes: Changes = "result",
    pinned: bool = False,
    makes_masks: bool = False,
    **bounds: float,
) -> Any:
    """A dataclass field with a default. `help` is shown by `--help`; every number needs a lower and
    an upper bound.
    """
    info = SettingInfo(Bounds(**bounds), changes, pinned, makes_masks)
    metadata = {"help": help, INFO: info}
    if isinstance(default, list):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def required(
    help: str, *, changes: Changes = "result", pinned: bool = False, **bounds: float
) -> Any:
    """A dataclass field without a default."""
    info = SettingInfo(Bounds(**bounds), changes, pinned)
    return dataclasses.field(metadata={"help": help, INFO: info})


def unset(settings_class: type[Checked], name: str) -> Any:
    """The field `name` of another class, with None as its default: declare it as `type | None`."""
    return dataclasses.field(default=None, metadata=_fields(settings_class)[name].metadata)


def same(settings_class: type[Checked], name: str, default: Any = dataclasses.MISSING) -> Any:
    """The field `name` of another class, with its default unless another one is given."""
    field = _fields(settings_class)[name]
    if default is dataclasses.MISSING:
        default = field.default
    return dataclasses.field(default=default, metadata=field.metadata)


def info_of(field: dataclasses.Field) -> SettingInfo:
    """What a field that `setting`, `required`, `unset` or `same` made says of its setting."""
    return field.metadata[INFO]


def names_where(settings_class: type[Checked], **values: object) -> tuple[str, ...]:
    """Names of the settings whose `SettingInfo` has these values, in the order of their fields."""
    return tuple(
        name
        for name, field in _fields(settings_class).items()
        if all(getattr(info_of(field), key) == value for key, value in values.items())
    )


@dataclass(kw_only=True)
class Checked:
    """Base of all settings: every value has the field's type, is a known word, and lies within the
    bounds.
    """

    def __post_init__(self) -> None:
        """Converts every value to the type of its field. Raises `UserError`."""
        hints = hints_of(type(self))
        for name, field in _fields(type(self)).items():
            value = checked(name, getattr(self, name), hints[name], info_of(field).bounds)
            setattr(self, name, value)

    def validate(self) -> None:
        """Raises `UserError` on values that cannot be used together."""


def _fields(settings_class: type[Checked]) -> dict[str, dataclasses.Field]:
    return {field.name: field for field in dataclasses.fields(settings_class)}


@lru_cache
def hints_of(settings_class: type[Checked]) -> dict[str, Any]:
    """The fields' types by name."""
    return get_type_hints(settings_class)


def checked(name: str, value: object, hint: Any, bounds: Bounds) -> object:
    """A value converted to the type `hint`. Raises `UserError` with the setting, the value, and
    what to give.

    Also accepts: NumPy's numbers, torch's dtypes as words, paths as texts, a number or a text as a
    list of one.
    """
    options = get_args(hint)
    if type(None) in options:
        if value is None:
            return None
        (hint,) = (option for option in options if option is not type(None))
    if get_origin(hint) is Literal:
        return _word(name, value, get_args(hint))
    if get_origin(hint) is list:
        (item,) = get_args(hint)
        return LISTS[item](name, value, bounds)
    kinds = {bool: _flag, int: _whole, CountOrAuto: _whole_or_auto, float: _number, str: _text}
    return kinds[hint](name, value, bounds)


def _word(name: str, value: object, words: tuple[str, ...]) -> str:
    word = str(value).removeprefix("torch.") if type(value).__name__ == "dtype" else value
    if not isinstance(word, str) or word not in words:
        raise UserError(f"{name} is {shown(value)}: choose {', '.join(words)}")
    return str(word)


def _flag(name: str, value: object, bounds: Bounds) -> bool:
    if type(value).__name__ not in ("bool", "bool_"):  # NumPy 2 and NumPy 1
        raise UserError(f"{name} is {shown(value)}: give True or False")
    return bool(value)


def _whole(name: str, value: object, bounds: Bounds) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise UserError(f"{name} is {shown(value)}: give a whole number")
    return _within(name, int(value), bounds)


def _whole_or_auto(name: str, value: object, bounds: Bounds) -> int | str:
    if isinstance(value, str) and value == AUTO:
        return AUTO
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise UserError(f"{name} is {shown(value)}: give a whole number, or {AUTO}")
    return _within(name, int(value), bounds)


def _number(name: str, value: object, bounds: Bounds) -> float:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise UserError(f"{name} is {shown(value)}: give a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    return _within(name, number, bounds)


def _numbers(name: str, value: Any, bounds: Bounds) -> list[float]:
    values = [value] if isinstance(value, Real) else value
    is_list = not isinstance(values, str) and hasattr(values, "__len__")
    if not is_list or not 1 <= len(values) <= MOST_VALUES:
        raise UserError(
            f"{name} is {shown(value)}: give a number, or a list of at most {MOST_VALUES}"
        )
    return [_number(name, number, bounds) for number in values]


def _numbers_or_auto(name: str, value: Any, bounds: Bounds) -> list:
    if value == AUTO or (isinstance(value, list) and value == [AUTO]):
        return [AUTO]
    if isinstance(value, list) and AUTO in value:
        raise UserError(f"{name} is {shown(value)}: give numbers, or {AUTO} alone")
    return _numbers(name, value, bounds)


def _rows(name: str, value: Any, bounds: Bounds) -> list[int]:
    """A list of different row numbers, ascending: their order has no meaning."""
    values = [value] if isinstance(value, Integral) else value
    is_list = not isinstance(values, str) and hasattr(values, "__len__")
    if not is_list or not 1 <= len(values) <= MOST_ROWS:
        raise UserError(
            f"{name} is {shown(value)}: give a row number, or a list of at most {MOST_ROWS}"
        )
    return sorted({_whole(name, number, bounds) for number in values})


def _texts(name: str, value: Any, bounds: Bounds) -> list[str]:
    """A list of different texts, none of which could pass for a setting on the command line."""
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple) or not 1 <= len(values) <= MOST_VALUES:
        raise UserError(
            f"{name} is {shown(value)}: give a text, or a list of at most {MOST_VALUES}"
        )
    texts = [_text(name, text, bounds) for text in values]
    for text in texts:
        if text.startswith("-"):
            raise UserError(f"{name} is {shown(text)}: a text of a list must not begin with -")
    if len(set(texts)) < len(texts):
        twice = max(texts, key=texts.count)
        raise UserError(f"{name} contains {shown(twice)} twice: give every text once")
    return texts


def _within(name: str, number: float, bounds: Bounds) -> Any:
    if not math.isfinite(number) or not bounds.hold(number):
        raise UserError(f"{name} is {shown(number)}: give {bounds}")
    return number


def _text(name: str, value: object, bounds: Bounds) -> str:
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str):
        raise UserError(f"{name} is {shown(value)}: give text")
    longest = bounds.at_most or LONGEST_TEXT
    if not text.strip():
        raise UserError(f"{name} is empty: give a value, or leave the setting out")
    if len(text) > longest:
        raise UserError(f"{name} has {len(text)} characters: give at most {longest}")
    if any(unicodedata.category(character) in UNWRITABLE for character in text):
        raise UserError(f"{name} is {shown(text)}: remove the character that cannot be printed")
    return str(text)


# The type of a list's items -> what reads the list.
LISTS = {float: _numbers, NumberOrAuto: _numbers_or_auto, int: _rows, str: _texts}
