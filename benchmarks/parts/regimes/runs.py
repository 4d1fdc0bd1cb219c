"""One (experiment, seed): its images, what the arms need, and what an arm gives."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from datasets import DatasetDict
from parts.evidence.placebos import with_masks
from parts.evidence.runs import slug
from parts.method.arms import ADAPTER, BASE, CLASSIFIER, DOWNSTREAM, settings_from
from parts.method.measures import predicted_labels
from parts.on_the_fly.training import KINDS, landscapes
from parts.regimes.experiments import EXPERIMENTS, REAL, Arm
from parts.regimes.residual import DONE, foreground_error, give_back

from sgdmix_hub import augment, train_adapter, train_classifier
from sgdmix_hub.data.splits import Split, load_split
from sgdmix_hub.demo.domain import make_dataset, save_dataset
from sgdmix_hub.files import write_atomically
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.training import ClassifierSettings

SPECIES, VALIDATION, TEST, SIZE = 6, 1, 350, 64


class Run:
    """The programs' runs for one experiment and seed, each in its own folder."""

    def __init__(self, work_dir: Path, key: str, seed: int):
        self.experiment, self.seed = EXPERIMENTS[key], seed
        self.folder = work_dir / key / f"seed-{seed}"
        self.images = self.folder / "images"
        self.bank = self.folder / "bank"
        self.data = {"dataset_name": str(self.images), "seed": seed, "subset_seed": seed}
        self.data |= self.experiment.subset
        self.draw()

    def draw(self) -> None:
        """Writes the images, if they are not there."""
        if self.images.exists():
            return
        domain = dict(self.experiment.domain)
        splits = make_dataset(SPECIES, domain.pop("train"), VALIDATION, TEST, self.seed, **domain)
        masked = DatasetDict({name: with_masks(rows) for name, rows in splits.items()})
        write_atomically(self.images, lambda temporary: save_dataset(masked, temporary))

    def train(self, folder: Path, **values) -> Path:
        """Trains a classifier, unless it exists, and returns its folder."""
        frozen = DOWNSTREAM | {
            "num_train_epochs": self.experiment.epochs,
            "output_dir": str(folder),
            "synthetic_probability": None,
        }
        values = self.data | CLASSIFIER | frozen | values
        given = {name: value for name, value in values.items() if value is not None}
        given.pop("eval_split")  # accuracy is measured by `accuracy`, once
        train_classifier.main(settings_from(ClassifierSettings, **given))
        return folder

    def adapter(self) -> str:
        """The folder of an adapter trained on the training images."""
        folder = self.folder / "adapter"
        values = self.data | BASE | ADAPTER | {"output_dir": str(folder)}
        train_adapter.main(settings_from(AdapterSettings, **values))
        return str(folder)

    def landscapes(self) -> str:
        """The folder of a bank of empty landscapes of all kinds."""
        if not self.bank.exists():
            bank = DatasetDict({"train": landscapes(self.seed, list(range(len(KINDS))))})

            def write(folder: Path) -> None:
                (folder / "data").mkdir(parents=True)
                bank["train"].to_parquet(folder / "data" / "train-00000-of-00001.parquet")

            write_atomically(self.bank, write)
        return str(self.bank)

    def generation(self, name: str, arm: Arm) -> AugmentSettings:
        """The settings of an arm's synthetic images. Trains what they name."""
        folder = self.folder / slug(name)
        links = {"output_dir": str(folder), "saliency_dir": str(self.folder / "maps")}
        values = self.data | links | BASE | self.experiment.generation | (arm.generation or {})
        if self.experiment.with_adapter and np.max(values["strength"]) > 0:
            values["adapter"] = self.adapter()
        if "strength_choice" in values:
            values["pilot_classifier"] = str(self.train(self.folder / slug(REAL) / "trained"))
        if arm.with_bank:
            values["background_dataset_name"] = self.landscapes()
        return settings_from(AugmentSettings, **values)

    def generate(self, name: str, arm: Arm) -> Path:
        """Makes an arm's synthetic images, unless they are there; returns their repository."""
        output = self.folder / slug(name)
        if arm.with_residual and (output / DONE).exists():
            return output / "repo"
        augment.main(self.generation(name, arm))
        if arm.with_residual:
            give_back(output)
        return output / "repo"

    def split(self, name: str) -> Split:
        """A whole split of the images."""
        data = settings_from(
            ClassifierSettings,
            dataset_name=str(self.images),
            dataset_split=name,
            output_dir="unused",
        )
        return load_split(data, resolve(str(self.images), repo_type="dataset"))

    def accuracy(self, classifier: Path) -> float:
        """On the test images."""
        split = self.split("test")
        predicted = predicted_labels(classifier, (split.image(int(row)) for row in split.subset))
        return float((predicted == split.labels[split.subset]).mean())

    def measure(self, name: str) -> dict:
        """Test accuracy of an arm, and the seconds it took; `foreground_error` if it publishes its
        mixtures.
        """
        started, arm, synthetic = time.monotonic(), self.experiment.arms[name], {}
        if arm.generation is not None:
            synthetic = {
                "synthetic": str(self.generate(name, arm)),
                "synthetic_probability": DOWNSTREAM["synthetic_probability"],
            }
        classifier = self.train(self.folder / slug(name) / "trained", **synthetic)
        accuracy = self.accuracy(classifier)
        made = {"accuracy": accuracy, "seconds": time.monotonic() - started}
        if (arm.generation or {}).get("publish_mixed"):
            made["foreground_error"] = foreground_error(self.folder / slug(name) / "repo")
        return made
