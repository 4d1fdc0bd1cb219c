"""One (task, seed) of the evidence; every result has its own folder, so finished work is kept."""

from __future__ import annotations

import os
import time
from pathlib import Path

from parts.evidence.arms import (
    GENERATION,
    JUDGE,
    SPECIES,
    SYNTHETIC_PROBABILITIES,
    TASKS,
    TEST,
    Arm,
)
from parts.evidence.cifar import PACKAGE, make_photographs
from parts.evidence.placebos import PLACEBOS, make_masked
from parts.method.arms import ADAPTER, BASE, CLASSIFIER, SALIENCY, make_domain, settings_from
from parts.method.measures import label_kept, predicted_labels

from sgdmix_hub import augment, train_adapter, train_classifier
from sgdmix_hub.data.splits import Split, load_split
from sgdmix_hub.files import read_json, write_json
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.metrics.class_accuracy import ClassAccuracy
from sgdmix_hub.runtime.ranks import start_processes
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.training import ClassifierSettings


def slug(text: str) -> str:
    """A name as a folder."""
    return "-".join("".join(c if c.isalnum() or c == "." else " " for c in text.lower()).split())


def figures_path(work_dir: Path, task: str, seed: int | str) -> Path:
    """Where the figures of a task and seed are kept."""
    return work_dir / task / f"seed-{seed}" / "figures.json"


class Run:
    """The programs' runs for one task and seed.

    The seed draws species, images, subset, and everything that is trained.
    """

    def __init__(self, work_dir: Path, task: str, seed: int):
        self.task, self.seed = TASKS[task], seed
        self.folder = work_dir / task / f"seed-{seed}"
        domains = work_dir / "domains"
        self.images = domains / f"tie-{self.task.tie:g}-train-{self.task.train}-seed-{seed}"
        self.untied = domains / f"tie-0-train-{self.task.train}-seed-{seed}"
        if self.task.photographs:
            self.images = self.untied = domains / f"photographs-{self.task.train}-seed-{seed}"
            make_photographs(self.images, work_dir / "cifar", seed, self.task.train, JUDGE, TEST)
        else:
            for folder, tie in ((self.images, self.task.tie), (self.untied, 0.0)):
                make_domain(folder, seed, tie, self.task.train)
        self.data = {"dataset_name": str(self.images), "seed": seed, "subset_seed": seed}

    def train(self, folder: Path, subset: dict | None = None, **values) -> Path:
        """Trains a classifier, unless it exists, and returns its folder."""
        frozen = {"image_size": 64, "num_train_epochs": self.task.epochs, "output_dir": str(folder)}
        data = self.data | (self.task.subset if subset is None else subset)
        train_classifier.main(
            settings_from(ClassifierSettings, **(data | CLASSIFIER | frozen | values))
        )
        return folder

    def prepare(self) -> None:
        """Trains what the arms need: saliency classifier, adapter and judge."""
        self.train(self.folder / "saliency", **SALIENCY)
        values = (
            self.data
            | self.task.subset
            | BASE
            | ADAPTER
            | {"output_dir": str(self.folder / "adapter")}
        )
        if self.task.photographs:
            values["metaclass"] = "animal"
        train_adapter.main(settings_from(AdapterSettings, **values))
        self.train_judge()

    def train_judge(self) -> None:
        """On images that no arm trains on, none of which are tied."""
        judge = {
            "dataset_name": str(self.untied),
            "dataset_split": "validation",
            "num_train_epochs": 16,
        }
        self.train(self.folder / "judge", subset={}, **judge)

    def generate(self, folder: Path, changes: dict, without_adapter: bool = False) -> Path:
        """Makes an augmented dataset, if it is not there; returns its repository."""
        links = {
            "output_dir": str(folder),
            "saliency_dir": str(self.folder / "maps"),
            "classifier": str(self.folder / "saliency"),
        }
        if not without_adapter:
            links["adapter"] = str(self.folder / "adapter")
        augment.main(
            settings_from(
                AugmentSettings,
                **(self.data | self.task.subset | links | BASE | GENERATION | changes),
            )
        )
        return folder / "repo"

    def accuracy(self, classifier: Path, split: str) -> float:
        """On the validation or test images, none of which are tied."""
        data = settings_from(
            ClassifierSettings,
            dataset_name=str(self.images),
            dataset_split=split,
            output_dir="unused",
        )
        return accuracy_on(
            classifier, load_split(data, resolve(str(self.images), repo_type="dataset"))
        )


