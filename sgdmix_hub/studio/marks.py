"""The list of bad rows: in a file that everybody who opens the page shares, or one for each."""

from __future__ import annotations

import re
from pathlib import Path

from sgdmix_hub.errors import UserError
from sgdmix_hub.evaluation.drop_list import DroppedRow, read_drop_list, text_of, write_drop_list

from .boxes import Visitor

LISTED = 5000  # rows of the list that the page shows; the file has all


class Marks:
    """`save_to`: the file. Without one, as in a Space, everybody has a list of their own."""

    def __init__(self, save_to: Path | None):
        """Raises `UserError` if a file of somebody else is there."""
        self.save_to = save_to
        self._rows: set[DroppedRow] = set()
        self._rows = self._read()

    def of(self, visitor: Visitor) -> set[DroppedRow]:
        """The list that a visitor sees."""
        return visitor.marked if self.save_to is None else self._rows

    def text(self, visitor: Visitor) -> str:
        """The beginning of the list as the page shows it."""
        return text_of(sorted(self.of(visitor))[:LISTED])

    def change(self, visitor: Visitor, key: DroppedRow, is_bad: bool) -> None:
        """Puts a row on the list or takes it off. Raises `UserError`, and changes nothing then."""
        rows = visitor.marked if self.save_to is None else self._read()
        rows = rows | {key} if is_bad else rows - {key}
        if self.save_to is None:
            visitor.marked = rows
            return
        try:
            write_drop_list(self.save_to, rows)
        except OSError as error:
            raise UserError(f"{self.save_to.name} cannot be written: {error.strerror}") from None
        self._rows = rows

    def where(self) -> str:
        """Where the list is, and what it is for."""
        if self.save_to is None:
            return "copy it into a file drop.csv for sgdmix evaluate --drop drop.csv"
        return f"written to {self.save_to.name} at every mark, for sgdmix evaluate --drop"

    def _read(self) -> set[DroppedRow]:
        if self.save_to is None or not self.save_to.exists():
            return self._rows
        return read_drop_list(self.save_to)


def box_label(key: DroppedRow) -> str:
    """The label of the box that marks a row as bad."""
    return f"Mark source {key[0]}, variant {key[1]} as bad"


def key_of(label: str) -> DroppedRow | None:
    """The row whose box has a label, if one has."""
    found = re.fullmatch(r"Mark source (\d{1,18}), variant (\d{1,18}) as bad", label)
    return None if found is None else (int(found[1]), int(found[2]))
