"""Writes an evaluated version to `repo/`: its images without the dropped rows, with score columns.

Configuration, plan and pins are those of the generation. A rerun from them gives all rows;
manifest and card say so.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features

from sgdmix_hub.figures.plots import draw_statistics
from sgdmix_hub.files import sync, write_json
from sgdmix_hub.generation.repository import card_facts
from sgdmix_hub.hub.manifests import write_manifest
from sgdmix_hub.output_folder import OutputFolder
from sgdmix_hub.publishing.dataset_card import CardEvaluation, dataset_card
from sgdmix_hub.publishing.layout import (
    CARD,
    EVALUATION,
    MORE_COLUMNS,
    RepoLayout,
    file_facts,
    shard_features,
)
from sgdmix_hub.publishing.parquet import write_parquet
from sgdmix_hub.publishing.statistics import count_rows
from sgdmix_hub.settings.generation import AugmentSettings

from .facts import EvaluationFacts
from .scores import Scores, scored_features


@dataclass(frozen=True)
class Version:
    """The evaluated version: the folder of its files, its manifest, and its resolved settings."""

    folder: Path
    manifest: dict
    settings: AugmentSettings

    @property
    def layout(self) -> RepoLayout:
        return RepoLayout(self.settings.config_name)

    @property
    def shards(self) -> list[Path]:
        """The parquet files, in the order of their rows."""
        start = self.layout.shards.removesuffix("*")
        return [
            self.folder / name for name in sorted(self.manifest["files"]) if name.startswith(start)
        ]


def build_evaluated(
    version: Version,
    class_names: list[str],
    scores: Scores,
    kept: np.ndarray,
    facts: EvaluationFacts,
    figures: dict[str, Path],
    output: OutputFolder,
) -> None:
    """Writes `repo/`; discards an interrupted attempt.

    Args:
        kept: the rows that stay, bool (n,).
        figures: file name -> picture, for the card.
    """
    layout, building = version.layout, output.building
    shutil.rmtree(building, ignore_errors=True)
    layout.make_folders(building)
    shards = write_shards(version, class_names, scores, kept, building)
    statistics = count_rows(shards, len(class_names))
    draw_statistics(statistics, building / layout.statistics)
    copied = [layout.contact_sheet, layout.config, layout.plan]
    if version.settings.strength_choice is not None:
        copied.append(layout.strengths)
    for name in copied:
        shutil.copyfile(version.folder / name, building / name)
    for name, picture in figures.items():
        shutil.copyfile(picture, building / layout.assets / name)
    write_json(building / layout.evaluation, facts.record())
    manifest = version.manifest | {
        "rows": int(kept.sum()),
        "files": file_facts(building),
        EVALUATION: manifest_entry(facts),
    }
    manifest = write_manifest(building / layout.manifest, manifest)
    card = dataset_card(
        card_settings(version.settings, manifest, output),
        card_facts(
            manifest,
            evaluated_features(version, class_names),
            statistics,
            card_evaluation(facts),
        ),
    )
    (building / CARD).write_text(card, encoding="utf-8")
    sync(building)
    building.rename(output.repo)


def manifest_entry(facts: EvaluationFacts) -> dict:
    """What the manifest says about the evaluation."""
    return {
        "synthetic": facts.request.synthetic,
        "pins": {"judge": facts.request.judge},
        "keep": facts.request.keep,
        "keep_by": facts.request.keep_by,
        "keep_difficulty": facts.request.keep_difficulty,
        "dropped": facts.dropped,
        "dropped_by_class": {of_class.name: of_class.dropped for of_class in facts.by_class},
    } | ({"dropped_by_hand": facts.dropped_by_hand} if facts.request.drop else {})


def card_settings(
    settings: AugmentSettings, manifest: dict, output: OutputFolder
) -> AugmentSettings:
    """The generation's settings with the licence and prose that its manifest keeps."""
    prose = manifest["stated"]["prose"]
    if prose is not None:
        output.card.write_text(prose, encoding="utf-8")
    return replace(
        settings,
        license=manifest["license"],
        license_name=manifest.get("license_name"),
        license_link=manifest.get("license_link"),
        card=None if prose is None else str(output.card),
    )


