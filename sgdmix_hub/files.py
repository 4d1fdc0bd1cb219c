"""Files that are there whole or not at all, JSON that knows when it was changed, hashes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

from .errors import UserError
from .output_folder import STATE

SEAL = "seal"  # the key of a sealed JSON's checksum
TEMPORARY = re.compile(r"\..+\.(?P<pid>\d+)@(?P<host>.+)\.tmp")
ABANDONED_SECONDS = (
    24 * 3600
)  # since the last change of a temporary file whose writer was on another machine


class DamagedFile(UserError):
    """A file that is not as this package wrote it: torn by a crash, or changed since. The next run
    makes it again.
    """

    def __init__(self, path: Path):
        super().__init__(
            f"{path} is torn or was changed since it was written: run the same command again, which makes it again"
        )
        self.path = path

    def __reduce__(self) -> tuple:
        """From rank to rank."""
        return DamagedFile, (self.path,)


def made_again(damage: DamagedFile) -> str:
    """What is said of a damaged file where it is mended."""
    return f"{damage.path} is torn or was changed since it was written: the run makes it again"


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """`write(temporary path)`, a file or a folder, then rename: a reader sees the whole of it or
    nothing, after a power cut too.
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
    """A name for what becomes `path` when it is whole. It says whose it is: what a dead process
    left can be cleared.
    """
    return path.with_name(f".{path.name}.{os.getpid()}@{socket.gethostname()}.tmp")


def clear_abandoned(folder: Path) -> None:
    """Removes the temporary files below a folder whose writers are dead."""
    for parent, _, names in os.walk(folder):  # which minds no folder that goes away meanwhile
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
        pass  # somebody else's process, or a file that is gone
    return False


def sync(path: Path) -> None:
    """Has the file system put a file, or a folder with everything in it, on the disk."""
    for entry in (*path.rglob("*"), path) if path.is_dir() else (path,):
        sync_entry(entry)


def sync_entry(path: Path) -> None:
    """Has the file system put one file, or a folder's list of names, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that has no such call
            raise
    finally:
        os.close(descriptor)


def fill_folder(folder: Path, write: Callable[[Path], None], last: str) -> None:
    """`write(temporary folder)`, then renames file by file into `folder`, the file `last` after all
    others: where it is, all are.
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
    return json.loads(path.read_text(encoding="utf-8"))


def write_sealed(path: Path, values: dict) -> None:
    """JSON with a checksum of its own content, atomically. A checksum that `values` hold is
    replaced.
    """
    write_json(path, sealed(values))


def sealed(values: dict) -> dict:
    """The values with their checksum."""
    values = {name: value for name, value in values.items() if name != SEAL}
    return values | {SEAL: _seal(values)}


def read_sealed(path: Path) -> dict:
    """What `write_sealed` wrote. Raises `DamagedFile` when it is anything else, and
    `FileNotFoundError`.
    """
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
    """Hex sha256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def lies_in(path: str | Path, folder: str | Path) -> bool:
    """Whether a path, with its links resolved, is the folder or inside it; what cannot be a path
    lies nowhere.
    """
    try:
        folder = os.path.realpath(folder)
        return os.path.commonpath([os.path.realpath(path), folder]) == folder
    except ValueError:
        return False
