"""Where the files of a published dataset are, its columns, and the checks of its manifest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from datasets import ClassLabel, Features, Image, Value

from sgdmix_hub.errors import TooManySkipped
from sgdmix_hub.files import file_sha256, in_threads
from sgdmix_hub.settings.fetched import PUBLISHED_BESIDE, STRENGTHS
from sgdmix_hub.settings.reasons import is_expected

CARD = "README.md"
SHARDS = "*/train-*-of-*.parquet"  # glob pattern of those of any configuration
PLAN, MANIFEST = PUBLISHED_BESIDE
MORE_IMAGES = ("mask", "mixed")  # columns of images that settings add to `image`
# every column that settings add
MORE_COLUMNS = {"attempts": Value("int32")} | {name: Image() for name in MORE_IMAGES}
EVALUATION = "evaluation"  # key of the manifest of an evaluated dataset


@dataclass(frozen=True)
class RepoLayout:
    """Names of a configuration's files, relative to the repository and with forward slashes."""

    config_name: str

    @property
    def data(self) -> str:
        """Folder of the shards."""
        return "data" if self.config_name == "default" else self.config_name

    @property
    def shards(self) -> str:
        """Glob pattern of the shards."""
        return f"{self.data}/train-*"

    def shard(self, number: int, count: int) -> str:
        return f"{self.data}/train-{number:05d}-of-{count:05d}.parquet"

    @property
    def assets(self) -> str:
        """Folder of the card's pictures."""
        return "assets" if self.config_name == "default" else f"assets/{self.config_name}"

    @property
    def contact_sheet(self) -> str:
        return f"{self.assets}/contact_sheet.png"

    @property
    def gallery(self) -> str:
        """A page of thumbnails, if the settings ask for one."""
        return f"{self.assets}/gallery.html"

    @property
    def statistics(self) -> str:
        return f"{self.assets}/statistics.png"

    @property
    def facts(self) -> str:
        """Folder of the configuration, plan and manifest."""
        return f"sgdmix/{self.config_name}"

    @property
    def config(self) -> str:
        return f"{self.facts}/config.yaml"

    @property
    def plan(self) -> str:
        return f"{self.facts}/{PLAN}"

    @property
    def strengths(self) -> str:
        """The table of the pilot that chose the strengths, if there was one."""
        return f"{self.facts}/{STRENGTHS}"

    @property
    def manifest(self) -> str:
        return f"{self.facts}/{MANIFEST}"

    @property
    def evaluation(self) -> str:
        return f"{self.facts}/evaluation.json"

    @property
    def patterns(self) -> list[str]:
        """Glob patterns of all the files a reader needs."""
        return [CARD, self.shards, f"{self.facts}/*", f"{self.assets}/*.png", self.gallery]

    def owns(self, name: str) -> bool:
        """Whether no other configuration can have a file of this name."""
        return fnmatch(name, self.shards) or name.startswith(f"{self.facts}/")

    @property
    def described(self) -> list[str]:
        """Glob patterns of the files that tell of a version: all but its shards and pictures."""
        return [CARD, f"{self.facts}/*"]

    def described_by(self, names: Iterable[str]) -> list[str]:
        """Those of the names that `described` matches."""
        return [name for name in names if name == CARD or name.startswith(f"{self.facts}/")]

    def make_folders(self, repo: Path) -> None:
        """Creates the three folders of a new repository."""
        for folder in (self.data, self.facts, self.assets):
            (repo / folder).mkdir(parents=True)


def manifests_in(repo: Path) -> list[Path]:
    """The manifests of all configurations in a repository."""
    return sorted(repo.glob(RepoLayout("*").manifest))


def damaged_files(folder: Path, manifest: dict) -> list[str]:
    """Names of the manifest's files that are missing or have other bytes."""
    stated = manifest["files"]

    def is_damaged(name: str) -> bool:
        path = folder / name
        return not path.is_file() or file_sha256(path) != stated[name]["sha256"]

    return [
        name
        for name, damaged in zip(stated, in_threads(is_damaged, stated), strict=True)
        if damaged
    ]


def check_share_skipped(manifest: dict, max_skipped: float, path: Path) -> None:
    """Raises `TooManySkipped` if the manifest at `path` lists more skipped rows than allowed.

    Rows without a trusted mask, or whose target has no background, are left out on purpose and do
    not count.
    """
    skipped = sum(not is_expected(row["reason"]) for row in manifest["skipped"])
    planned = manifest["planned_rows"]
    if skipped > max_skipped * planned:
        raise TooManySkipped(
            f"{skipped} of {planned} rows were skipped, more than max_skipped {max_skipped:g} "
            f"allows. {path} lists the reasons. Everything else was written"
        )


def file_facts(folder: Path) -> dict[str, dict]:
    """sha256 and size of every file in a folder, by its name relative to it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = (path.relative_to(folder).as_posix() for path in files)
    return dict(zip(names, in_threads(facts_of, files), strict=True))


def facts_of(path: Path) -> dict:
    """sha256 and size of a file, as a manifest states them."""
    return {"sha256": file_sha256(path), "bytes": path.stat().st_size}


def shard_features(class_names: list[str], more: Iterable[str]) -> Features:
    """The columns of the published dataset, in their order; those of MORE_COLUMNS are the last."""
    label = ClassLabel(names=class_names)
    return Features(
        {
            "image": Image(),
            "label": label,
            "source_index": Value("int64"),
            "source_width": Value("int32"),
            "source_height": Value("int32"),
            "target_index": Value("int64"),
            "target_label": label,
            "variant": Value("int32"),
            "strength": Value("float64"),
            "effective_strength": Value("float64"),
            "sigma_start": Value("float64"),
            "foreground_strength": Value("float64"),
            "seed": Value("int64"),
            "saliency_distance": Value("float64"),
            "foreground_area": Value("float64"),
            "mask_confidence": Value("float32"),
            "prompt": Value("string"),
        }
        | {name: MORE_COLUMNS[name] for name in more}
    )
