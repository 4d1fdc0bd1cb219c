"""Compares saliency, masks, targets, mixing and strength on procedural birds with true masks.

    python benchmarks/method.py --tie 0.95 --seeds 1 2 3 4 5 6 7 8 9 10 --processes 2

A seed draws species, images and everything that is trained: six species, ten training images each,
tied to their own backgrounds in training (`--tie`) and not in the test images. Every arm is a
recipe, made and trained on by the programs that users run; finished ones are kept in `work_dir`, so
the same command continues. Writes one JSON and one Markdown file of tables.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from parts.method.arms import (
    ADAPTER,
    ARMS,
    BASE,
    CHOSEN,
    CLASSIFIER,
    DOWNSTREAM,
    GENERATION,
    GOOD,
    RARE,
    REAL,
    SALIENCY,
    SPECIES,
    TEST,
    TRAIN,
    UNTIED,
    make_domain,
    settings_from,
)
from parts.method.measures import MASKS, MIXTURES, label_kept, mask_scores, mixture_scores
from parts.method.tables import tables

from sgdmix_hub import augment, train_adapter, train_classifier
from sgdmix_hub.files import read_json, write_json
from sgdmix_hub.hub.formats import CLASSIFIER_FACTS
from sgdmix_hub.runtime.ranks import start_processes
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.training import ClassifierSettings


class Seed:
    """All runs of one seed, each in a folder of its own."""

    def __init__(self, work_dir: Path, seed: int, tie: float):
        self.folder = work_dir / f"tie-{tie:g}" / f"seed-{seed}"
        self.birds, self.untied = self.folder / "birds", self.folder / "untied"
        make_domain(self.birds, seed, tie)
        make_domain(self.untied, seed, 0.0)
        self.seed = seed

    def train(self, name: str, **values) -> Path:
        """Trains a classifier, if it is not there; returns its folder."""
        folder = self.folder / name
        values = (
            {"dataset_name": str(self.birds), "seed": self.seed, "output_dir": str(folder)}
            | CLASSIFIER
            | values
        )
        train_classifier.main(settings_from(ClassifierSettings, **values))
        return folder

    def generation(self, name: str, **values) -> AugmentSettings:
        """The settings of one arm's generation."""
        links = {
            "dataset_name": str(self.birds),
            "seed": self.seed,
            "output_dir": str(self.folder / name),
        }
        links |= {
            "saliency_dir": str(self.folder / "saliency"),
            "adapter": str(self.folder / "adapter"),
        }
        classifier = {"classifier": str(self.folder / values.pop("classifier", "saliency"))}
        return settings_from(AugmentSettings, **(links | BASE | GENERATION | classifier | values))

    def augment(self, name: str, **values) -> Path:
        """Runs a generation, if it is not there; returns its repository."""
        settings = self.generation(name, **values)
        augment.main(settings)
        return Path(settings.output_dir) / "repo"

    def train_inputs(self) -> None:
        """Trains what the arms need: two saliency classifiers, the adapter, and a judge.

        The judge is trained on other real images.
        """
        self.train("saliency", **SALIENCY)
        repo = self.augment("bootstrap", **GOOD)
        self.train("bootstrapped", **SALIENCY, synthetic=str(repo), synthetic_probability=0.5)
        self.train(
            "judge",
            dataset_name=str(self.untied),
            dataset_split="validation",
            image_size=64,
            num_train_epochs=16,
            eval_split="test",
        )
        values = {
            "dataset_name": str(self.birds),
            "seed": self.seed,
            "output_dir": str(self.folder / "adapter"),
        }
        train_adapter.main(settings_from(AdapterSettings, **(values | BASE | ADAPTER)))


def arm_folder(arm: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in arm.lower())


def accuracy(folder: Path) -> float:
    return read_json(folder / CLASSIFIER_FACTS)["metrics"]["accuracy"]


def run_seed(seed: int, work_dir: Path, tie: float, arms: list[str]) -> dict:
    """All figures of one seed; those of each arm are kept as they come."""
    start_processes(num_threads=1)
    run = Seed(work_dir, seed, tie)
    figures_path = run.folder / "figures.json"
    figures = (
        read_json(figures_path)
        if figures_path.exists()
        else {"seconds": 0.0, "accuracy": {}, "label kept": {}}
    )

    def keep(started: float) -> None:
        figures["seconds"] += time.monotonic() - started
        write_json(figures_path, figures)

    started = time.monotonic()
    run.train_inputs()
    for name, scores_of in {"masks": mask_scores, "mixtures": mixture_scores}.items():
        if name not in figures:
            figures[name] = scores_of(run)
    if REAL not in figures["accuracy"]:
        figures["judge"] = accuracy(run.folder / "judge")
        figures["accuracy"][REAL] = accuracy(run.train("real", **DOWNSTREAM))
        figures["accuracy"][UNTIED] = accuracy(
            run.train("real-untied", dataset_name=str(run.untied), **DOWNSTREAM)
        )
    keep(started)
    for arm in arms:
        if arm in figures["accuracy"]:
            continue
        started = time.monotonic()
        repo = run.augment(arm_folder(arm), **ARMS[arm])
        figures["accuracy"][arm] = accuracy(
            run.train(f"{arm_folder(arm)}/downstream", synthetic=str(repo), **DOWNSTREAM)
        )
        figures["label kept"][arm] = label_kept(run.folder / "judge", repo)
        if arm == CHOSEN:
            rare = DOWNSTREAM | {"synthetic_probability": 0.1}
            figures["accuracy"][RARE] = accuracy(
                run.train(f"{arm_folder(arm)}/rare", synthetic=str(repo), **rare)
            )
        keep(started)
    print(
        f"seed {seed}: "
        + ", ".join(f"{arm} {value:.3f}" for arm, value in figures["accuracy"].items()),
        flush=True,
    )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(1, 11)))
    parser.add_argument(
        "--tie",
        type=float,
        default=0.95,
        help="share of training images on their species' own background",
    )
    parser.add_argument(
        "--arms", nargs="+", choices=list(ARMS), default=list(ARMS), help="arms to run"
    )
    parser.add_argument("--processes", type=int, default=2, help="seeds at a time, one thread each")
    parser.add_argument(
        "--work_dir",
        type=Path,
        default=Path("outputs/benchmarks/method"),
        help="folder of the runs",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("benchmarks/results"),
        help="folder of the .json and .md",
    )
    arguments = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"  # two seeds at a time would write into each other's bars
    work = partial(run_seed, work_dir=arguments.work_dir, tie=arguments.tie, arms=arguments.arms)
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        seeds = list(pool.map(work, arguments.seeds))
    domain = {
        "species": SPECIES,
        "train": TRAIN,
        "test": TEST,
        "tie": arguments.tie,
        "torch": torch.__version__.partition("+")[0],
    }
    results = arguments.results / f"method_{'tied' if arguments.tie else 'untied'}"
    figures = {"domain": domain, "seeds": dict(zip(map(str, arguments.seeds), seeds, strict=True))}
    results.with_suffix(".json").write_text(json.dumps(figures, sort_keys=True), encoding="utf-8")
    order = {
        "masks": ["best fixed mask", *MASKS],
        "mixtures": list(MIXTURES),
        "accuracy": [REAL, UNTIED, *ARMS, RARE],
    }
    text = tables(figures, order, ["paper, S = 0.5", CHOSEN])
    results.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
