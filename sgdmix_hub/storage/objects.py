"""The few operations that a run needs of an object store, through fsspec, with limited retries.

An object appears whole or not at all. Nothing is renamed, linked or locked. Listings may be late:
only reading an object tells whether it is there.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from sgdmix_hub.errors import UserError, first_line, one_line, shown

WAITS = (0.1, 1.0, 4.0, 15.0)  # seconds between attempts
BLOCK_BYTES = 1 << 23
# No second attempt changes these.
FINAL = (
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    NotImplementedError,
    ImportError,
    TypeError,
    ValueError,
)
# botocore's errors, by name: it is there only with the extra `s3`
WITHOUT_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError")
REFUSED = (401, 403)  # HTTP's unauthorized and forbidden
SECRET = re.compile("KEY|SECRET|TOKEN|PASSWORD|CONNECTION_STRING")  # in names of variables
SHORTEST_SECRET = 6  # characters; what is shorter is no secret, and may be part of any word
UNSAFE = {"", ".", ".."}  # parts of names
USER_IN_URL = re.compile(r"//[^/@\s]*@")
Value = TypeVar("Value")


class Objects:
    """The objects below a URL, by their names relative to it, with forward slashes.

    `working`: a local folder for what is being fetched.

    Credentials come from the environment alone. Every call is tried five times; then it raises
    `UserError`.
    """

    def __init__(self, url: str, working: Path):
        self.url, self.working = url.rstrip("/"), working
        try:
            self.files, self.root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise UserError(f"{shown(self.url)} cannot be opened: {_reason(error)}") from error

    def put(self, path: Path, name: str) -> None:
        """Stores a local file as one object, in the place of an older one."""

        def call() -> None:
            self.files.put_file(str(path), self._place(name))

        try:
            self._patiently(call)
        except FileNotFoundError as error:
            if not path.exists():
                raise
            raise UserError(f"{shown(self.url)}: there is no such bucket: create it") from error

    def fetch(self, name: str, path: Path) -> bool:
        """Writes an object to a local file, whole or not at all; False if there is no object."""
        self.working.mkdir(parents=True, exist_ok=True)
        temporary = self.working / uuid.uuid4().hex

        def call() -> None:
            self.files.invalidate_cache()  # some look into their last listing first
            self.files.get_file(self._place(name), str(temporary))

        try:
            self._patiently(call)
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary, path)
        except FileNotFoundError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of every object in a folder and below, by its name relative to the folder.

        Names that lead out of a folder of this machine are left out: a stranger may have made them.
        """
        place = self._place(folder)

        def call() -> dict[str, Any]:
            self.files.invalidate_cache()
            return self.files.find(place, detail=True)

        try:
            found = self._patiently(call)
        except FileNotFoundError:
            return {}
        start = place.strip("/") + "/"
        sizes = {
            name.lstrip("/").removeprefix(start): facts["size"] for name, facts in found.items()
        }
        return {name: size for name, size in sizes.items() if UNSAFE.isdisjoint(name.split("/"))}

    def size(self, name: str) -> int | None:
        """Bytes of an object; None if there is none."""

        def call() -> int:
            self.files.invalidate_cache()
            return self.files.info(self._place(name))["size"]

        try:
            return self._patiently(call)
        except FileNotFoundError:
            return None

    def read(self, name: str, start: int, end: int) -> bytes:
        """Some bytes of an object, fewer at its end. Raises `FileNotFoundError`."""

        def call() -> bytes:
            self.files.invalidate_cache()
            return self.files.cat_file(self._place(name), start=start, end=end)

        return self._patiently(call)

    def remove(self, name: str) -> None:
        """Removes an object, if there is one."""
        with suppress(FileNotFoundError):
            self._patiently(lambda: self.files.rm_file(self._place(name)))

    def sha256(self, name: str) -> str:
        """Hex sha256 of an object, which is read in blocks. Raises `FileNotFoundError`."""

        def call() -> str:
            digest = hashlib.sha256()
            self.files.invalidate_cache()
            with self.files.open(self._place(name), "rb", block_size=BLOCK_BYTES) as file:
                while block := file.read(BLOCK_BYTES):
                    digest.update(block)
            return digest.hexdigest()

        return self._patiently(call)

    def _place(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    def _patiently(self, call: Callable[[], Value]) -> Value:
        """`call()`, repeated after errors that pass. Raises `FileNotFoundError`, and `UserError`
        for all others.
        """
        for wait in (*WAITS, None):
            try:
                return call()
            except FileNotFoundError:
                raise
            except Exception as error:
                if _lacks_access(error):
                    raise UserError(
                        f"no access to {shown(self.url)} ({_reason(error)}): check the "
                        "credentials in the environment and this machine's clock, and run the same "
                        "command again, it continues where it stopped"
                    ) from error
                if wait is None or isinstance(error, FINAL):
                    raise UserError(
                        f"{shown(self.url)} fails ({_reason(error)}): run the same command again, "
                        "it continues where it stopped"
                    ) from error
                time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")


def _lacks_access(error: Exception) -> bool:
    status = getattr(getattr(error, "response", None), "status_code", None)  # the Hub's errors
    named = type(error).__name__ in WITHOUT_CREDENTIALS
    return isinstance(error, PermissionError) or named or status in REFUSED


def _reason(error: Exception) -> str:
    """An error's first line, without what the environment keeps secret: stores quote requests."""
    text = one_line(first_line(error))
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) >= SHORTEST_SECRET:
            text = text.replace(value, f"<{name}>")
    return USER_IN_URL.sub("//", text)
