"""The log of a training, as lines of JSON; the loss curve; images for trackers."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sgdmix_hub.errors import UserError
from sgdmix_hub.figures.plots import CURVE_POINTS


def check_tracker(report_to: str) -> None:
    """Raises `UserError` if the tracker's package is not installed."""
    if report_to != "none" and find_spec(report_to) is None:
        raise UserError(
            f"report_to {report_to} needs the package {report_to}: pip install {report_to}"
        )


def track_image(tracker: Any, name: str, image: Image.Image, step: int) -> None:
    """Sends an RGB image to one of accelerate's trackers, if it takes images."""
    if tracker.name == "tensorboard":
        tracker.tracker.add_image(name, np.asarray(image), step, dataformats="HWC")
    elif hasattr(tracker, "log_images"):
        tracker.log_images({name: [image]}, step=step)


class TrainingLog:
    """Lines of JSON, each with its step. Resuming from a step removes the lines after it."""

    def __init__(self, path: Path):
        self.path = path

    def rewind(self, step: int) -> None:
        """Removes the lines after a step."""
        kept = [record for record in self.records() if record["step"] <= step]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        temporary.write_text("".join(map(_line, kept)), encoding="utf-8")
        os.replace(temporary, self.path)

    def append(self, record: dict) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(_line(record))

    def records(self) -> list[dict]:
        """All complete lines: a kill may have cut off the last one.

        Raises `UserError` if another line is unreadable.
        """
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        try:
            return [json.loads(line) for line in lines if line.endswith("\n")]
        except ValueError:
            raise UserError(
                f"{self.path} is damaged: remove the lines that are no JSON, "
                "or start over with --resume_from_checkpoint none"
            ) from None

    def curve(self) -> list[list[float]]:
        """[step, mean loss since the previous point], evenly spread: at most `CURVE_POINTS`."""
        records = [record for record in self.records() if "loss" in record]
        width = -(-len(records) // CURVE_POINTS)
        parts = [records[start : start + width] for start in range(0, len(records), width or 1)]
        return [
            [part[-1]["step"], round(sum(record["loss"] for record in part) / len(part), 5)]
            for part in parts
        ]


def _line(record: dict) -> str:
    return json.dumps(record) + "\n"
