"""The local folder in which a launch works on a run that lives in an object store.

It is in the system's temporary folder (TMPDIR) and belongs to one launch on one machine, whose
processes share it. It holds the plan, the maps, and what is being made or read at the moment: what
is stored is removed from it. The next run on this machine removes those of dead launches.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from sgdmix_hub.errors import UserError

from .places import is_url

_urls: dict[str, str] = {}  # scratch folder -> the URL that it stands for


def local_folder(output_dir: str) -> Path:
    """`output_dir` itself or, of a URL, this launch's scratch folder; it need not exist."""
    if not is_url(output_dir):
        return Path(output_dir)
    # the processes of a launch have the same parent
    owner = os.getppid() if "LOCAL_RANK" in os.environ else os.getpid()
    digest = hashlib.sha256(output_dir.encode()).hexdigest()[:16]
    folder = _all_scratch() / f"{owner}-{digest}"
    _urls[str(folder)] = output_dir.rstrip("/")
    return folder


def _all_scratch() -> Path:
    return Path(tempfile.gettempdir()) / f"sgdmix_hub-{os.getuid()}"


def start_scratch(folder: Path) -> None:
    """Empties this launch's scratch folder and removes those of dead launches. Raises `UserError`
    if somebody else could read or change what is in it.
    """
    parent = folder.parent
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    facts = parent.lstat()
    if parent.is_symlink() or facts.st_uid != os.getuid() or facts.st_mode & 0o077:
        raise UserError(f"{parent} is not this user's alone: remove it, or set TMPDIR")
    for other in parent.iterdir():
        if other == folder or not _lives(other.name.partition("-")[0]):
            shutil.rmtree(other, ignore_errors=True)
    folder.mkdir(exist_ok=True)


def _lives(owner: str) -> bool:
    try:
        os.kill(int(owner), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError):
        pass
    return True


def end_scratch(folder: Path) -> None:
    """Removes this launch's scratch folder."""
    shutil.rmtree(folder, ignore_errors=True)


def in_words(text: str) -> str:
    """A text for the user, with the URL in the place of a scratch folder."""
    for folder, url in _urls.items():
        text = text.replace(folder, url)
    return text
