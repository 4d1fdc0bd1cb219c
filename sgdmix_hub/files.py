"""Atomic writes, JSON with a checksum, hashes. Imports nothing of the package but its errors."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from .errors import UserError
from .output_folder import STATE

SEAL = "seal"  # the key of a sealed JSON's checksum
TEMPORARY = re.compile(r"\..+\.(?P<pid>\d+)@(?P<host>.+)\.tmp")
# After this time without a change, a temporary file of another machine counts as abandoned.
ABANDONED_SECONDS = 24 * 3600
HASHED_AT_ONCE = 8  # files
Item = TypeVar("Item")
Result = TypeVar("Result")


class DamagedFile(UserError):
    """A file was torn by a crash or changed since it was written. The next run makes it again."""

    def __init__(self, path: Path):
        self.path, self.what = path, f"{path} is torn or was changed since it was written"
        super().__init__(f"{self.what}: rerun the same command, which makes it again")

    def __reduce__(self) -> tuple:
        """Pickles by the path, for the way from rank to rank."""
        return DamagedFile, (self.path,)


def made_again(damage: DamagedFile) -> str:
    """The line to print when a damaged file is made again."""
    return f"{damage.what}: making it again"


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write(temporary path)` for a file or folder, then renames it to `path`.

    A reader sees all of it or nothing, even after a power cut.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        write(temporary)
        sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_entry(path.parent)


def temporary_beside(path: Path) -> Path:
    """A temporary name for `path`. It names its process, so that it can be removed when that is
    dead.
    """
    return path.with_name(f".{path.name}.{os.getpid()}@{socket.gethostname()}.tmp")


def clear_abandoned(folder: Path) -> None:
    """Removes temporary files of dead processes in a folder and below."""
    for parent, _, names in os.walk(folder):  # unlike rglob, accepts folders that disappear
        for name in names:
            named = TEMPORARY.fullmatch(name)
            if named and _is_abandoned(Path(parent, name), named["host"], int(named["pid"])):
                Path(parent, name).unlink(missing_ok=True)


def _is_abandoned(path: Path, host: str, writer: int) -> bool:
    try:
        if host != socket.gethostname():
            return time.time() - path.stat().st_mtime > ABANDONED_SECONDS
        os.kill(writer, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # another user's process, or a file that has disappeared
    return False


def sync(path: Path) -> None:
    """fsync of a file, or of a folder and everything in it."""
    for entry in (*path.rglob("*"), path) if path.is_dir() else (path,):
        sync_entry(entry)


def sync_entry(path: Path) -> None:
    """fsync of one file, or of a folder's list of names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # not supported there
            raise
    finally:
        os.close(descriptor)


def fill_folder(folder: Path, write: Callable[[Path], object], last: str) -> None:
    """Calls `write(temporary folder)`, then renames file by file into `folder`.

    Renames `last` after all others: if it exists, all exist.
    """
    working = folder / STATE / ".finished"
    shutil.rmtree(working, ignore_errors=True)
    working.mkdir(parents=True)
    try:
        write(working)
        sync(working)
        files = [path.relative_to(working) for path in working.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: (path == Path(last), path)):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            if path == Path(last):
                sync_entry(folder)
            os.replace(working / path, folder / path)
        sync_entry(folder)
    finally:
        shutil.rmtree(working)


def write_json(path: Path, values: dict | list) -> None:
    """JSON with sorted keys, atomically."""
    text = json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """A text file in UTF-8, atomically."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def read_json(path: Path) -> dict:
    """A JSON object. Raises `ValueError` and `OSError`."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_sealed(path: Path, values: Mapping[str, object]) -> None:
    """JSON with a checksum of its content, atomically. Replaces a checksum in `values`."""
    write_json(path, sealed(values))


def sealed(values: Mapping[str, object]) -> dict[str, object]:
    """The values with their checksum."""
    values = {name: value for name, value in values.items() if name != SEAL}
    return values | {SEAL: _seal(values)}


def read_sealed(path: Path) -> dict:
    """What `write_sealed` wrote. Raises `FileNotFoundError`, and `DamagedFile` if changed."""
    try:
        values = read_json(path)
        seal = values.pop(SEAL)
    except (ValueError, TypeError, AttributeError, KeyError):
        raise DamagedFile(path) from None
    if seal != _seal(values):
        raise DamagedFile(path)
    return values


def _seal(values: dict) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def file_sha256(path: str | Path) -> str:
    """Hex sha256 of a file, which is read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`function` of every item, in their order, by several threads: for files that are read whole,
    whose hashes leave Python's lock alone.
    """
    with ThreadPoolExecutor(min(HASHED_AT_ONCE, os.cpu_count() or 1), "hash") as threads:
        yield from threads.map(function, items)


def lies_in(path: str | Path, folder: str | Path) -> bool:
    """Whether a path is the folder or inside it, with links resolved; False if it is no path."""
    try:
        folder = os.path.realpath(folder)
        return os.path.commonpath([os.path.realpath(path), folder]) == folder
    except ValueError:
        return False
