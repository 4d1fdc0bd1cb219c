"""The arms of every classifier and seed, one line of JSON each; a run that was stopped resumes."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .classifiers import Classifier
from .task import Images

# seed -> what its lines say besides the figures, its training images and its test images
MakeTask = Callable[[int], tuple[dict, Images, Images]]
# (arm, seed, training images) -> mixtures (m, h, w, 3), their sources' rows (m,), and figures
MakeMixtures = Callable[[str, int, Images], tuple[np.ndarray, np.ndarray, dict]]


def read_lines(path: Path) -> list[dict]:
    """The finished arms; a line that was cut off is left out."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def class_accuracies(predicted: np.ndarray, labels: np.ndarray) -> list[float]:
    """The share of each class that is predicted rightly."""
    return [float((predicted[labels == label] == label).mean()) for label in np.unique(labels)]


def run_arms(
    seeds: list[int],
    arms: list[str],
    lines: Path,
    classifiers: dict[str, Classifier],
    make_task: MakeTask,
    make_mixtures: MakeMixtures,
    deadline: float = math.inf,
) -> list[dict]:
    """Runs what is not in `lines` yet, and returns all that is finished. No arm begins after
    `deadline`, of `time.monotonic`.
    """
    lines.parent.mkdir(parents=True, exist_ok=True)
    finished = read_lines(lines)
    lines.write_text("".join(json.dumps(line) + "\n" for line in finished), encoding="utf-8")
    done = {(line["classifier"], line["seed"], line["arm"]) for line in finished}
    for name, classifier in classifiers.items():
        for seed in seeds:
            left = [arm for arm in arms if (name, seed, arm) not in done]
            if not left or time.monotonic() > deadline:
                continue
            facts, train, test = make_task(seed)
            classify = classifier(train, test, seed)
            for arm in left:
                started = time.monotonic()
                if started > deadline:
                    break
                mixed, sources, figures = make_mixtures(arm, seed, train)
                accuracy = class_accuracies(classify(mixed, sources), test.labels)
                line = {"classifier": name, "seed": seed, "arm": arm, **facts, **figures}
                line |= {"accuracy": accuracy, "seconds": round(time.monotonic() - started, 1)}
                with lines.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                print(f"{name}, seed {seed}, {arm}: {line['seconds']} s", flush=True)
    return read_lines(lines)
