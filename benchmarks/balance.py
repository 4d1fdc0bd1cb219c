"""A long tail balanced against not, at S = 0, on procedural birds.

    python benchmarks/balance.py --seeds 1 2 3 4 5

Classes have 40 to 2 training images (imbalance factor 0.05). `even` makes as many images from every
source; `level` makes as many images in all, but levels the classes with `images_per_class`. Every
arm makes the same number of updates. A finished (seed, arm) is kept in `work_dir`, so the same
command continues; with `--seconds` it stops after that time, between two arms. Writes balance.json
and balance.md of what is finished; an arm is compared over the seeds that it shares.
"""

from __future__ import annotations

import argparse
import time
from itertools import product
from pathlib import Path

import numpy as np
from datasets import disable_progress_bars
from parts.evidence.runs import Run, slug
from parts.intervals import interval, paired
from parts.method.arms import BASE, settings_from
from parts.method.measures import predicted_labels

from sgdmix_hub import augment
from sgdmix_hub.data.splits import load_split
from sgdmix_hub.files import read_json, write_json
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.publishing.read import load_published
from sgdmix_hub.runtime.ranks import start_processes
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.training import ClassifierSettings

TASK, PROBABILITY, FEW = "long-tail", 0.5, 10  # classes with fewer images are the rare ones
GENERATION = {
    "preset": "recommended",
    "saliency_method": "minimum-barrier",  # leaves no image out
    "strength": 0.0,
    "image_format": "png",
    "max_skipped": 1.0,
}
EVEN, LEVEL = {"num_variants": 5}, {"num_variants": 0, "images_per_class": 84}
REPLACED = {"synthetic_probability": PROBABILITY}
ARMS: dict[str, tuple[dict | None, dict]] = {
    "even, replacing their source": (EVEN, REPLACED),
    "level, drawn by class": (LEVEL, REPLACED | {"synthetic_weighting": "class-balanced"}),
    "even, drawn by class": (EVEN, REPLACED | {"synthetic_weighting": "class-balanced"}),
    "level, added": (LEVEL, {"synthetic_mode": "add"}),
    "real images": (None, {}),
    "even, drawn by 1 / (real + 1)": (
        EVEN,
        REPLACED | {"synthetic_weighting": "inverse-frequency"},
    ),
    "real images, classes shown equally often": (None, {"sampling": "balanced"}),
}
UNBALANCED = "even, replacing their source"


def generated(run: Run, changes: dict) -> Path:
    """The repository of a generation, which is made if it is not there."""
    folder = run.folder / ("level" if "images_per_class" in changes else "even")
    links = {"output_dir": str(folder), "saliency_dir": str(run.folder / "maps")}
    data = run.data | run.task.subset | links
    augment.main(settings_from(AugmentSettings, **(data | BASE | GENERATION | changes)))
    return folder / "repo"


def measure(run: Run, name: str) -> dict:
    """Test accuracy of an arm, that of its rare classes, and its images of every class."""
    generation, training = ARMS[name]
    values, counts = dict(training), None
    subset = load_split(
        settings_from(
            ClassifierSettings, **(run.data | run.task.subset | {"output_dir": "unused"})
        ),
        resolve(str(run.images), repo_type="dataset"),
    )
    real = np.bincount(subset.labels[subset.subset], minlength=len(subset.class_names))
    if generation is not None:
        repo = generated(run, generation)
        labels = load_published(str(repo)).labels
        counts = np.bincount(labels, minlength=len(real)).tolist()
        values["synthetic"] = str(repo)
        if training.get("synthetic_mode") == "add":  # epochs are longer: fewer of them
            share = len(subset.subset) / (len(subset.subset) + len(labels))
            values["num_train_epochs"] = run.task.epochs * share
    classifier = run.train(run.folder / slug(name), **values)
    test = load_split(
        settings_from(
            ClassifierSettings,
            dataset_name=str(run.images),
            dataset_split="test",
            output_dir="unused",
        ),
        resolve(str(run.images), repo_type="dataset"),
    )
    predicted = predicted_labels(classifier, (test.image(int(row)) for row in test.subset))
    right = np.asarray(predicted) == test.labels[test.subset]
    rare = np.isin(test.labels[test.subset], np.flatnonzero(real < FEW))
    return {
        "accuracy": float(right.mean()),
        "rare": float(right[rare].mean()),
        "real": real.tolist(),
        "synthetic": counts,
    }


def summary(figures: dict[str, dict[str, dict]]) -> str:
    """The accuracies of every arm over the seeds that ran it, as Markdown."""
    real = next(run["real"] for arms in figures.values() for run in arms.values())
    lines = [
        "# A long tail, balanced and not",
        "",
        f"`python benchmarks/balance.py`: {len(real)} species of procedural birds at 64x64 with "
        f"{', '.join(map(str, real))} training images, S = 0, synthetic probability "
        f"{PROBABILITY:g}; 350 test images of every species. `even`: "
        f"{EVEN['num_variants']} variants of every source; `level`: {LEVEL['images_per_class']} "
        "images of every class, real and synthetic together, with `num_variants` 0. Every arm "
        "makes the same number of updates. Means with 95 % t-intervals over seeds, paired t-test.",
        "",
        "| Synthetic images | of each class | seeds | test accuracy | of the rare classes | "
        f"against `{UNBALANCED}` | of the rare classes |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in ARMS:
        seeds = [arms for arms in figures.values() if name in arms]
        if not seeds:
            lines.append(f"| {name} | not run | | | | | |")
            continue
        counts = seeds[0][name]["synthetic"]
        cells = [", ".join(map(str, counts)) if counts else "none", str(len(seeds))]
        cells += [interval([arms[name][key] for arms in seeds]) for key in ("accuracy", "rare")]
        both = [arms for arms in seeds if UNBALANCED in arms and name != UNBALANCED]
        for key in ("accuracy", "rare"):
            values = [[arms[arm][key] for arms in both] for arm in (name, UNBALANCED)]
            cells.append(paired(*values) if both else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    rare = [count for count in real if count < FEW]
    lines += ["", f"Rare: the {len(rare)} species with fewer than {FEW} training images."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--work_dir", type=Path, default=Path("outputs/balance"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    disable_progress_bars()
    start_processes(num_threads=1)
    path, started = arguments.work_dir / "figures.json", time.monotonic()
    figures: dict[str, dict[str, dict]] = read_json(path) if path.exists() else {}
    for name, seed in product(ARMS, arguments.seeds):
        arms = figures.setdefault(str(seed), {})
        if name in arms:
            continue
        if time.monotonic() - started > arguments.seconds:
            break
        arms[name] = measure(Run(arguments.work_dir, TASK, seed), name)
        write_json(path, figures)
        print(f"seed {seed}, {name}: {arms[name]['accuracy']:.3f}", flush=True)
    write_json(arguments.results / "balance.json", figures)
    (arguments.results / "balance.md").write_text(summary(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
