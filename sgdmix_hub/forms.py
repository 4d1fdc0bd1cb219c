"""Schemas of JSON files from elsewhere, as tables. A file is checked once, where it is read.

A form is a function of a value: what is wrong with it, in words that follow its name, or None.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import NoReturn, TypeGuard

from .errors import UserError, first_line, one_line, shown

Form = Callable[[object], "str | None"]
LARGEST_COUNT = 2**63 - 1  # the largest int64, the type of columns
LONGEST_NAME = 1000  # characters
LONGEST_FILE_NAME = 250  # bytes; file systems take 255
LARGEST_FILE = 2**29  # bytes; a manifest of 50,000 shards has 8 million


def of_kind(words: str, holds: Callable[[object], bool]) -> Form:
    """A value for which `holds` is true. `words`: what the value should be."""
    return lambda value: None if holds(value) else f"is not {words}"


def optional(form: Form) -> Form:
    """Null, or a value of the form."""
    return lambda value: None if value is None else form(value)


def listing(form: Form, length: int | None = None, empty: bool = True) -> Form:
    """A list of values of one form, with the length if one is given, and values unless `empty`."""

    def check(values: object) -> str | None:
        is_list = isinstance(values, Sequence) and not isinstance(values, str)
        if not is_list or length not in (None, len(values)):
            return "is not a list" if length is None else f"is not a list of {length}"
        if not values and not empty:
            return "is empty"
        return next(
            (f"[{place}] {fault}" for place, value in enumerate(values) if (fault := form(value))),
            None,
        )

    return check


def mapping(form: Form, key: Form | None = None) -> Form:
    """An object whose values have one form, and its names the form `key`."""

    def check(values: object) -> str | None:
        if not isinstance(values, dict):
            return "is not an object"
        for name, value in values.items():
            fault = (key and key(name)) or form(value)
            if fault:
                return f"{shown(name)} {fault}"
        return None

    return check


def record(required: dict[str, Form], others: dict[str, Form] | None = None) -> Form:
    """An object with all names in `required`, and optionally those in `others`. Ignores other
    names.
    """

    def check(values: object) -> str | None:
        if not isinstance(values, dict):
            return "is not an object"
        missing = [name for name in required if name not in values]
        if missing:
            return f"lacks {missing[0]}"
        forms = required | (others or {})
        return next(
            (
                f"{name} {fault}"
                for name, form in forms.items()
                if name in values and (fault := form(values[name]))
            ),
            None,
        )

    return check


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def _is_name(value: object) -> TypeGuard[str]:
    return _is_text(value) and value.isprintable() and len(value) <= LONGEST_NAME


def _is_file_name(value: object) -> TypeGuard[str]:
    if not _is_text(value) or not value.isprintable():
        return False
    if not 0 < len(value.encode()) <= LONGEST_FILE_NAME:
        return False
    path = PurePosixPath(value)
    return (
        path.as_posix() == value != "."
        and not path.is_absolute()
        and "\\" not in value
        and ".." not in path.parts
    )


def _is_number(value: object) -> TypeGuard[float]:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and abs(value) <= LARGEST_COUNT
        and math.isfinite(value)
    )


TEXT = of_kind("a text", _is_text)
NAME = of_kind(f"one printable line of at most {LONGEST_NAME} characters", _is_name)
FILE_NAME = of_kind("the name of a file in this folder", _is_file_name)
NUMBER = of_kind("a number", _is_number)
SHARE = of_kind("a number in [0, 1]", lambda value: _is_number(value) and 0 <= value <= 1)
COUNT = of_kind("a count", lambda value: type(value) is int and 0 <= value <= LARGEST_COUNT)
SHA256 = of_kind(
    "a sha256",
    lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None,
)
HUB_PIN = re.compile(r"\w[\w.-]*/\w[\w.-]*@[0-9a-f]{40}", re.ASCII)
# a local folder's name, without its path, and the hash of its content
LOCAL_PIN = re.compile(r"[^/]+@sha256-[0-9a-f]{64}")


def _is_pin(value: object) -> bool:
    return _is_name(value) and any(pattern.fullmatch(value) for pattern in (HUB_PIN, LOCAL_PIN))


PIN = of_kind("an input at a commit (org/name@40-hex) or content hash", _is_pin)


def read_formed(path: Path, form: Form) -> dict:
    """A JSON file of this form. Raises `UserError`, with the file's name, if it cannot be read or
    has another form.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(f"larger than {LARGEST_FILE >> 20} MiB")
        values = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except OSError as error:
        raise UserError(f"{shown(path)} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(one_line(f"{shown(path)} is not JSON: {first_line(error)}")) from error
    fault = form(values)
    if fault is not None:
        raise UserError(one_line(f"{shown(path)} is not as sgdmix_hub writes it: {fault}"))
    return values


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")