class PlaceboRun(Run):
    """The same on the same images with the masks of placebos; needs the judge alone."""

    def __init__(self, work_dir: Path, task: str, seed: int):
        super().__init__(work_dir, task, seed)
        masked = self.images.with_name(f"{self.images.name}-masked")
        make_masked(self.images, masked)
        self.images, self.data = masked, self.data | {"dataset_name": str(masked)}

    def prepare(self) -> None:
        self.train_judge()


def accuracy_on(classifier: Path, split: Split) -> float:
    """A trained classifier's accuracy on all images of a split."""
    predicted = predicted_labels(classifier, (split.image(int(row)) for row in split.subset))
    return ClassAccuracy().compute(predictions=predicted, references=split.labels[split.subset])[
        "accuracy"
    ]


class Figures:
    """What was measured of one task and seed, kept on disk after every arm."""

    def __init__(self, path: Path):
        self.path = path
        self.values = (
            read_json(path) if path.exists() else {"hours": 0.0, "judge": None, "arms": {}}
        )

    def has(self, name: str) -> bool:
        return name in self.values["arms"]

    def keep(self, started: float, name: str | None = None, figures: dict | None = None) -> None:
        if name is not None:
            self.values["arms"][name] = figures
        self.values["hours"] += (time.monotonic() - started) / 3600
        write_json(self.path, self.values)


def measure(run: Run, name: str, arm: Arm, probabilities: tuple[float, ...]) -> dict:
    """Accuracies of an arm by synthetic probability, and its share of kept labels."""
    folder = run.folder / slug(name)
    figures, synthetic = {"accuracy": {}}, {}
    if arm.generation is not None:
        repo = run.generate(folder, arm.generation, arm.without_adapter)
        figures["label kept"] = label_kept(run.folder / "judge", repo)
        synthetic = {"synthetic": str(repo)}
    for probability in probabilities if synthetic else (0.0,):
        chosen = synthetic and {**synthetic, "synthetic_probability": probability}
        data = {"dataset_name": str(run.untied)} if arm.untied else {}
        classifier = run.train(
            folder / f"downstream-{probability:g}", **(arm.training | data | chosen)
        )
        figures["accuracy"][f"{probability:g}"] = {
            split: run.accuracy(classifier, split) for split in ("validation", "test")
        }
    return figures


def run_arms(
    task: str,
    seed: int,
    work_dir: Path,
    arms: dict[str, Arm],
    probabilities: tuple[float, ...] = SYNTHETIC_PROBABILITIES,
) -> str:
    """Measures the missing arms and says what is finished; output goes to `log.txt`."""
    start_processes(num_threads=1)
    run = (PlaceboRun if set(arms) <= set(PLACEBOS) else Run)(work_dir, task, seed)
    write_to(run.folder / "log.txt")
    figures = Figures(figures_path(work_dir, task, seed))
    missing = {
        name: arm
        for name, arm in arms.items()
        if not figures.has(name) and arm.applies_to(run.task)
    }
    if missing:
        started = time.monotonic()
        run.prepare()
        if figures.values["judge"] is None:
            figures.values["judge"] = run.accuracy(run.folder / "judge", "test")
        figures.keep(started)
    for name, arm in missing.items():
        started = time.monotonic()
        figures.keep(started, name, measure(run, name, arm, probabilities))
    return (
        f"{task}, seed {seed}: {len(figures.values['arms'])} arms, {figures.values['hours']:.2f} h"
    )


def write_to(path: Path) -> None:
    """Redirects the output of this process and its children to a file.

    Parallel runs would mix their lines.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)


def domain_text() -> str:
    """What the figures were measured on, in words."""
    return (
        f"{SPECIES} species of procedural birds at 64x64; the photographs are CIFAR-10's "
        f"{SPECIES} animals at 32x32 (npm {PACKAGE}); "
        f"{SPECIES * TEST} test and {SPECIES * JUDGE} validation images, none of them tied"
    )
