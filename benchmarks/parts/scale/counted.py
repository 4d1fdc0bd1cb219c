"""An object store in a folder, that counts requests. It costs next to nothing, so what a benchmark
measures is this package.

`counted:///folder/run`; every process adds its counts to a file in the folder COUNTED_INTO.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import uuid
from collections import Counter
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem


class Counted(LocalFileSystem):
    protocol = "counted"
    requests: Counter[str] = Counter()

    @classmethod
    def _strip_protocol(cls, path):
        return LocalFileSystem._strip_protocol(str(path).removeprefix("counted://"))

    def put_file(self, lpath, rpath, **options):
        self.requests["put"] += 1
        os.makedirs(os.path.dirname(rpath), exist_ok=True)
        temporary = f"{os.path.dirname(rpath)}/.{uuid.uuid4().hex}"
        shutil.copyfile(lpath, temporary)
        os.replace(temporary, rpath)

    def get_file(self, rpath, lpath, **options):
        self.requests["get"] += 1
        shutil.copyfile(rpath, lpath)

    def cat_file(self, path, start=None, end=None, **options):
        self.requests["get"] += 1
        return super().cat_file(path, start, end)

    def find(self, path, detail=False, **options):
        found = super().find(path, detail=detail)
        self.requests["list"] += 1 + len(found) // 1000  # S3 lists a thousand at once
        return found

    def rm_file(self, path):
        self.requests["delete"] += 1
        super().rm_file(path)


def note_requests() -> None:
    """Writes this process's counts when it ends."""
    path = Path(os.environ["COUNTED_INTO"]) / f"{os.getpid()}.json"
    path.write_text(json.dumps(Counted.requests))


def counted_in(folder: Path) -> dict[str, int]:
    """The counts of all processes together; starts anew."""
    total: Counter[str] = Counter()
    for path in folder.glob("*.json"):
        total.update(json.loads(path.read_text()))
        path.unlink()
    return dict(total)


fsspec.register_implementation("counted", Counted, clobber=True)
if "COUNTED_INTO" in os.environ:
    atexit.register(note_requests)
