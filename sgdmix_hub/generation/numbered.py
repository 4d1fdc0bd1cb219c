"""Numbered files, in subfolders where there are many: at most 10,000 files lie in one folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sgdmix_hub.errors import UserError
from sgdmix_hub.storage.stores import Store

PER_FOLDER = 4_000  # numbers; each has two files, and for a while some temporary ones
NUMBERED = re.compile(r"[a-z]+-(?P<number>[0-9]{5,})[.-].+")


@dataclass(frozen=True)
class Numbered:
    """The files of the numbers 0 ... count - 1, as `shard-00007.json`.

    More than `PER_FOLDER` numbers are divided among the subfolders 0000, 0001 ...
    """

    folder: Path
    count: int

    def path(self, number: int, name: str) -> Path:
        """Where a file of a number is."""
        return self._folder_of(number) / name

    def numbers(self, store: Store, suffix: str) -> set[int]:
        """The numbers of all files with a suffix, by listings, which may lack new ones."""
        return {int(named["number"]) for _, named in self._listed(store, suffix)}

    def paths(self, store: Store) -> Iterator[Path]:
        """All files, by listings, which may lack new ones."""
        return (folder / named.string for folder, named in self._listed(store))

    def _listed(self, store: Store, suffix: str = "") -> Iterator[tuple[Path, re.Match]]:
        for folder in dict.fromkeys(map(self._folder_of, range(0, self.count, PER_FOLDER))):
            for name in store.names(folder):
                if name.endswith(suffix) and (named := NUMBERED.fullmatch(name)):
                    yield folder, named

    def settle(self, store: Store) -> None:
        """Moves files into subfolders that an earlier version has left in one folder. Raises
        `UserError` for those in an object store, where nothing can be moved.
        """
        if self.count <= PER_FOLDER:
            return
        named = map(NUMBERED.fullmatch, store.names(self.folder))
        left = {each.string: int(each["number"]) for each in named if each}
        if left and store.is_remote:
            raise UserError(
                f"{self.folder} holds {len(left):,} files of an earlier version of sgdmix_hub, "
                "which kept all in one folder: finish the run with that version, or remove them"
            )
        for name, number in sorted(left.items(), reverse=True):  # a shard before its record
            self._folder_of(number).mkdir(exist_ok=True)
            with suppress(FileNotFoundError):  # another worker was faster
                os.replace(self.folder / name, self.path(number, name))

    def _folder_of(self, number: int) -> Path:
        if self.count <= PER_FOLDER:
            return self.folder
        return self.folder / f"{number // PER_FOLDER:04d}"
