"""An object store that does its worst and still is one: a fault injector around a real filesystem.

`unreliable://bucket/folder` stands for the same place in the filesystem named by the variable
UNRELIABLE (memory if unset). Its listings lack every fifth object, one request in twenty fails, and
some writes are delivered again later, unless UNRELIABLE_FAULTS is 0. Where UNRELIABLE_KILLS is set,
that share of the writes ends the process: before the object is there, or after, with nobody told,
or, with UNRELIABLE_FOR_GOOD, at any moment of the write. The file UNRELIABLE_LOG gets a plus when a
write begins and a minus when it has ended.
"""

import os
import random
import signal
import threading

import fsspec
from fsspec.spec import AbstractFileSystem

PUT_SECONDS = 0.02  # what a write takes on the loopback interface


def end_this_process():
    """Kills this process, as a machine that is taken away does."""
    os.kill(os.getpid(), signal.SIGKILL)


def log(sign: str) -> None:
    """Notes that a write begins or has ended."""
    if path := os.environ.get("UNRELIABLE_LOG"):
        with open(path, "a") as file:
            file.write(sign)


class Killed(BaseException):
    """The end of a process, in tests that have only one."""


class Unreliable(AbstractFileSystem):
    protocol = "unreliable"
    cachable = False

    def __init__(self, **options):
        super().__init__(**options)
        self.inner = fsspec.filesystem(os.environ.get("UNRELIABLE", "memory"))
        self.kills = float(os.environ.get("UNRELIABLE_KILLS", "0"))
        self.faults = os.environ.get("UNRELIABLE_FAULTS", "1") == "1"
        self.chance = random.Random(os.environ.get("UNRELIABLE_SEED", os.getpid()))
        self.sent: list[tuple[str, bytes]] = []
        self.failed = self.killed = self.twice = 0

    def _may_fail(self):
        if not self.faults:
            return
        if self.sent and self.chance.random() < 0.1:
            path, content = self.chance.choice(self.sent)
            self.inner.pipe_file(path, content)
            self.twice += 1
        if self.chance.random() < 0.05:
            self.failed += 1
            raise OSError("the store is busy")

    def _is_late(self):
        return self.faults and self.chance.random() < 0.2

    def _may_die(self):
        if self.chance.random() >= self.kills / 2:
            return
        self.killed += 1
        if "UNRELIABLE_FOR_GOOD" not in os.environ:
            raise Killed
        threading.Timer(self.chance.uniform(0, PUT_SECONDS), end_this_process).start()

    def put_file(self, lpath, rpath, **options):
        self._may_fail()
        self._may_die()
        log("+")
        self.inner.put_file(lpath, rpath)
        log("-")
        if self.faults:
            with open(lpath, "rb") as file:
                self.sent.append((rpath, file.read()))
        self._may_die()

    def get_file(self, rpath, lpath, **options):
        self._may_fail()
        self.inner.get_file(rpath, lpath)

    def cat_file(self, path, start=None, end=None, **options):
        self._may_fail()
        return self.inner.cat_file(path, start=start, end=end)

    def find(self, path, detail=False, **options):
        self._may_fail()
        self.inner.invalidate_cache()
        found = self.inner.find(path, detail=True)
        kept = {name: facts for name, facts in found.items() if not self._is_late()}
        return kept if detail else list(kept)

    def rm_file(self, path):
        self._may_fail()
        self.inner.rm_file(path)

    def info(self, path, **options):
        self._may_fail()
        return self.inner.info(path)

    def open(self, path, mode="rb", **options):
        self._may_fail()
        return self.inner.open(path, mode)


fsspec.register_implementation("unreliable", Unreliable, clobber=True)
