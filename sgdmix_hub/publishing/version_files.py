"""Where the files of a published version are: a folder, the Hub at a commit, an object store.

One file at a time is on this machine, and nobody gets one before its sha256 is the manifest's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import HfFileSystem, hf_hub_download

from sgdmix_hub.errors import UserError, first_line, one_line
from sgdmix_hub.files import file_sha256
from sgdmix_hub.hub.client import fetch
from sgdmix_hub.hub.pins import Pin
from sgdmix_hub.storage.objects import Objects

END_BYTES = 8  # of a Parquet file: the length of its metadata, and a mark


class VersionFiles(Protocol):
    """Files by their names in the repository. Everything raises `UserError`."""

    def here(self, name: str) -> AbstractContextManager[Path]:
        """The file on this machine, as long as it is needed; it need not exist."""
        ...

    def read(self, name: str, start: int, end: int) -> bytes:
        """Some bytes of a file; fewer, perhaps none, where it has fewer."""
        ...


@dataclass(frozen=True)
class FolderFiles:
    """The files of a local folder."""

    folder: Path

    @contextmanager
    def here(self, name: str) -> Generator[Path, None, None]:
        yield self.folder / name

    def read(self, name: str, start: int, end: int) -> bytes:
        path = self.folder / name
        if not path.is_file():
            return b""
        with open(path, "rb") as file:
            file.seek(start)
            return file.read(end - start)


@dataclass(frozen=True)
class HubFiles:
    """The files of a dataset repository at a commit."""

    pin: Pin

    @contextmanager
    def here(self, name: str) -> Generator[Path, None, None]:
        with tempfile.TemporaryDirectory() as folder:

            def download() -> str:
                return hf_hub_download(
                    self.pin.name,
                    name,
                    repo_type="dataset",
                    revision=self.pin.revision,
                    local_dir=folder,
                )

            yield Path(fetch(download, f"{name} of {self.pin}"))

    def read(self, name: str, start: int, end: int) -> bytes:
        path = f"datasets/{self.pin.name}@{self.pin.revision}/{name}"

        def ask() -> bytes:
            with HfFileSystem().open(path, "rb", cache_type="none", size=end) as file:
                file.seek(start)
                return file.read(end - start)

        return fetch(ask, f"{name} of {self.pin}")


@dataclass(frozen=True)
class StoreFiles:
    """The files below a URL of an object store."""

    url: str

    @contextmanager
    def here(self, name: str) -> Generator[Path, None, None]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "repo", name)
            Objects(self.url, Path(folder)).fetch(name, path)
            yield path

    def read(self, name: str, start: int, end: int) -> bytes:
        try:
            return Objects(self.url, Path()).read(name, start, end)
        except FileNotFoundError:
            return b""

    def bring(self, names: Iterable[str], folder: Path) -> None:
        """Writes files to a local folder, those that are there."""
        objects = Objects(self.url, folder)
        for name in names:
            objects.fetch(name, folder / name)


@contextmanager
def checked(files: VersionFiles, name: str, facts: dict, of: str) -> Generator[Path, None, None]:
    """A file with the bytes that the manifest states in `facts`. Raises `UserError`. `of`: the
    version's name.
    """
    with files.here(name) as path:
        if (
            not path.is_file()
            or path.stat().st_size != facts["bytes"]
            or file_sha256(path) != facts["sha256"]
        ):
            raise UserError(f"{of}: {name} missing or not the published bytes")
        yield path


def schema_of(files: VersionFiles, name: str, facts: dict, of: str) -> pa.Schema:
    """The columns of a Parquet file, as `metadata_of`."""
    return metadata_of(files, name, facts, of).schema.to_arrow_schema()


def metadata_of(files: VersionFiles, name: str, facts: dict, of: str) -> pq.FileMetaData:
    """The metadata of a Parquet file, from its last bytes alone, which nobody has verified.

    Raises `UserError`.
    """

    def last(count: int) -> bytes:
        return files.read(name, max(0, facts["bytes"] - count), facts["bytes"])

    return _metadata(last, f"{of}: {name}")


def _metadata(last: Callable[[int], bytes], name: str) -> pq.FileMetaData:
    length = int.from_bytes(last(END_BYTES)[:4], "little")
    try:
        return pq.read_metadata(pa.BufferReader(last(length + END_BYTES)))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(one_line(f"{name} is not Parquet: {first_line(error)}")) from error
