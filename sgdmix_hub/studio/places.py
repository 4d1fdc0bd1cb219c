"""Finds a version: a repository on the Hub, its folder, or the output folder of a generation,
whose finished shards are read while others are being made.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from sgdmix_hub.errors import UserError
from sgdmix_hub.files import DamagedFile, read_sealed
from sgdmix_hub.generation.plan_file import begun_run, has_begun
from sgdmix_hub.generation.repository import is_as_stated
from sgdmix_hub.hub.manifests import read_manifest
from sgdmix_hub.output_folder import OutputFolder
from sgdmix_hub.publishing.fetching import download_version, fetch_version, find_version
from sgdmix_hub.publishing.layout import RepoLayout
from sgdmix_hub.publishing.read import shards_in
from sgdmix_hub.settings.generation import AugmentSettings, check_config_name
from sgdmix_hub.settings.parsing import parse_settings
from sgdmix_hub.settings.presets import apply_preset
from sgdmix_hub.storage.places import is_url

from .shard_files import HubFile, LocalFile, VersionFile, files_on_hub, not_as_published


@dataclass(frozen=True)
class Place:
    """Where the files of a version are, and how it was made.

    `rows`: how many rows they hold, if the manifest says it. `planned`: rows that a run makes, if
    it is not finished. `pins`, `settings`: those of the generation; `config`: its file, unless the
    run is not finished.
    """

    name: str
    files: list[VersionFile]
    pins: dict[str, str]
    rows: int | None = None
    planned: int | None = None
    config: Path | None = None
    begun: dict[str, Any] | None = None

    @property
    def is_read_by_need(self) -> bool:
        """Whether some files are on the Hub alone."""
        return any(isinstance(file, HubFile) for file in self.files)

    def settings(self) -> AugmentSettings:
        """The settings of the generation, with their preset applied. Raises `UserError`."""
        if self.config is None:
            values = dict(self.begun or {})
            return apply_preset(AugmentSettings(**values, output_dir="outputs"))
        words = ["--config", str(self.config), "--output_dir=outputs"]
        return apply_preset(parse_settings(AugmentSettings, words))


def place_of(name: str, config_name: str) -> Place:
    """Finds a version. Raises `UserError`."""
    check_config_name(config_name)
    output = OutputFolder(name)
    if is_url(name):
        pin, folder = fetch_version(name, config_name)
        return _in_folder(pin.name, folder, config_name)
    if not os.path.isdir(name):
        return _on_hub(name, config_name)
    if not output.repo.is_dir() and has_begun(output.state):
        return _unfinished(name, output)
    folder = output.repo if output.repo.is_dir() else Path(name)
    return _in_folder(Path(name).resolve().name, folder, config_name)


def _in_folder(name: str, folder: Path, config_name: str) -> Place:
    """A repository's folder; the size of its files is compared now, their bytes when they are
    shown.
    """
    layout = RepoLayout(config_name)
    if not (folder / layout.manifest).is_file():
        raise _no_version(name, layout)
    manifest, names = read_manifest(folder / layout.manifest), shards_in(folder, config_name)
    stated = manifest["files"]
    strange = [name for name in names if name not in stated]
    lacking = [
        name
        for name, facts in stated.items()
        if name.endswith(".parquet") and not is_as_stated(folder / name, facts, by_bytes=False)
    ]
    if strange or lacking:
        raise not_as_published(name, [*lacking, *strange])
    files: list[VersionFile] = [LocalFile(folder / name, stated[name]) for name in names]
    return Place(name, files, manifest["pins"], manifest["rows"], config=folder / layout.config)


def _on_hub(name: str, config_name: str) -> Place:
    """A version on the Hub, which is read by need; if the Hub is out of reach, the cache's."""
    layout = RepoLayout(config_name)
    pin, is_online = find_version(name, config_name)
    if not is_online:
        return _in_folder(name, download_version(name, config_name, pin, is_online), config_name)
    folder = download_version(name, config_name, pin, is_online, layout.described)
    if not (folder / layout.manifest).is_file():
        raise _no_version(pin.name, layout)
    manifest = read_manifest(folder / layout.manifest)
    files = list(files_on_hub(pin, manifest["files"], layout.data))
    return Place(name, files, manifest["pins"], manifest["rows"], config=folder / layout.config)


def _no_version(name: str, layout: RepoLayout) -> UserError:
    return UserError(f"{name} holds no augmented dataset: {layout.manifest} is missing")


def _unfinished(name: str, output: OutputFolder) -> Place:
    """The finished shards of a run that goes on, or that was stopped."""
    begun = begun_run(output.state)["settings"]
    plan = output.state / "plan.parquet"
    planned = pq.ParquetFile(plan).metadata.num_rows if plan.exists() else None
    files: list[VersionFile] = []
    for record in sorted(output.shards.rglob("shard-*.json")):
        try:
            read_sealed(record)
        except (DamagedFile, FileNotFoundError):
            continue  # the run makes it again
        files.append(LocalFile(record.with_suffix(".parquet")))
    pins = {name: value for name, value in begun.items() if "@" in str(value)}
    return Place(Path(name).resolve().name, files, pins, planned=planned or 0, begun=begun)
