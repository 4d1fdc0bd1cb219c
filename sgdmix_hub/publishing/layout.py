"""Where the files of a published dataset lie, its columns, and the facts that its manifest states
of them.
"""

from __future__ import annotations

from pathlib import Path

from datasets import ClassLabel, Features, Image, Value

from sgdmix_hub.errors import TooManySkipped
from sgdmix_hub.files import file_sha256
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.method import is_low_confidence

EVALUATION = (
    "evaluation"  # in a manifest: what was measured of the rows, and dropped, after the generation
)


def data_folder(config_name: str) -> str:
    """Where a configuration's shards lie in a repository."""
    return "data" if config_name == "default" else config_name


def assets_folder(config_name: str) -> str:
    """Where a configuration's pictures lie: each has a place of its own."""
    return "assets" if config_name == "default" else f"assets/{config_name}"


def damaged_files(folder: Path, manifest: dict) -> list[str]:
    """Names of the manifest's files that are missing or have other bytes."""
    return [
        name
        for name, facts in manifest["files"].items()
        if not (folder / name).is_file() or file_sha256(folder / name) != facts["sha256"]
    ]


def manifest_path(repo: Path, settings: AugmentSettings) -> Path:
    """Where a configuration's manifest lies in a repository."""
    return repo / "sgdmix" / settings.config_name / "manifest.json"


def check_share_skipped(manifest: dict, max_skipped: float, path: Path) -> None:
    """Raises `TooManySkipped` when a manifest, which lies at `path`, has more skipped rows than
    `max_skipped` allows. Rows whose mask cannot be trusted are skipped on purpose and not counted.
    """
    faults = [row for row in manifest["skipped"] if not is_low_confidence(row["reason"])]
    skipped, planned = len(faults), manifest["planned_rows"]
    if skipped > max_skipped * planned:
        raise TooManySkipped(
            f"{skipped} of {planned} rows were skipped, more than max_skipped {max_skipped:g} allows: "
            f"their reasons are in {path}; everything else was written"
        )


def shard_name(number: int, count: int) -> str:
    return f"train-{number:05d}-of-{count:05d}.parquet"


def file_facts(folder: Path) -> dict[str, dict]:
    """sha256 and size of every file in a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {
            "sha256": file_sha256(path),
            "bytes": path.stat().st_size,
        }
        for path in files
    }


def shard_features(class_names: list[str]) -> Features:
    """The columns of the published dataset, in their order."""
    label = ClassLabel(names=class_names)
    return Features(
        {
            "image": Image(),
            "label": label,
            "source_index": Value("int64"),
            "target_index": Value("int64"),
            "target_label": label,
            "variant": Value("int32"),
            "strength": Value("float64"),
            "effective_strength": Value("float64"),
            "foreground_strength": Value("float64"),
            "seed": Value("int64"),
            "saliency_distance": Value("float64"),
            "foreground_area": Value("float64"),
            "mask_confidence": Value("float32"),
            "prompt": Value("string"),
        }
    )
