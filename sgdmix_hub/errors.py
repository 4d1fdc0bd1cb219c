"""What can go wrong, as types, and how an error becomes one line that is safe to print. Imports
nothing of the package.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

OPENCV_NO_MEMORY = -4  # the code of cv2.error when an allocation fails
LONGEST_LINE = 300  # characters of a line that is printed or stored
LONGEST_VALUE = 80  # characters of a value that such a line quotes
TOKEN = re.compile(r"hf_[A-Za-z0-9]{20,}")

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


class UserError(Exception):
    """A mistake the user can mend: its message is one line that says what to do. The run ends with
    exit code 2.
    """

    def __init__(self, message: str):
        """The message is kept as `one_line` has it: it may quote what others wrote."""
        super().__init__(one_line(message))


class TooManySkipped(Exception):
    """More rows were skipped than max_skipped allows; everything else was written. Exit code 3."""


class Preempted(Exception):
    """The run was told to stop; what was finished is on disk. Exit code 75."""


class UnusableRow(Exception):
    """A row that cannot be made; its text is the reason that is recorded."""


class UnusableImage(UnusableRow):
    """An image that cannot be decoded; its text is the reason that is recorded."""


@dataclass(frozen=True)
class Unusable:
    """Why a row cannot be made, as a value: it stands in a list among the rows that can."""

    reason: str


def attempt(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | Unusable:
    """What the function returns for one row, or the reason if it raises `UnusableRow`."""
    try:
        return function(*args, **kwargs)
    except UnusableRow as error:
        return Unusable(str(error))


def among_usable(
    values: Sequence[T | Unusable],
    function: Callable[[list[int]], Sequence[R | Unusable]],
    batch_size: int | None = None,
) -> list[R | Unusable]:
    """The reasons of unusable rows, and for the others, in batches, what `function(rows)` returns.

    `function` is called with positions in `values`, and not at all if no row is usable.
    """
    rows = [row for row, value in enumerate(values) if not isinstance(value, Unusable)]
    size = batch_size or len(rows)
    results: dict[int, R | Unusable] = {}
    for start in range(0, len(rows), size or 1):
        batch = rows[start : start + size]
        results.update(zip(batch, function(batch), strict=True))
    return [
        value if isinstance(value, Unusable) else results[row] for row, value in enumerate(values)
    ]


@contextmanager
def one_row(what: str, unusable: type[UnusableRow] = UnusableRow) -> Iterator[None]:
    """Whatever a library raises for the data of one row becomes that row's reason, "what: what it
    says"; usable as a decorator too.

    The package's own errors pass, and so does a lack of memory, which says nothing about the row.
    Only for computations on data that are in memory: a disk that fails is no row's fault either.
    """
    try:
        yield
    except (UserError, TooManySkipped, Preempted, UnusableRow, MemoryError):
        raise
    except Exception as error:
        if getattr(error, "code", None) == OPENCV_NO_MEMORY:
            raise MemoryError(first_line(error)) from error
        raise unusable(f"{what}: {short_reason(error)}") from error


def short_reason(error: BaseException) -> str:
    """What an error says, short and without places: reasons are published. OpenCV's own words are
    in `err`.
    """
    text = (getattr(error, "err", None) or first_line(error)).split(" <_io")[0]
    return type(error).__name__ if "/" in text or "\\" in text else shown(text)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type when it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def shown(value: object, longest: int = LONGEST_VALUE) -> str:
    """A value as a message quotes it: control characters and lone surrogates escaped, tokens of the
    Hub left out, and the middle beyond `longest` characters.
    """
    text = str(value)
    text = TOKEN.sub("hf_...", text)
    if len(text) > 2 * longest:  # of which no more is shown
        text = text[:longest] + text[-longest:]
    text = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
    if len(text) > longest:
        half = (longest - 3) // 2
        text = f"{text[:half]}...{text[-half:]}"
    return text


def one_line(message: str) -> str:
    """Any message as one printable line of at most `LONGEST_LINE` characters."""
    return shown(" ".join(message.split()), LONGEST_LINE)


class EncoderDied(Exception):
    """An encoding process was killed from outside, or crashed."""
