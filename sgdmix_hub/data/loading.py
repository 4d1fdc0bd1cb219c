"""A split of a pinned dataset through `datasets`: its rows as they are stored, where its cells may
name files, and, when it cannot be loaded, why.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets
from datasets import Dataset, DatasetBuilder, DownloadConfig, load_dataset_builder
from datasets.packaged_modules.folder_based_builder.folder_based_builder import FolderBasedBuilder
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.file_download import repo_folder_name

from sgdmix_hub.errors import UserError, first_line, one_line, shown
from sgdmix_hub.files import lies_in
from sgdmix_hub.hub.pins import Pin

from .images import LFS_POINTER

WRAPPER = "An error occurred while generating the dataset"
DROPPED_LABELS = (
    "class folders give labels where there are at least two, all images lie equally deep, and no "
    "metadata file says more"
)
SPLIT_NAMES = (
    "datasets takes names that contain train, test or val for splits: put all class folders into "
    "a folder train/"
)

# What datasets and Arrow say -> what to do about it.
ADVICE = (
    (
        r"available configs: \[(?P<found>.*?)\]",
        "it has several configurations: choose one with --dataset_config_name ({found})",
    ),
    (
        r"BuilderConfig .* not found\. Available: \[(?P<found>.*?)\]",
        "{said}: choose another --dataset_config_name",
    ),
    (
        r"SplitInfo\(",
        "its README states other numbers of rows than its files have: correct `dataset_info` in "
        "the README, or remove it",
    ),
    (
        r"No locks available|Function not implemented",
        "{said}: give HF_HOME a folder on a file system with file locks",
    ),
)


@dataclass(frozen=True)
class Loaded:
    """Rows of a split; `files_in`: the real path of the folder inside which their cells may name
    files; `strays`: image files of a local folder that are in none of its splits.
    """

    rows: Dataset
    files_in: str
    strays: tuple[str, ...]


def load_rows(pin: Pin, config_name: str | None, split: str) -> Loaded:
    """One split of a pinned dataset. Raises `UserError`, or, for a lack of disk or memory, what
    told of it.
    """
    try:
        builder = _builder(pin, config_name)
        check_data_files(pin, builder)
        builder.download_and_prepare()
        return Loaded(builder.as_dataset(split=split), files_of(pin), stray_images(pin, builder))
    except UserError:
        raise
    except Exception as error:  # datasets raises all kinds on what it cannot read
        if any(_is_shortage(cause) for cause in _causes(error)):
            raise
        raise UserError(
            one_line(f"cannot load split {split!r} of {pin.name}: {advice(error, pin)}")
        ) from error


def _builder(pin: Pin, config_name: str | None) -> DatasetBuilder:
    if pin.is_local:
        return load_dataset_builder(pin.path, config_name, cache_dir=str(cache_of(pin)))
    # datasets falls back to any cached version when the Hub fails: the builder's hash tells which
    # one it is.
    options = {"revision": pin.revision, "download_config": DownloadConfig(max_retries=3)}
    builder = load_dataset_builder(pin.name, config_name, **options)
    if builder.hash != pin.revision:
        raise UserError(
            f"{pin.name}: another version than {pin.revision} came from the cache; try again when "
            "the Hub answers"
        )
    return builder


def check_data_files(pin: Pin, builder: DatasetBuilder) -> None:
    """Raises `UserError` where the card of a folder has `datasets` read other files of this
    machine, or a repository that the reader's token may open: what is made of them may be
    published. On the Hub `datasets` itself refuses that.
    """
    if not pin.is_local:
        return
    folder = files_of(pin)
    for file in (
        str(file) for files in (builder.config.data_files or {}).values() for file in files
    ):
        place = file.rpartition("::")[2].removeprefix("file://")
        if not place.startswith(("http://", "https://")) and (
            "://" in place or not lies_in(place, folder)
        ):
            raise UserError(
                f"the README of {pin.name} names data that is not in it, {shown(file)}: give what "
                "it names as a dataset"
            )


def cache_of(pin: Pin) -> Path:
    """Where the prepared rows of a local folder are kept: by its place and its content. On its own
    `datasets` knows a folder whose README names data files by that README alone, and gives the rows
    of any other folder that has the same.
    """
    place = hashlib.sha256(f"{os.path.realpath(pin.path)}\0{pin.revision}".encode()).hexdigest()
    return Path(datasets.config.HF_DATASETS_CACHE) / "sgdmix_hub" / place[:32]


def files_of(pin: Pin) -> str:
    """The real path of the folder that holds a dataset's files: a local one, or the Hub's cache of
    this very repository.
    """
    if not pin.is_local:
        return os.path.realpath(
            Path(HF_HUB_CACHE) / repo_folder_name(repo_id=pin.name, repo_type="dataset")
        )
    folder = os.path.realpath(pin.path)
    parent, repository = os.path.dirname(folder), os.path.dirname(os.path.dirname(folder))
    in_cache = os.path.basename(parent) == "snapshots" and os.path.isdir(
        os.path.join(repository, "blobs")
    )
    return repository if in_cache else folder  # a snapshot's files are links to the blobs


def stray_images(pin: Pin, builder: DatasetBuilder) -> tuple[str, ...]:
    """Image files of a local folder of images that are in none of its splits, relative to it."""
    if not pin.is_local or not isinstance(builder, FolderBasedBuilder):
        return ()
    loaded = {
        os.path.abspath(path) for files in builder.config.data_files.values() for path in files
    }
    if any(path.endswith(".zip") for path in loaded):
        return ()
    root = Path(os.path.abspath(pin.path))
    images = (
        path
        for path in root.rglob("*")
        if path.suffix.lower() in builder.EXTENSIONS and path.is_file()
    )
    strays = (path.relative_to(root) for path in images if str(path) not in loaded)
    return tuple(
        sorted(
            path.as_posix()
            for path in strays
            if not any(part.startswith(".") for part in path.parts)
        )
    )


def advice(error: BaseException, pin: Pin) -> str:
    """The cause of what `datasets` raised, in one line, with what to do about it where that is
    known.
    """
    cause = _innermost(error)
    text, said = str(cause), _first_of_its_own(cause)
    for pattern, known in ADVICE:
        if found := re.search(pattern, text, re.DOTALL):
            return known.format(
                said=said,
                **{name: value.replace("'", "") for name, value in found.groupdict().items()},
            )
    if pin.is_local and (pointer := _lfs_pointer(Path(pin.path))):
        return f"{pointer} is a git-lfs pointer: fetch the files with `git lfs pull` ({said})"
    if pin.is_local and "Unknown split" in text and _is_split_like(pin):
        return f"{said} ({SPLIT_NAMES})"
    return said


def _innermost(error: BaseException) -> BaseException:
    """What a wrapper of `datasets` wraps."""
    while error.__cause__ is not None and not _own_lines(error):
        error = error.__cause__
    return error


def _own_lines(error: BaseException) -> list[str]:
    return [
        line.strip() for line in str(error).splitlines() if line.strip() and line.strip() != WRAPPER
    ]


def _first_of_its_own(error: BaseException) -> str:
    return next(iter(_own_lines(error)), first_line(error))


def _lfs_pointer(folder: Path) -> str | None:
    """A file of the folder, by its relative name, that holds a pointer of git-lfs in place of the
    data.
    """
    for path in sorted(folder.rglob("*")):
        if (
            path.is_file()
            and path.stat().st_size < 1024
            and path.read_bytes().startswith(LFS_POINTER)
        ):
            return path.relative_to(folder).as_posix()
    return None


def _is_split_like(pin: Pin) -> bool:
    """Whether a local folder has images in folders of its own, which `datasets` may take for
    splits.
    """
    return any(
        path.is_dir() and re.search("train|test|val|dev", path.name.lower())
        for path in Path(pin.path).iterdir()
    )


def _is_shortage(error: BaseException) -> bool:
    lacking = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM)
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in lacking)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
