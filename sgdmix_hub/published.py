"""Reading an augmented dataset back: exactly the rows of the version that was asked for, checked against its manifest."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
from datasets import Dataset, load_dataset
from datasets import Image as ImageFeature
from huggingface_hub import snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from PIL import Image

from .card_merge import newest_versions
from .cards import assets_folder, data_folder
from .data import Split, decode_image, to_rgb
from .errors import UserError, first_line
from .files import file_sha256, read_json
from .pins import OutOfReach, Pin, resolve, same_content

CARD = "README.md"


class PublishedRows:
    """The rows of one published configuration, by the source row they were made from. `dataset` is what `datasets.load_dataset` gives; the
    images of `rows` are not decoded. `sources` and `labels` are int64 (n,), `strengths` float64 (n,)."""

    def __init__(self, pin: Pin, rows: Dataset, manifest: dict):
        self.pin = pin
        self.dataset = rows
        self.rows = rows.cast_column("image", ImageFeature(decode=False))
        self.manifest = manifest
        self.sources, self.labels = (np.array(rows.data.column(name).to_pylist(), dtype=np.int64) for name in ("source_index", "label"))
        self.strengths = np.array(rows.data.column("strength").to_pylist(), dtype=np.float64)
        self._by_source: dict[int, list[int]] = defaultdict(list)
        for position, source in enumerate(self.sources.tolist()):
            self._by_source[source].append(position)

    def made_from(self, source_index: int) -> list[int]:
        """Positions of the rows made from one source row; empty when there are none."""
        return self._by_source.get(int(source_index), [])

    def image(self, position: int) -> Image.Image:
        """One image, RGB."""
        return to_rgb(decode_image(self.rows[position]["image"]))

    def check_made_from(self, split: Split, subset: dict) -> None:
        """Raises `UserError` unless the rows were made from rows of this very split and subset (`data.subset_record`), with its labels."""
        theirs = self.manifest["subset"]
        same_rows = all(theirs[name] == subset[name] for name in ("dataset_config_name", "dataset_split"))
        if not same_rows or not same_content(theirs["dataset"], subset["dataset"]):
            raise UserError(
                f"{self.pin.name} was made from split {theirs['dataset_split']!r} of {theirs['dataset']}, "
                f"not from {subset['dataset_split']!r} of {split.pin}: source_index would point at other images"
            )
        # of older versions, which all keep the source's label, no manifest says so
        labelled = np.array(self.rows.data.column(f"{self.manifest.get('prompt_class', 'source')}_index").to_pylist(), np.int64)
        if self.rows.features["label"].names != split.class_names or not np.array_equal(split.labels[labelled], self.labels):
            raise UserError(f"{self.pin.name} has other labels than {split.pin.name}")
        strangers = set(self.sources.tolist()) - set(split.subset.tolist())
        if strangers:
            raise UserError(
                f"{self.pin.name} was made from {len(strangers)} rows outside this subset: that would leak; use the same "
                "examples_per_class, imbalance_factor and subset_seed"
            )


def load_published(name_at_revision: str, config_name: str = "default") -> PublishedRows:
    """An augmented dataset, `org/name[@revision]` or a run's repo folder: snapshot, verify every file, load.

    `datasets.load_dataset` alone may silently give another cached version when the Hub fails. This gives the version that was asked for or
    an error; a version (a tag) that was loaded before needs no Hub. Raises `UserError` when a file is missing or has other bytes than the
    manifest states.
    """
    return open_version(*fetch_version(name_at_revision, config_name), config_name)


def open_version(pin: Pin, folder: Path, config_name: str) -> PublishedRows:
    """What `load_published` gives, of a version whose files are in `folder`. Raises `UserError` as it does."""
    manifest_path = folder / "sgdmix" / config_name / "manifest.json"
    if not manifest_path.is_file():
        raise UserError(f"{pin.name} holds no augmented dataset: sgdmix/{config_name}/manifest.json is missing")
    manifest = read_json(manifest_path)
    damaged = damaged_files(folder, manifest)
    if damaged:
        raise UserError(f"{pin.name}: {', '.join(damaged[:3])} missing or not the published bytes")
    files = [str(folder / name) for name in manifest["files"] if name.endswith(".parquet") and "/train-" in name]
    try:
        rows = load_dataset("parquet", data_files={"train": files}, split="train")
    except Exception as error:  # datasets raises all kinds on what it cannot read
        raise UserError(f"cannot load {pin.name}: {first_line(error)}") from error
    return PublishedRows(pin, rows, manifest)


def fetch_version(name_at_revision: str, config_name: str) -> tuple[Pin, Path]:
    """One configuration's files at the commit that the Hub names; where it does not answer, those of a version that was fetched before.
    Raises `UserError`."""
    name, _, revision = name_at_revision.partition("@")
    local_only = False
    try:
        pin = resolve(name_at_revision, repo_type="dataset")
    except OutOfReach as error:
        pin = cached_version(name, revision)
        if pin is None:
            raise UserError(f"{error}; only a version that was loaded before, asked for by its tag, needs no Hub") from None
        local_only = True
    if pin.path is not None:
        return pin, Path(pin.path)
    wanted = [CARD, f"{data_folder(config_name)}/train-*", f"sgdmix/{config_name}/*", f"{assets_folder(config_name)}/*.png"]
    # by its tag, which the cache then knows
    options = {"repo_type": "dataset", "revision": revision or pin.revision, "allow_patterns": wanted, "local_files_only": local_only}
    try:
        folder = Path(snapshot_download(name, **options))
    except Exception as error:
        raise UserError(f"cannot fetch {name_at_revision}: {first_line(error)}") from error
    if folder.name != pin.revision:
        raise UserError(f"{name_at_revision} is {pin.revision}, but {folder.name} came from the cache: try again when the Hub answers")
    return pin, folder


def cached_version(name: str, version: str) -> Pin | None:
    """A version that is in the cache, known by its commit, or by a tag that its own card lists last; what else has a name
    may have moved since. Raises `UserError`."""
    try:
        card = try_to_load_from_cache(name, CARD, revision=version or None, repo_type="dataset")
    except HFValidationError:
        return None
    if not isinstance(card, str):
        return None
    commit = Path(card).parent.name
    is_named = version == commit or version in newest_versions(Path(card).read_text(encoding="utf-8"))
    return Pin(name, commit) if is_named else None


def damaged_files(folder: Path, manifest: dict) -> list[str]:
    """Names of the manifest's files that are missing or have other bytes."""
    return [
        name for name, facts in manifest["files"].items() if not (folder / name).is_file() or file_sha256(folder / name) != facts["sha256"]
    ]
