"""Files that are there whole or not at all, JSON, hashes. Imports nothing of the package but its errors."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """`write(temporary path)`, then rename: a reader sees the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def fill_folder(folder: Path, write: Callable[[Path], None], last: str) -> None:
    """`write(temporary folder)`, then renames file by file into `folder`, the file `last` after all others: where it is, all are."""
    working = folder / "state" / ".finished"
    shutil.rmtree(working, ignore_errors=True)
    working.mkdir(parents=True)
    try:
        write(working)
        files = [path.relative_to(working) for path in working.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: (path == Path(last), path)):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(working / path, folder / path)
    finally:
        shutil.rmtree(working)


def write_json(path: Path, values: dict | list) -> None:
    """JSON with sorted keys, atomically."""
    text = json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def file_sha256(path: str | Path) -> str:
    """Hex sha256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def lies_in(path: str | Path, folder: str | Path) -> bool:
    """Whether a path, with its links resolved, is the folder or inside it; what cannot be a path lies nowhere."""
    try:
        folder = os.path.realpath(folder)
        return os.path.commonpath([os.path.realpath(path), folder]) == folder
    except ValueError:
        return False
