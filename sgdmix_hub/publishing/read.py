"""Reading an augmented dataset back: exactly the rows of the version that was asked for, checked
against its manifest.
"""

from __future__ import annotations

import glob
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Value, load_dataset
from datasets import Image as ImageFeature
from huggingface_hub import snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from PIL import Image

from sgdmix_hub.data.splits import Split, decode_image, to_rgb
from sgdmix_hub.errors import UserError, first_line, one_line
from sgdmix_hub.forms import LARGEST_COUNT
from sgdmix_hub.hub.client import fetch
from sgdmix_hub.hub.formats import read_manifest
from sgdmix_hub.hub.pins import OutOfReach, Pin, name_and_revision, resolve
from sgdmix_hub.settings.generation import check_config_name

from .card_merge import newest_versions
from .layout import assets_folder, damaged_files, data_folder

CARD = "README.md"


class PublishedRows:
    """The rows of one published configuration, by the source row they were made from. `dataset` is
    what `datasets.load_dataset` gives; the images of `rows` are not decoded. `sources` and `labels`
    are int64 (n,), `strengths` float64 (n,).
    """

    def __init__(self, pin: Pin, rows: Dataset, manifest: dict):
        self.pin = pin
        self.dataset = rows
        self.rows = rows.cast_column("image", ImageFeature(decode=False))
        self.manifest = manifest
        self.sources, self.labels = (
            np.array(rows.data.column(name).to_pylist(), dtype=np.int64)
            for name in ("source_index", "label")
        )
        self.strengths = np.array(rows.data.column("strength").to_pylist(), dtype=np.float64)
        self._by_source: dict[int, list[int]] = defaultdict(list)
        for position, source in enumerate(self.sources.tolist()):
            self._by_source[source].append(position)

    def made_from(self, source_index: int) -> list[int]:
        """Positions of the rows made from one source row; empty when there are none."""
        return self._by_source.get(int(source_index), [])

    def image(self, position: int) -> Image.Image:
        """One image, RGB, of the bytes in its row."""
        return to_rgb(decode_image(self.rows[position]["image"] | {"path": None}))

    def check_made_from(self, split: Split, subset: dict) -> None:
        """Raises `UserError` unless the rows were made from rows of this very split and subset
        (`data.subset_record`), with its labels.
        """
        theirs = self.manifest["subset"]
        same_rows = all(
            theirs[name] == subset[name] for name in ("dataset_config_name", "dataset_split")
        )
        made_from = Pin.parse(theirs["dataset"])
        if not same_rows or not made_from.holds_same_as(Pin.parse(subset["dataset"])):
            raise UserError(
                f"{self.pin.name} was made from split {theirs['dataset_split']!r} of {theirs['dataset']}, "
                f"not from {subset['dataset_split']!r} of {split.pin}: source_index would point at other images"
            )
        labelled = np.array(self.rows.data.column(labelled_by(self.manifest)).to_pylist(), np.int64)
        outside = max(labelled.max(initial=-1), self.sources.max(initial=-1)) >= len(split.labels)
        if (
            outside
            or self.rows.features["label"].names != split.class_names
            or not np.array_equal(split.labels[labelled], self.labels)
        ):
            raise UserError(f"{self.pin.name} has other labels than {split.pin.name}")
        strangers = set(self.sources.tolist()) - set(split.subset.tolist())
        if strangers:
            raise UserError(
                f"{self.pin.name} was made from {len(strangers)} rows outside this subset: that would leak; use the same "
                "examples_per_class, imbalance_factor and subset_seed"
            )


def load_published(name_at_revision: str, config_name: str = "default") -> PublishedRows:
    """An augmented dataset, `org/name[@revision]` or a run's repo folder: snapshot, verify every
    file, load.

    `datasets.load_dataset` alone may silently give another cached version when the Hub fails. This
    gives the version that was asked for or an error; a version (a tag) that was loaded before needs
    no Hub, and warns when the tag names another commit by now. The manifest protects against
    accident; whoever may write to the repository may write another manifest: `org/name@40-hex` is
    what nobody can change.

    Raises `UserError` when a file or a row is missing, one is there that the manifest does not
    know, or one has other bytes than it states.
    """
    return open_version(*fetch_version(name_at_revision, config_name), config_name)


def open_version(pin: Pin, folder: Path, config_name: str) -> PublishedRows:
    """What `load_published` gives, of a version whose files are in `folder`. Raises `UserError` as
    it does.
    """
    manifest_path = folder / "sgdmix" / config_name / "manifest.json"
    if not manifest_path.is_file():
        raise UserError(
            f"{pin.name} holds no augmented dataset: sgdmix/{config_name}/manifest.json is missing"
        )
    manifest = read_manifest(manifest_path)
    damaged = damaged_files(folder, manifest)
    if damaged:
        raise UserError(f"{pin.name}: {', '.join(damaged[:3])} missing or not the published bytes")
    shards = shards_in(folder, config_name)
    strangers = [name for name in shards if name not in manifest["files"]]
    if strangers:
        raise UserError(
            f"{pin.name}: {', '.join(strangers[:3])} not in its manifest: this is not what was published"
        )
    if manifest["rows"] == 0:
        raise UserError(
            f"{pin.name} has no rows: all {len(manifest['skipped'])} were skipped, for reasons that {manifest_path} lists"
        )
    files = [glob.escape(str(folder / name)) for name in shards]
    try:
        rows = load_dataset("parquet", data_files={"train": files}, split="train")
    except Exception as error:  # datasets raises all kinds on what it cannot read
        raise UserError(
            f"cannot load {pin.name}: {one_line(first_line(error.__cause__ or error))}"
        ) from error
    if len(rows) != manifest["rows"]:
        raise UserError(
            f"{pin.name} has {len(rows)} rows, its manifest says {manifest['rows']}: this is not what was published"
        )
    check_columns(pin, rows, manifest)
    return PublishedRows(pin, rows, manifest)


