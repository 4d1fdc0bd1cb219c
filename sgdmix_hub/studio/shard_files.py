"""The Parquet files of a version: whole on this machine, or read from the Hub by need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download, try_to_load_from_cache
from huggingface_hub.hf_api import RepoFile

from sgdmix_hub.errors import UserError, first_line, shown
from sgdmix_hub.generation.repository import is_as_stated
from sgdmix_hub.hub.client import fetch
from sgdmix_hub.hub.pins import Pin

Value = TypeVar("Value")
OPENED = 64  # files on the Hub whose footers stay in memory
READ_BY_NEED = (
    "Read from the Hub by need: it states size and sha256 of every file as the manifest does; what "
    "is shown was not compared with them, since no file was read whole."
)
READ_WHOLE = "Every file that is shown was compared with the manifest (sha256)."


@dataclass(frozen=True)
class LocalFile:
    """A file on this machine. `facts`: its size and sha256 in the manifest, if there is one."""

    path: Path
    facts: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def is_damaged(self) -> bool:
        """Whether it is not the published file. Reads it whole, once."""
        return self.facts is not None and not is_as_stated(self.path, self.facts, by_bytes=True)

    def opened(self) -> pq.ParquetFile:
        """Raises `UserError`."""
        return self._tried(lambda: pq.ParquetFile(self.path, memory_map=True))

    def read(self, call: Callable[[pq.ParquetFile], pa.Table]) -> pa.Table:
        """What a call reads. Raises `UserError`."""
        opened = self.opened()
        return self._tried(lambda: call(opened))

    def _tried(self, call: Callable[[], Value]) -> Value:
        try:
            return call()
        except (pa.ArrowException, KeyError, OSError) as error:
            raise UserError(f"{self.name} cannot be read: {first_line(error)}") from None


@dataclass(frozen=True)
class HubFile:
    """A file on the Hub, at a commit. Its footer is read once, the rest as it is asked for."""

    system: HfFileSystem
    pin: Pin
    path: str
    size: int
    is_damaged = False  # as far as the Hub says

    @property
    def name(self) -> str:
        return Path(self.path).name

    def opened(self) -> pq.ParquetFile:
        """Raises `UserError`."""
        return _opened_on_hub(self)

    def read(self, call: Callable[[pq.ParquetFile], pa.Table]) -> pa.Table:
        """What a call reads. Raises `UserError`."""
        opened = self.opened()
        return fetch(lambda: call(opened), self.name)


@lru_cache(OPENED)
def _opened_on_hub(file: HubFile) -> pq.ParquetFile:
    """One request for the footer; then one for neighbouring columns of a row group."""
    path = f"datasets/{file.pin.name}@{file.pin.revision}/{file.path}"

    def opened() -> pq.ParquetFile:
        remote = file.system.open(path, "rb", cache_type="none", size=file.size)
        return pq.ParquetFile(remote, pre_buffer=True)

    return fetch(opened, file.name)


VersionFile = LocalFile | HubFile


def files_on_hub(pin: Pin, stated: dict[str, Any], folder: str) -> Iterator[VersionFile]:
    """The shards in one folder of a version on the Hub, in the order of their rows.

    A file that was downloaded before is read from the cache, and one that Git holds itself, which
    is small, is downloaded. Raises `UserError` unless the Hub has the files that the manifest
    states.
    """
    names = sorted(name for name in stated if _is_shard(name, folder))
    listed = {
        file.path: file
        for file in fetch(
            lambda: list(
                HfApi().list_repo_tree(pin.name, folder, revision=pin.revision, repo_type="dataset")
            ),
            pin.name,
        )
        if isinstance(file, RepoFile) and _is_shard(file.path, folder)
    }
    wrong = [
        name
        for name in sorted({*names, *listed})
        if name not in stated or name not in listed or not _is_stated(listed[name], stated[name])
    ]
    if wrong:
        raise not_as_published(pin.name, wrong)
    system = HfFileSystem()
    for name in names:
        cached = try_to_load_from_cache(pin.name, name, revision=pin.revision, repo_type="dataset")
        if not isinstance(cached, str) and listed[name].lfs is None:
            cached = fetch(lambda name=name: _downloaded(pin, name), name)
        if isinstance(cached, str):
            yield LocalFile(Path(cached), stated[name])
        else:
            yield HubFile(system, pin, name, listed[name].size)


def not_as_published(name: str, files: list[str]) -> UserError:
    """Why a version is refused."""
    return UserError(f"{name}: {shown(', '.join(files[:3]))} missing or not the published files")


def _is_shard(name: str, folder: str) -> bool:
    return Path(name).match(f"{folder}/train-*.parquet") and name.count("/") == 1


def _is_stated(file: RepoFile, facts: dict[str, Any]) -> bool:
    return file.size == facts["bytes"] and (file.lfs is None or file.lfs.sha256 == facts["sha256"])


def _downloaded(pin: Pin, name: str) -> str:
    return hf_hub_download(pin.name, name, revision=pin.revision, repo_type="dataset")