def evaluated_features(version: Version, class_names: list[str]) -> Features:
    """The columns of the evaluated version: the version's, which may be of an older format, and
    the scores.
    """
    published = set(pq.read_schema(version.shards[0]).names)
    known = shard_features(class_names, MORE_COLUMNS)
    return scored_features(Features({name: known[name] for name in known if name in published}))


def write_shards(
    version: Version, class_names: list[str], scores: Scores, kept: np.ndarray, building: Path
) -> list[Path]:
    """Copies the version's shards with the score columns added and the dropped rows removed.

    A shard without kept rows is left out. Returns the new files.
    """
    schema = evaluated_features(version, class_names).arrow_schema
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
        written.append(building / version.layout.shard(number, len(parts)))
        kept_rows = pa.table(columns, schema=schema).filter(pa.array(kept[rows]))
        write_parquet(written[-1], [kept_rows], schema)
    return written


def card_evaluation(facts: EvaluationFacts) -> CardEvaluation:
    """What the card says about an evaluation, in words."""
    return CardEvaluation(
        judge=facts.request.judge,
        warnings=facts.warnings,
        masks=facts.request.masks,
        figures=card_figures(facts),
        by_class=[
            (
                of_class.name,
                of_class.images,
                _number(of_class.label_fidelity),
                _number(of_class.judge_accuracy),
                of_class.dropped,
            )
            for of_class in facts.by_class
        ],
        keep=facts.request.keep,
        keep_by=facts.request.keep_by,
        keep_difficulty=facts.request.keep_difficulty,
        rows_before=facts.measured.all.images,
        dropped=facts.dropped,
        dropped_by_hand=facts.dropped_by_hand,
        label_fidelity=facts.measured.all.label_fidelity,
    )


def card_figures(facts: EvaluationFacts) -> list[tuple[str, str]]:
    """The figures on the card: (description, value)."""
    every, kept, real = facts.measured.all, facts.measured.kept, facts.measured.real
    accuracy = facts.judge_accuracy
    figures = [("images that the judge assigns to their label", _number(every.label_fidelity))]
    if accuracy is not None:
        figures.append(
            (
                f"the same for {accuracy.images} real images of {accuracy.split}",
                _number(accuracy.accuracy),
            )
        )
    figures += [
        ("mean probability of the label", _number(every.mean_label_probability)),
        ("foreground drift", _beside_real(every.foreground_drift, real.foreground_same_class)),
        ("background novelty", _beside_real(every.background_novelty, real.background_same_class)),
        (
            "background novelty, from the nearest real background of the class",
            _number(every.background_novelty_in_class),
        ),
        (
            "near duplicates of a training image other than source and target",
            _number(every.near_duplicates),
        ),
        (
            "kernel distance to the real images",
            f"{_number(every.kernel_distance)} ± {_number(every.standard_error)}",
        ),
    ]
    if kept is not None:
        figures += [
            ("label fidelity of the kept images", _number(kept.label_fidelity)),
            ("foreground drift of the kept images", _number(kept.foreground_drift)),
            ("background novelty of the kept images", _number(kept.background_novelty)),
        ]
    figures += [
        (
            f"images that the judge assigns to their label, S = {strength:g}",
            _number(of_strength.label_fidelity),
        )
        for strength, of_strength in facts.measured.by_strength.items()
    ]
    figures += [
        (
            f"images that the judge assigns to their label, prompt: {prompt}",
            _number(of_prompt.label_fidelity),
        )
        for prompt, of_prompt in facts.measured.by_prompt.items()
    ]
    return figures


def _beside_real(value: float, real: float) -> str:
    return f"{_number(value)} (between real images of one class: {_number(real)})"


def _number(value: float | None) -> str:
    return "not measured" if value is None or math.isnan(value) else f"{value:.3f}"
