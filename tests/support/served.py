"""fsspec's memory store for many processes: one process holds it, `served://bucket/folder` reaches
it over the loopback interface. The variable SERVED holds its port.
"""

import io
import os
from contextlib import contextmanager
from multiprocessing.managers import BaseManager

import fsspec
from forking import forks, start_server
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractFileSystem

KEY = b"served"
CALLS = ("cat_file", "pipe_file", "find", "info", "rm_file")


def memory() -> MemoryFileSystem:
    """The store, in the process that holds it."""
    return MemoryFileSystem()


class Memory(BaseManager):
    """The process that holds the store, or a connection to it."""


Memory.register("files", memory, exposed=CALLS)


@contextmanager
def served_memory():
    """A new store; gives the value of SERVED."""
    start_server()
    manager = Memory(("127.0.0.1", 0), KEY, ctx=forks)
    manager.start()
    try:
        yield str(manager.address[1])
    finally:
        manager.shutdown()


class Served(AbstractFileSystem):
    protocol = "served"
    cachable = False

    def __init__(self, **options):
        super().__init__(**options)
        manager = Memory(("127.0.0.1", int(os.environ["SERVED"])), KEY)
        manager.connect()
        self.inner = manager.files()

    def put_file(self, lpath, rpath, **options):
        with open(lpath, "rb") as file:
            self.inner.pipe_file(rpath, file.read())

    def get_file(self, rpath, lpath, **options):
        content = self.inner.cat_file(rpath)
        with open(lpath, "wb") as file:
            file.write(content)

    def pipe_file(self, path, value, **options):
        self.inner.pipe_file(path, value)

    def cat_file(self, path, start=None, end=None, **options):
        return self.inner.cat_file(path, start=start, end=end)

    def find(self, path, detail=False, **options):
        return self.inner.find(path, detail=detail)

    def info(self, path, **options):
        return self.inner.info(path)

    def rm_file(self, path):
        self.inner.rm_file(path)

    def open(self, path, mode="rb", **options):
        assert mode == "rb"
        return io.BytesIO(self.inner.cat_file(path))


fsspec.register_implementation("served", Served, clobber=True)
