"""Brings the files of a published version to this machine, from the Hub or from an object store."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from huggingface_hub import cached_assets_path, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from sgdmix_hub.errors import UserError, shown
from sgdmix_hub.files import file_sha256
from sgdmix_hub.hub.client import fetch
from sgdmix_hub.hub.manifests import list_paths, read_manifest
from sgdmix_hub.hub.pins import CONTENT, OutOfReach, Pin, name_and_revision, resolve
from sgdmix_hub.output_folder import OutputFolder
from sgdmix_hub.settings.generation import check_config_name
from sgdmix_hub.storage.objects import Objects
from sgdmix_hub.storage.places import check_url, is_url
from sgdmix_hub.storage.stores import Store

from .card_merge import newest_versions
from .layout import CARD, SHARDS, RepoLayout, damaged_files, manifests_in
from .version_files import FolderFiles, HubFiles, StoreFiles, VersionFiles

logger = logging.getLogger(__name__)
REPO = OutputFolder("").repo.name


def fetch_version(
    name_at_revision: str, config_name: str, patterns: list[str] | None = None
) -> tuple[Pin, Path]:
    """Downloads one configuration's files; returns their pin and folder. Raises `UserError`.

    If the Hub is out of reach, a version that was downloaded before is taken from the cache.
    `patterns`: the files that are needed, if not all.
    """
    check_config_name(config_name)
    if is_url(name_at_revision):
        return bring_version(name_at_revision, config_name)
    pin, is_online = find_version(name_at_revision, config_name)
    if pin.path is not None:
        return pin, Path(pin.path)
    return pin, download_version(name_at_revision, config_name, pin, is_online, patterns)


def fetch_described(
    name_at_revision: str, config_name: str, place: Path
) -> tuple[Pin, Path, VersionFiles]:
    """Brings what tells of a version, without its shards; returns its pin, the folder with these
    files, and where all are. Raises `UserError`.

    `place`: a folder for those of an object store.
    """
    layout = RepoLayout(config_name)
    check_config_name(config_name)
    if is_url(name_at_revision):
        url, names = stored_repo(name_at_revision)
        folder = place / url.rpartition("/")[2]
        StoreFiles(url).bring(layout.described_by(names), folder)
        return read_described(folder, layout)[1], folder, StoreFiles(url)
    if os.path.isdir(name_at_revision):
        folder = Path(name_at_revision)
        return read_described(folder, layout)[1], folder, FolderFiles(folder)
    pin, folder = fetch_version(name_at_revision, config_name, layout.described)
    return pin, folder, HubFiles(pin)


def find_version(name_at_revision: str, config_name: str) -> tuple[Pin, bool]:
    """The pin of a version, and whether the Hub has said so: if it is out of reach, a version that
    was downloaded before is found in the cache. Raises `UserError`.
    """
    check_config_name(config_name)
    name, revision = name_and_revision(name_at_revision)
    try:
        pin = resolve(name_at_revision, repo_type="dataset")
    except OutOfReach as error:
        cached = cached_version(name, revision)
        if cached is None:
            raise UserError(
                f"{error}; or give the tag of a version that was loaded before"
            ) from None
        return cached, False
    before = cached_version(name, revision) if pin.path is None else None
    if before is not None and before != pin:
        logger.warning(
            f"{name_at_revision} was {before.revision} when it was loaded last, and is "
            f"{pin.revision} now: its owner has moved the tag; {before} is what you had"
        )
    return pin, True


def download_version(
    name_at_revision: str,
    config_name: str,
    pin: Pin,
    is_online: bool,
    patterns: list[str] | None = None,
) -> Path:
    """The folder of the files of a version on the Hub, downloaded if `is_online`, or as the cache
    has them. Raises `UserError`. `patterns`: the files that are needed, if not all.
    """
    name, revision = name_and_revision(name_at_revision)

    def download() -> str:
        return snapshot_download(
            name,
            repo_type="dataset",
            revision=revision or pin.revision,  # the tag, so that the cache knows it later
            allow_patterns=patterns or RepoLayout(config_name).patterns,
            local_files_only=not is_online,
        )

    folder = Path(fetch(download, name_at_revision))
    if folder.name != pin.revision:
        raise UserError(
            f"{name_at_revision} is {pin.revision}, but {folder.name} came from the cache: "
            "try again when the Hub answers"
        )
    return folder


def cached_version(name: str, version: str) -> Pin | None:
    """A version in the cache, found by its commit or by a tag; None if there is none.

    A tag counts only if the cached card lists it as its newest version: any other name may have
    moved since. A version whose card cannot be read is ignored.
    """
    try:
        card = try_to_load_from_cache(name, CARD, revision=version or None, repo_type="dataset")
        if not isinstance(card, str):
            return None
        commit = Path(card).parent.name
        text = Path(card).read_text(encoding="utf-8")
        is_named = version == commit or version in newest_versions(text)
    except (HFValidationError, OSError, ValueError, UserError):
        return None
    return Pin(name, commit) if is_named else None


def read_described(folder: Path, layout: RepoLayout) -> tuple[dict, Pin]:
    """The manifest of a version whose shards need not be there, and the pin that follows from it.

    Raises `UserError`.
    """
    manifest = manifest_of(folder.name, folder, layout)
    others = {
        name: file_sha256(folder / name)
        for name in (CARD, layout.manifest)
        if (folder / name).is_file()
    }
    return manifest, stated_pin(folder.resolve().name, manifest, others)


def manifest_of(name: str, folder: Path, layout: RepoLayout) -> dict:
    """The manifest of a version that has rows. Raises `UserError`."""
    path = folder / layout.manifest
    if not path.is_file():
        raise UserError(f"{name} holds no augmented dataset: {layout.manifest} is missing")
    manifest = read_manifest(path)
    if manifest["rows"] == 0:
        raise UserError(
            f"{name} has no rows: all {len(manifest['skipped'])} were skipped, for reasons "
            f"that {path} lists"
        )
    return manifest


def stored_repo(url: str) -> tuple[str, set[str]]:
    """The URL of a version in an object store, and the names of its files: the folder itself, or
    `repo/` of an output folder. Raises `UserError`.
    """
    check_url("the dataset", url)
    url = url.rstrip("/")
    with tempfile.TemporaryDirectory() as working:
        for place in (f"{url}/{REPO}", url):
            names = set(Objects(place, Path(working)).sizes(""))
            if CARD in names:
                return place, names
    raise UserError(f"{shown(url)} holds no augmented dataset: {CARD} is missing")


def bring_version(url: str, config_name: str) -> tuple[Pin, Path]:
    """Brings one configuration's files from an object store, those that this machine has not kept
    from the last time; returns their pin and folder. Raises `UserError`.
    """
    layout = RepoLayout(config_name)
    url, names = stored_repo(url)
    files, name = StoreFiles(url), url.rpartition("/")[2]
    with tempfile.TemporaryDirectory() as place:
        files.bring(layout.described_by(names), Path(place, name))
        manifest, pin = read_described(Path(place, name), layout)
        kept = cached_assets_path("sgdmix_hub", pin.revision, config_name) / name
        shutil.copytree(Path(place, name), kept, dirs_exist_ok=True)
    files.bring(damaged_files(kept, manifest), kept)
    return replace(pin, path=str(kept)), kept


def bring_metadata(folder: Path, store: Store) -> Path:
    """Brings all but the shards of a finished generation from a store; returns its repo folder."""
    for repo in (OutputFolder(folder).repo, folder):
        if store.bring(repo / CARD):
            names = set(store.sizes(repo))  # a late listing: the manifest names what it lacks
            store.bring_all(repo / name for name in names if not fnmatch(name, SHARDS))
            for manifest in manifests_in(repo):
                store.bring_all(list_paths(manifest))
                listed = set(read_manifest(manifest)["files"]) - names
                store.bring_all(repo / name for name in listed if not fnmatch(name, SHARDS))
            return repo
    return folder


def stated_pin(name: str, manifest: dict, others: dict[str, str], path: str | None = None) -> Pin:
    """The pin of a folder that holds a version and nothing else, from the sha256 of its manifest.

    `others`: those of the card and of the manifest itself.
    """
    stated = {file: facts["sha256"] for file, facts in manifest["files"].items()} | others
    digest = hashlib.sha256()
    for file in sorted(stated, key=PurePosixPath):
        digest.update(f"{file}\0{stated[file]}\n".encode())
    return Pin(name, CONTENT + digest.hexdigest(), path)
