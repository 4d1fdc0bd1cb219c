"""Loads a split of a pinned dataset with `datasets`, and explains why loading failed."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, DatasetBuilder, DownloadConfig, load_dataset_builder
from datasets.config import HF_DATASETS_CACHE
from datasets.packaged_modules.folder_based_builder.folder_based_builder import FolderBasedBuilder

from sgdmix_hub.errors import UserError, first_line, one_line, shown
from sgdmix_hub.files import lies_in
from sgdmix_hub.hub.pins import Pin, cached_folder

from .class_names import check_class_names, data_files
from .images import LFS_POINTER
from .indexed import IndexedRows, indexed_rows, stated_in

WRAPPER = "An error occurred while generating the dataset"
DROPPED_LABELS = (
    "class folders give labels where there are at least two, all images lie equally deep, and no "
    "metadata file says more"
)
SPLIT_NAMES = (
    "datasets takes names that contain train, test or val for splits: put all class folders into "
    "a folder train/"
)

# Regular expression on the message of datasets or Arrow -> advice.
ADVICE = (
    (
        r"available configs: \[(?P<names>.*?)\]",
        "it has several configurations: choose one with --dataset_config_name ({names})",
    ),
    (
        r"BuilderConfig .* not found\. Available: \[(?P<names>.*?)\]",
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
    """Rows of a split.

    `files_in`: real path of the folder that may hold the cells' files. `strays`: image files of a
    local folder that belong to no split.
    """

    rows: Dataset | IndexedRows
    files_in: str
    strays: tuple[str, ...]


def load_rows(
    pin: Pin,
    config_name: str | None,
    split: str,
    streaming: bool = False,
    label_column: str | None = None,
) -> Loaded:
    """Loads one split, or an index of it. Raises `UserError`, or the original error if disk or
    memory ran out.

    `label_column`: whose class names the files have to agree on, if labels are read.
    """
    try:
        builder = _builder(pin, config_name)
        check_data_files(pin, builder)
        if streaming:
            rows: Dataset | IndexedRows = indexed_rows(pin, builder, split)
            strays: tuple[str, ...] = ()
        else:
            rows, strays = _prepared(builder, split), stray_images(pin, builder)
        if label_column is not None:
            known = stated_in(rows) if isinstance(rows, IndexedRows) else {}
            asked = (config_name, split, label_column)
            check_class_names(pin, builder, *asked, rows.features, known)
        return Loaded(rows, files_of(pin), strays)
    except UserError:
        raise
    except Exception as error:  # datasets raises errors of any type on unreadable data
        if any(_is_shortage(cause) for cause in _causes(error)):
            raise
        raise UserError(
            one_line(f"cannot load split {split!r} of {pin.name}: {advice(error, pin)}")
        ) from error


def _prepared(builder: DatasetBuilder, split: str) -> Dataset:
    builder.download_and_prepare()
    rows = builder.as_dataset(split=split)
    assert isinstance(rows, Dataset)  # a DatasetDict is returned only without `split`
    return rows


def _builder(pin: Pin, config_name: str | None) -> DatasetBuilder:
    if pin.path is not None:
        return load_dataset_builder(pin.path, config_name, cache_dir=str(cache_of(pin.path, pin)))
    builder = load_dataset_builder(
        pin.name,
        config_name,
        revision=pin.revision,
        download_config=DownloadConfig(max_retries=3),
    )
    # If the Hub fails, datasets falls back to any cached version; the hash says which one.
    if builder.hash != pin.revision:
        raise UserError(
            f"{pin.name}: the Hub did not answer, and the cache holds another version than "
            f"{pin.revision}; try again later"
        )
    return builder


def check_data_files(pin: Pin, builder: DatasetBuilder) -> None:
    """Refuses a local dataset whose README names data outside its folder. Raises `UserError`.

    Such data (other files of this machine, or a repository that the user's token can read) could be
    published. For Hub datasets, `datasets` itself refuses this.
    """
    if not pin.is_local:
        return
    folder = files_of(pin)
    for file in data_files(builder):
        place = file.rpartition("::")[2].removeprefix("file://")
        if not place.startswith(("http://", "https://")) and (
            "://" in place or not lies_in(place, folder)
        ):
            raise UserError(
                f"the README of {pin.name} names data outside the dataset, {shown(file)}: pass "
                "that data as --dataset_name"
            )


def cache_of(folder: str, pin: Pin) -> Path:
    """The cache folder for the prepared rows of a local folder, keyed by path and content.

    The key that `datasets` uses for a folder with `data_files` in its README is that README alone:
    two folders with equal READMEs would share rows.
    """
    place = hashlib.sha256(f"{os.path.realpath(folder)}\0{pin.revision}".encode()).hexdigest()
    return Path(HF_DATASETS_CACHE) / "sgdmix_hub" / place[:32]


def files_of(pin: Pin) -> str:
    """The real path of the folder with a dataset's files: local, or in the Hub's cache."""
    if pin.path is None:
        return os.path.realpath(cached_folder(pin.name, "dataset"))
    folder = os.path.realpath(pin.path)
    parent, repository = os.path.dirname(folder), os.path.dirname(os.path.dirname(folder))
    in_cache = os.path.basename(parent) == "snapshots" and os.path.isdir(
        os.path.join(repository, "blobs")
    )
    return repository if in_cache else folder  # files of a snapshot are links to blobs/


def stray_images(pin: Pin, builder: DatasetBuilder) -> tuple[str, ...]:
    """Image files of a local folder that belong to no split, as relative paths."""
    if pin.path is None or not isinstance(builder, FolderBasedBuilder):
        return ()
    loaded = {os.path.abspath(path) for path in data_files(builder)}
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
    """Describes an error of `datasets` in one line, with advice if there is any."""
    cause = _innermost(error)
    text, said = str(cause), _first_of_its_own(cause)
    for pattern, known in ADVICE:
        if match := re.search(pattern, text, re.DOTALL):
            names = match.groupdict().get("names", "").replace("'", "")
            return known.format(said=said, names=names)
    if pin.path is not None and (pointer := _lfs_pointer(Path(pin.path))):
        return f"{pointer} is a git-lfs pointer: fetch the files with `git lfs pull` ({said})"
    if pin.path is not None and "Unknown split" in text and _looks_split(Path(pin.path)):
        return f"{said} ({SPLIT_NAMES})"
    return said


def _innermost(error: BaseException) -> BaseException:
    """The cause inside the generic errors of `datasets`."""
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
    """The relative name of a file that is a git-lfs pointer instead of data, or None."""
    for path in sorted(folder.rglob("*")):
        if (
            path.is_file()
            and path.stat().st_size < 1024
            and path.read_bytes().startswith(LFS_POINTER)
        ):
            return path.relative_to(folder).as_posix()
    return None


def _looks_split(folder: Path) -> bool:
    """Whether a subfolder's name may make `datasets` take it for a split."""
    return any(
        path.is_dir() and re.search("train|test|val|dev", path.name.lower())
        for path in folder.iterdir()
    )


def _is_shortage(error: BaseException) -> bool:
    lacking = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM)
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in lacking)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
