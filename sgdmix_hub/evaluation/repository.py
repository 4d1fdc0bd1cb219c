"""A published version and its rows' scores -> `repo/`: the same images with the scores as columns,
without the rows that were dropped.

Configuration, plan and pins are those of the generation: a rerun from them gives all rows, and
manifest and card say so.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sgdmix_hub.figures.plots import draw_statistics
from sgdmix_hub.files import sync, write_json, write_sealed
from sgdmix_hub.generation.repository import card_facts
from sgdmix_hub.publishing.dataset_card import CardEvaluation, dataset_card
from sgdmix_hub.publishing.layout import (
    EVALUATION,
    assets_folder,
    data_folder,
    file_facts,
    manifest_path,
)
from sgdmix_hub.publishing.statistics import count_rows
from sgdmix_hub.settings.fetched import PUBLISHED_BESIDE
from sgdmix_hub.settings.generation import AugmentSettings

from .scores import Scores, scored_features

FILE = "evaluation.json"
KEPT_TOO = ("label_fidelity", "foreground_drift", "background_novelty")


@dataclass(frozen=True)
class Version:
    """The version that is evaluated: the folder of its files, its manifest, and its settings with
    the preset applied.
    """

    folder: Path
    manifest: dict
    settings: AugmentSettings

    @property
    def shards(self) -> list[Path]:
        """The parquet files, in the order of their rows."""
        start = f"{data_folder(self.settings.config_name)}/train-"
        return [
            self.folder / name for name in sorted(self.manifest["files"]) if name.startswith(start)
        ]


def build_evaluated(
    version: Version,
    class_names: list[str],
    scores: Scores,
    kept: np.ndarray,
    facts: dict,
    figures: dict[str, Path],
    output: Path,
) -> None:
    """Writes `output/repo`; what an interrupted attempt left is thrown away.

    Args:
        kept: the rows that stay, bool (n,).
        facts: what evaluation.json says.
        figures: file name -> picture, for the card.
    """
    building = output / "state" / "repo.building"
    shutil.rmtree(building, ignore_errors=True)
    config_name = version.settings.config_name
    assets, beside = assets_folder(config_name), Path("sgdmix") / config_name
    for folder in (data_folder(config_name), assets, beside):
        (building / folder).mkdir(parents=True)
    shards = write_shards(version, class_names, scores, kept, building / data_folder(config_name))
    statistics = count_rows(shards, len(class_names))
    draw_statistics(statistics, building / assets / "statistics.png")
    copied = [
        f"{assets}/contact_sheet.png",
        *(f"sgdmix/{config_name}/{name}" for name in ("config.yaml", PUBLISHED_BESIDE[0])),
    ]
    for name in copied:
        shutil.copyfile(version.folder / name, building / name)
    for name, picture in figures.items():
        shutil.copyfile(picture, building / assets / name)
    write_json(building / beside / FILE, facts)
    manifest = version.manifest | {
        "rows": int(kept.sum()),
        "files": file_facts(building),
        EVALUATION: {name: facts[name] for name in ("synthetic", "pins", "keep", "dropped")}
        | {"dropped_by_class": {of["class"]: of["dropped"] for of in facts["by_class"]}},
    }
    write_sealed(manifest_path(building, version.settings), manifest)
    prose, settings = (
        manifest["stated"]["prose"],
        replace(version.settings, license=manifest["license"], card=None),
    )
    if prose is not None:
        (output / "state" / "card.md").write_text(prose, encoding="utf-8")
        settings = replace(settings, card=str(output / "state" / "card.md"))
    card = dataset_card(
        settings,
        card_facts(manifest, scored_features(class_names), statistics, card_evaluation(facts)),
    )
    (building / "README.md").write_text(card, encoding="utf-8")
    sync(building)
    building.rename(output / "repo")


def write_shards(
    version: Version, class_names: list[str], scores: Scores, kept: np.ndarray, folder: Path
) -> list[Path]:
    """The version's shards, one after the other, with the scores' columns and without the rows that
    were dropped; no shard is empty.
    """
    schema = scored_features(class_names).arrow_schema
    sizes = [pq.ParquetFile(path).metadata.num_rows for path in version.shards]
    ends = np.cumsum(sizes)
    parts = [
        (path, slice(end - size, end))
        for path, size, end in zip(version.shards, sizes, ends, strict=True)
    ]
    parts = [(path, rows) for path, rows in parts if kept[rows].any()]
    written = []
    for number, (path, rows) in enumerate(parts):
        table = pq.read_table(path)
        columns = {
            name: scores[name][rows] if name in scores else table.column(name)
            for name in schema.names
        }
        written.append(folder / f"train-{number:05d}-of-{len(parts):05d}.parquet")
        pq.write_table(pa.table(columns, schema=schema).filter(pa.array(kept[rows])), written[-1])
    return written


def card_evaluation(facts: dict) -> CardEvaluation:
    """What the card says of an evaluation, in words."""
    of_all, accuracy, real = facts["all"], facts["judge_accuracy"], facts["real"]
    figures = [("images that the judge gives their label", _number(of_all["label_fidelity"]))]
    if accuracy is not None:
        figures.append(
            (
                f"the same of {accuracy['images']} real images of {accuracy['split']}",
                _number(accuracy["accuracy"]),
            )
        )
    figures += [
        ("mean probability of the label", _number(of_all["mean_label_probability"])),
        (
            "foreground drift",
            f"{_number(of_all['foreground_drift'])} (real images of one class: {_number(real['foreground_same_class'])})",
        ),
        (
            "background novelty",
            f"{_number(of_all['background_novelty'])} (real images of one class: {_number(real['background_same_class'])})",
        ),
        (
            "the same from the nearest background of the class",
            _number(of_all["background_novelty_in_class"]),
        ),
        (
            "near duplicates of a training image, neither source nor target",
            _number(of_all["near_duplicates"]),
        ),
        (
            "kernel distance to the real images",
            f"{_number(of_all['kernel_distance'])} ± {_number(of_all['standard_error'])}",
        ),
    ]
    if facts["kept"] is not None:
        figures += [
            (f"{name.replace('_', ' ')} of the kept images", _number(facts["kept"][name]))
            for name in KEPT_TOO
        ]
    figures += [
        (
            f"images that the judge gives their label, S = {of['strength']:g}",
            _number(of["label_fidelity"]),
        )
        for of in facts["by_strength"]
    ]
    return CardEvaluation(
        judge=facts["pins"]["judge"],
        warnings=facts["warnings"],
        masks=facts["masks"],
        figures=figures,
        by_class=[
            (
                of["class"],
                of["images"],
                _number(of["label_fidelity"]),
                _number(of["judge_accuracy"]),
                of["dropped"],
            )
            for of in facts["by_class"]
        ],
        keep=facts["keep"],
        rows_before=of_all["images"],
        dropped=facts["dropped"],
        label_fidelity=of_all["label_fidelity"],
    )


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"
