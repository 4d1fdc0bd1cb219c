"""The list of rows that somebody looked at and marked as bad: source_index,variant in a CSV file.

The studio writes it; `sgdmix evaluate --drop` leaves these rows out of the scored dataset.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from sgdmix_hub.errors import UserError, first_line, shown
from sgdmix_hub.files import write_text
from sgdmix_hub.forms import LARGEST_COUNT

HEADER = ["source_index", "variant"]
LARGEST_FILE = 50_000_000  # bytes; a million rows have 12
DroppedRow = tuple[int, int]  # source_index, variant


def text_of(rows: Iterable[DroppedRow]) -> str:
    """The content of the file, in the order of the rows."""
    lines = [",".join(HEADER), *(f"{source},{variant}" for source, variant in sorted(rows))]
    return "\n".join(lines) + "\n"


def write_drop_list(path: Path, rows: Iterable[DroppedRow]) -> None:
    """Writes the file, atomically."""
    write_text(path, text_of(rows))


def read_drop_list(path: str | Path) -> set[DroppedRow]:
    """The rows of a file. Raises `UserError`."""
    name = shown(path)
    try:
        if Path(path).stat().st_size > LARGEST_FILE:
            raise UserError(
                f"{name} is larger than {LARGEST_FILE} bytes: a list of rows is smaller"
            )
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{name} is not UTF-8 text: give a list of rows") from None
    try:
        cells = [[cell.strip() for cell in row] for row in csv.reader(lines) if row]
    except csv.Error as error:
        raise UserError(f"{name} is not a list of rows: {first_line(error)}") from None
    header, *rows = cells or [[]]
    if header != HEADER:
        raise UserError(f"{name} does not begin with {','.join(HEADER)}: give a list of rows")
    return {_pair(name, row) for row in rows}


def _pair(name: str, row: list[str]) -> DroppedRow:
    numbers = [int(cell) for cell in row if cell.isdecimal() and len(cell) < 20]
    if len(row) != len(HEADER) or len(numbers) != len(HEADER) or max(numbers) > LARGEST_COUNT:
        raise UserError(f"{name}: {shown(','.join(row))} is not a source_index and a variant")
    return numbers[0], numbers[1]


def digest_of(rows: Iterable[DroppedRow]) -> str:
    """What identifies the list, whatever the order of its lines: hex sha256."""
    return hashlib.sha256(text_of(rows).encode()).hexdigest()


def rows_dropped(marked: set[DroppedRow], sources: np.ndarray, variants: np.ndarray) -> np.ndarray:
    """bool (n,): which of n rows are on the list. Raises `UserError` if it has others."""
    keys = list(zip(sources.tolist(), variants.tolist(), strict=True))
    unknown = marked.difference(keys)
    if unknown:
        source, variant = min(unknown)
        raise UserError(
            f"drop names source_index {source}, variant {variant}, which the dataset does not "
            "have: give the list of this version"
        )
    return np.array([key in marked for key in keys], dtype=bool)
