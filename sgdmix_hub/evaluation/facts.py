"""What an evaluation found: the content of evaluation.json, and the same as text."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from sgdmix_hub.errors import shown
from sgdmix_hub.method.saliency.trust import Trust

FILE = "evaluation.json"
COLUMNS = (
    "images",
    "label_fidelity",
    "mean_label_probability",
    "foreground_drift",
    "background_novelty",
    "background_novelty_in_class",
    "near_duplicates",
    "kernel_distance",
    "standard_error",
)
LOWEST_CLASSES = 5


@dataclass(frozen=True)
class Request:
    """What is evaluated and how. A finished evaluation is reused only if its request is equal.

    `synthetic` and `judge` are pins; `masks` describes the masks in words. `keep_by` and
    `keep_difficulty`: None without `keep`. `drop`: sha256 of the list of rows that were dropped by
    hand.
    """

    synthetic: str
    synthetic_config_name: str
    judge: str
    masks: str
    eval_split: str | None
    keep: float | None
    keep_by: str | None = None
    keep_difficulty: str | None = None
    drop: str | None = None

    def record(self) -> dict[str, Any]:
        """As it is in evaluation.json."""
        values = asdict(self)
        if self.drop is None:
            values.pop("drop")
        return values | {"pins": {"judge": values.pop("judge")}}


@dataclass(frozen=True)
class Figures:
    """Measurements of a set of rows; NaN where nothing could be measured."""

    images: int
    label_fidelity: float
    mean_class_label_fidelity: float
    mean_label_probability: float
    foreground_drift: float
    background_novelty: float
    background_novelty_in_class: float
    near_duplicates: float
    kernel_distance: float
    standard_error: float


@dataclass(frozen=True)
class RealDistances:
    """Mean distances of real images from each other, for comparison with drift and novelty."""

    foreground_same_class: float
    foreground_other_class: float
    background_same_class: float
    background_other_class: float


@dataclass(frozen=True)
class Measurements:
    """Figures of all rows, of each strength and each prompt (if several) and of the kept rows (if
    any dropped).

    `duplicates`: what `near_duplicates` returns, by feature space ("features", "pixels").
    """

    all: Figures
    by_strength: dict[float, Figures]
    by_prompt: dict[str, Figures]
    kept: Figures | None
    real: RealDistances
    duplicates: dict[str, dict[str, Any]]

    def record(self) -> dict[str, Any]:
        """As it is in evaluation.json: None instead of NaN."""
        values = asdict(self)
        by_strength = [{"strength": s, **figures} for s, figures in values["by_strength"].items()]
        by_prompt = [{"prompt": prompt, **of} for prompt, of in values["by_prompt"].items()]
        return without_nan(values | {"by_strength": by_strength, "by_prompt": by_prompt})


@dataclass(frozen=True)
class JudgeAccuracy:
    """Share of the real images of a split that the judge classifies correctly."""

    split: str
    accuracy: float
    images: int


@dataclass(frozen=True)
class ClassFacts:
    """Measurements of one class. `judge_accuracy` is None without real images of the class."""

    name: str
    label: int
    images: int
    label_fidelity: float
    mean_label_probability: float
    judge_accuracy: float | None
    real_images: int
    dropped: int

    def record(self) -> dict[str, Any]:
        """As it is in evaluation.json."""
        values = asdict(self)
        return {"class": values.pop("name")} | values


@dataclass(frozen=True)
class EvaluationFacts:
    """Everything in evaluation.json. `left_out`: source rows that have no views."""

    request: Request
    dataset: str
    warnings: list[str]
    trust: Trust
    judge_accuracy: JudgeAccuracy | None
    left_out: list[int]
    measured: Measurements
    by_class: list[ClassFacts]
    dropped: int
    dropped_by_hand: int = 0

    def record(self) -> dict[str, Any]:
        """evaluation.json."""
        return (
            self.request.record()
            | self.measured.record()
            | {
                "dataset": self.dataset,
                "warnings": self.warnings,
                "trust": asdict(self.trust) | {"reads_background": self.trust.reads_background},
                "judge_accuracy": self.judge_accuracy and asdict(self.judge_accuracy),
                "left_out": self.left_out,
                "by_class": [facts.record() for facts in self.by_class],
                "dropped": self.dropped,
            }
            | ({"dropped_by_hand": self.dropped_by_hand} if self.request.drop else {})
        )

    def text(self) -> str:
        """The main figures in a few lines."""
        lines = [f"masks: {self.request.masks}"]
        if self.judge_accuracy is not None:
            lines.append(
                f"judge: accuracy {self.judge_accuracy.accuracy:.3f} on "
                f"{self.judge_accuracy.images} real images of {self.judge_accuracy.split}"
            )
        lines += _table_of_strengths(self.measured)
        if self.measured.by_prompt:
            groups = {shown(text): figures for text, figures in self.measured.by_prompt.items()}
            lines += _table("prompt", groups)
        lowest = sorted(self.by_class, key=lambda facts: facts.label_fidelity)[:LOWEST_CLASSES]
        lines.append(
            "classes with the lowest label fidelity: "
            + ", ".join(f"{' '.join(c.name.split())} {c.label_fidelity:.2f}" for c in lowest)
        )
        return "\n".join(lines)


def without_nan(value: Any) -> Any:
    """The same value with None for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {name: without_nan(part) for name, part in value.items()}
    if isinstance(value, list):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _table_of_strengths(measured: Measurements) -> list[str]:
    groups = {f"{strength:g}": figures for strength, figures in measured.by_strength.items()}
    groups["all"] = measured.all
    if measured.kept is not None:
        groups["kept"] = measured.kept
    return _table("strength", groups)


def _table(first: str, groups: dict[str, Figures]) -> list[str]:
    rows = [(first, *(column.replace("_", " ") for column in COLUMNS))]
    for name, figures in groups.items():
        rows.append((name, *(_cell(getattr(figures, column)) for column in COLUMNS)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]


def _cell(value: float | int) -> str:
    if isinstance(value, int):
        return str(value)
    return "-" if math.isnan(value) else f"{value:.3f}"
