"""Runs in object stores, in this process, and what is in the stores."""

import hashlib
import tempfile
from pathlib import Path

import fsspec
from generations import flip

from sgdmix_hub import augment
from sgdmix_hub.settings.generation import AugmentSettings


def work(settings, output, stage="all", **more):
    """One stage, as one worker."""
    augment.main(AugmentSettings(**settings | {"output_dir": str(output), "stage": stage} | more))


def stored(url: str, folder: str = "repo") -> dict[str, str]:
    """sha256 of every object below a folder of the store, by its name relative to it."""
    files, root = fsspec.core.url_to_fs(url)
    files.invalidate_cache()
    found = files.find(f"{root}/{folder}")
    return {
        name.removeprefix(f"{root}/{folder}/"): hashlib.sha256(files.cat_file(name)).hexdigest()
        for name in found
    }


def place(url: str, start: str) -> str:
    """The only object of the store whose name below the output folder starts like this."""
    files, root = fsspec.core.url_to_fs(url)
    (name,) = (name for name in files.find(root) if name.startswith(f"{root}/{start}"))
    return name


def change(url: str, start: str, seed: int = 0) -> None:
    """Flips a bit of an object."""
    files, name = fsspec.filesystem("memory"), place(url, start)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "object"
        path.write_bytes(files.cat_file(name))
        flip(path, seed)
        files.pipe_file(name, path.read_bytes())