def check_columns(pin: Pin, rows: Dataset, manifest: dict) -> None:
    """Raises `UserError` unless the columns that trainings read are those of an augmented dataset:
    every image is there as bytes, and every number names a class, a row of the source or a
    strength.
    """
    features = rows.features
    if not (
        isinstance(features.get("image"), ImageFeature)
        and isinstance(features.get("label"), ClassLabel)
    ):
        raise UserError(f"{pin.name} has no columns image and label as sgdmix_hub publishes them")
    num_classes = len(features["label"].names)
    ranges = {"label": (0, num_classes - 1), "source_index": (0, LARGEST_COUNT), "strength": (0, 1)}
    ranges[labelled_by(manifest)] = (0, LARGEST_COUNT)
    for name, (smallest, largest) in ranges.items():
        if name not in features or not isinstance(features[name], (Value, ClassLabel)):
            raise UserError(f"{pin.name} has no column {name} as sgdmix_hub publishes it")
        column = rows.data.column(name)
        is_number = (
            pa.types.is_floating(column.type)
            if name == "strength"
            else pa.types.is_integer(column.type)
        )
        fits = (
            is_number
            and not column.null_count
            and smallest <= pc.min(column).as_py()
            and pc.max(column).as_py() <= largest
        )
        if not fits or not pc.all(pc.is_finite(column)).as_py():
            raise UserError(
                f"{pin.name}: column {name} holds values outside [{smallest}, {largest}]: this is not what was published"
            )
    # a cell without bytes has a path, which would be read on the reader's machine
    if pc.struct_field(rows.data.column("image"), "bytes").null_count:
        raise UserError(
            f"{pin.name} has rows whose image is not in it: this is not what was published"
        )


def labelled_by(manifest: dict) -> str:
    """The column with the rows whose class the labels name."""
    # of older versions, which all keep the source's label, no manifest says so
    return f"{manifest.get('prompt_class', 'source')}_index"


def shards_in(folder: Path, config_name: str) -> list[str]:
    """The names of a configuration's shards, in the order of their rows."""
    found = (folder / data_folder(config_name)).glob("train-*")
    return sorted(path.relative_to(folder).as_posix() for path in found)


def fetch_version(name_at_revision: str, config_name: str) -> tuple[Pin, Path]:
    """One configuration's files at the commit that the Hub names; where it does not answer, those
    of a version that was fetched before. Raises `UserError`.
    """
    check_config_name(config_name)
    name, revision = name_and_revision(name_at_revision)
    local_only = False
    try:
        pin = resolve(name_at_revision, repo_type="dataset")
    except OutOfReach as error:
        pin = cached_version(name, revision)
        if pin is None:
            raise UserError(
                f"{error}; or a version that was loaded before, asked for by its tag"
            ) from None
        local_only = True
    if pin.path is not None:
        return pin, Path(pin.path)
    before = None if local_only else cached_version(name, revision)
    if before is not None and before != pin:
        warnings.warn(
            f"{name_at_revision} was {before.revision} when it was loaded last, and is {pin.revision} now: its owner has moved the tag; "
            f"{before} is what you had",
            stacklevel=2,
        )
    wanted = [
        CARD,
        f"{data_folder(config_name)}/train-*",
        f"sgdmix/{config_name}/*",
        f"{assets_folder(config_name)}/*.png",
    ]
    # by its tag, which the cache then knows
    options = {
        "repo_type": "dataset",
        "revision": revision or pin.revision,
        "allow_patterns": wanted,
        "local_files_only": local_only,
    }
    folder = Path(fetch(lambda: snapshot_download(name, **options), name_at_revision))
    if folder.name != pin.revision:
        raise UserError(
            f"{name_at_revision} is {pin.revision}, but {folder.name} came from the cache: try again when the Hub answers"
        )
    return pin, folder


def cached_version(name: str, version: str) -> Pin | None:
    """A version that is in the cache, known by its commit, or by a tag that its own card lists
    last; what else has a name may have moved since. None where there is none, or only one whose
    card cannot be read.
    """
    try:
        card = try_to_load_from_cache(name, CARD, revision=version or None, repo_type="dataset")
        if not isinstance(card, str):
            return None
        commit = Path(card).parent.name
        is_named = version == commit or version in newest_versions(
            Path(card).read_text(encoding="utf-8")
        )
    except (HFValidationError, OSError, ValueError, UserError):
        return None
    return Pin(name, commit) if is_named else None
