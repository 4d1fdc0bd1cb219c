"""Where a run's files are kept: in its output folder, or in an object store behind it.

Whoever makes a file writes it into the output folder and keeps it; whoever needs one brings it. In
a local or shared folder there is nothing to do for either: the file is there.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sgdmix_hub.errors import UserError
from sgdmix_hub.files import file_sha256

from .objects import Objects
from .places import is_url
from .scratch import end_scratch, local_folder, start_scratch

AT_ONCE = 16  # requests of small objects


class Store(Protocol):
    """All paths are of the run's output folder."""

    is_remote: bool
    # Whether large values are read block by block, by a process that needs few of them.
    reads_by_need: bool

    def keep(self, path: Path, at: Path | None = None) -> None:
        """Stores a finished file. `at`: the path that it gets there, if not its own."""
        ...

    def bring(self, path: Path, of: Path | None = None) -> bool:
        """Whether a file is there; if so, it is in the output folder now. `of`: as `at`."""
        ...

    def bring_all(self, paths: Iterable[Path]) -> None:
        """Brings many small files, those that are there."""
        ...

    def release(self, path: Path) -> None:
        """Gives up the local copy of a file that is kept, or was brought."""
        ...

    def drop(self, path: Path) -> None:
        """Removes a file from the store and from the output folder, if it is there."""
        ...

    def names(self, folder: Path) -> set[str]:
        """The names in a folder. New ones may be missing for a while, removed ones still there."""
        ...

    def sizes(self, folder: Path) -> dict[str, int]:
        """Bytes of every file in a folder and below, by its name relative to it; as `names`."""
        ...

    def size(self, path: Path) -> int | None:
        """Bytes of a file; None if it is not there. Never late."""
        ...

    def read(self, path: Path, start: int, end: int) -> bytes:
        """Some bytes of a file, fewer at its end. Raises `FileNotFoundError`."""
        ...

    def sha256(self, path: Path) -> str:
        """Hex sha256 of a file. Raises `FileNotFoundError`."""
        ...


class Here:
    """The output folder itself."""

    is_remote = False
    reads_by_need = False

    def keep(self, path: Path, at: Path | None = None) -> None:
        pass

    def bring(self, path: Path, of: Path | None = None) -> bool:
        return path.is_file()

    def bring_all(self, paths: Iterable[Path]) -> None:
        pass

    def release(self, path: Path) -> None:
        pass

    def drop(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def names(self, folder: Path) -> set[str]:
        return set(os.listdir(folder)) if folder.is_dir() else set()

    def sizes(self, folder: Path) -> dict[str, int]:
        found, root = {}, str(folder)
        for parent, _, names in os.walk(root):
            for name in names:
                path = os.path.join(parent, name)
                if os.path.isfile(path):
                    relative = os.path.relpath(path, root).replace(os.sep, "/")
                    found[relative] = os.path.getsize(path)
        return found

    def size(self, path: Path) -> int | None:
        return path.stat().st_size if path.is_file() else None

    def read(self, path: Path, start: int, end: int) -> bytes:
        with open(path, "rb") as file:
            file.seek(start)
            return file.read(end - start)

    def sha256(self, path: Path) -> str:
        return file_sha256(path)


class ObjectStore:
    """Objects below a URL, named like the files of the output folder, which is a scratch folder."""

    is_remote = True

    def __init__(self, objects: Objects, folder: Path, reads_by_need: bool):
        self.objects, self.folder, self.reads_by_need = objects, folder, reads_by_need

    def keep(self, path: Path, at: Path | None = None) -> None:
        self.objects.put(path, self._name(at or path))

    def bring(self, path: Path, of: Path | None = None) -> bool:
        return path.is_file() or self.objects.fetch(self._name(of or path), path)

    def bring_all(self, paths: Iterable[Path]) -> None:
        with ThreadPoolExecutor(AT_ONCE, "bring") as threads:
            for _ in threads.map(self.bring, paths):
                pass

    def release(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def drop(self, path: Path) -> None:
        self.objects.remove(self._name(path))
        path.unlink(missing_ok=True)

    def names(self, folder: Path) -> set[str]:
        return {name.partition("/")[0] for name in self.sizes(folder)}

    def sizes(self, folder: Path) -> dict[str, int]:
        return self.objects.sizes(self._name(folder))

    def size(self, path: Path) -> int | None:
        return self.objects.size(self._name(path))

    def read(self, path: Path, start: int, end: int) -> bytes:
        return self.objects.read(self._name(path), start, end)

    def sha256(self, path: Path) -> str:
        return self.objects.sha256(self._name(path))

    def _name(self, path: Path) -> str:
        assert ".." not in path.parts, "names of a store are checked when they are read"
        return "" if path == self.folder else path.relative_to(self.folder).as_posix()


HERE = Here()


@dataclass(frozen=True)
class StoredFile:
    """A file of a store, with the content that it must have. `path`: in the output folder.

    Nobody reads it for its sha256 alone: who sends it checks what was sent.
    """

    store: Store
    path: Path
    bytes: int
    sha256: str

    @contextmanager
    def here(self) -> Generator[Path, None, None]:
        """A local copy, as long as it is needed. Raises `UserError` if it is missing."""
        try:
            if not self.store.bring(self.path):
                raise self.damage
            yield self.path
        finally:
            self.store.release(self.path)

    def check(self, sha256: str) -> None:
        """Raises `UserError` if what was read of the file has another sha256."""
        if sha256 != self.sha256:
            raise self.damage

    @property
    def damage(self) -> UserError:
        """What a file says that has not its content."""
        return UserError(
            f"{self.path} is missing or has changed since it was written: remove it and, if it is "
            "there, repo/sgdmix/*/manifest.json, then run the generation with --stage finish"
        )


@contextmanager
def opened(place: str) -> Generator[tuple[Path, Store], None, None]:
    """The local folder to work in and the store of a folder or URL, for one process. Removes a
    scratch folder in the end. Raises `UserError`.
    """
    folder, store = local_folder(place), store_of(place)
    if not store.is_remote:
        yield folder, store
        return
    start_scratch(folder)
    try:
        yield folder, store
    finally:
        end_scratch(folder)


def store_of(output_dir: str, reads_by_need: bool = False) -> Store:
    """The store of an `output_dir`. Raises `UserError`."""
    if not is_url(output_dir):
        return HERE
    folder = local_folder(output_dir)
    return ObjectStore(Objects(output_dir, folder / "fetching"), folder, reads_by_need)
