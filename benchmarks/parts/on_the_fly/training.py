"""One classifier on drawn birds, from scratch, on any dataset of (PIL image, label)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from parts.method.arms import GENERATION, GOOD, make_domain, settings_from
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from transformers import AutoConfig, AutoModelForImageClassification

from sgdmix_hub import MixedDataset, augment
from sgdmix_hub.data.splits import Split, split_of
from sgdmix_hub.demo.backgrounds import BACKGROUNDS
from sgdmix_hub.demo.birds import render_scene
from sgdmix_hub.demo.domain import png
from sgdmix_hub.hub.pins import Pin
from sgdmix_hub.pipeline import SGDMixPipeline
from sgdmix_hub.publishing.read import load_published
from sgdmix_hub.seeds import sample_seed
from sgdmix_hub.settings.generation import AugmentSettings

SIZE, EPOCHS, BATCH, PROBABILITY = 64, 80, 16, 0.5
RATE, DECAY, SMOOTHING = 0.002, 0.05, 0.1  # as the recipe demo-birds
TIE, SPECIES = 0.95, 6
BANK = 200  # empty landscapes
KINDS = list(BACKGROUNDS)
LACKING = range(SPECIES, len(KINDS))  # landscapes that belong to no species: 1 in 50 images
REAL = "real images only"
PUBLISHED = "published S = 0, four variants"
FLY = "on the fly"
PUBLISHED_BANK = "published S = 0, backgrounds of the bank"
FLY_BANK = "on the fly, backgrounds of the bank"
TRAIN = v2.Compose(
    [v2.RandomResizedCrop(SIZE, scale=(0.6, 1), ratio=(1, 1)), v2.RandomHorizontalFlip()]
)
PIXELS = v2.Compose(
    [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)]
)


def landscapes(seed: int, kinds: list[int], count: int = BANK) -> Dataset:
    """Empty landscapes of these kinds in turn, as images without labels."""
    cells = []
    for number in range(count):
        kind = KINDS[kinds[number % len(kinds)]]
        rng = np.random.default_rng([seed, 99, number])
        cells.append(png(render_scene(kind, rng, SIZE)[0]))
    return Dataset.from_dict({"image": cells}, features=Features(image=ImageFeature()))


class WithSynthetic(torch.utils.data.Dataset):
    """The real rows, each replaced by one of its synthetic images with `PROBABILITY`."""

    def __init__(self, real: Split, repo: Path, seed: int):
        self.real, self.seed, self.epoch = real, seed, 0
        rows = load_published(str(repo)).dataset
        self.images = [row["image"].convert("RGB") for row in rows]
        self.made: dict[int, list[int]] = {}
        for place, source in enumerate(rows["source_index"]):
            self.made.setdefault(source, []).append(place)

    def __len__(self) -> int:
        return len(self.real.labels)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, row: int) -> dict:
        rng = np.random.default_rng([self.seed, self.epoch, row])
        made, label = self.made.get(row, []), int(self.real.labels[row])
        image = self.real.image(row)
        if made and rng.random() < PROBABILITY:
            image = self.images[made[rng.integers(len(made))]]
        return {"image": image, "label": label}


class Domain:
    """The birds of one seed, tied to their backgrounds in training, and the arms' datasets."""

    def __init__(self, folder: Path, seed: int):
        self.seed, self.folder = seed, folder / f"seed-{seed}"
        self.birds = folder / f"birds-{seed}"
        make_domain(self.birds, seed, TIE)
        self.train, self.test = (self._rows(name) for name in ("train", "test"))
        names = self.train.features["label"].names
        self.num_classes = len(names)
        pin = Pin("birds", "0")
        self.real = split_of(self.train, pin, "image", "label")
        self.unseen = split_of(self.test, pin, "image", "label")
        self.kinds = np.array(self.test["background"])

    def _rows(self, name: str) -> Dataset:
        files = str(self.birds / "data" / f"{name}-*.parquet")
        return Dataset.from_parquet(files)

    def bank(self, kinds: list[int]) -> Dataset:
        return landscapes(self.seed, kinds)

    def generated(self, bank: Dataset | None = None) -> Path:
        """A published generation at S = 0; its repository."""
        folder = self.folder / ("generated" if bank is None else "generated-bank")
        values = GENERATION | GOOD | {"dataset_name": str(self.birds), "output_dir": str(folder)}
        values |= {"seed": self.seed, "resolution": SIZE}
        if bank is not None:
            place = self.folder / "bank"
            if not place.exists():
                (place / "data").mkdir(parents=True)
                bank.to_parquet(place / "data" / "train-00000-of-00001.parquet")
            values["background_dataset_name"] = str(place)
        augment.main(settings_from(AugmentSettings, **values))
        return folder / "repo"

    def mixed(self, bank: Dataset | None = None, probability: float = PROBABILITY) -> MixedDataset:
        return MixedDataset(
            self.train,
            self.folder / "prepared",
            pipeline=SGDMixPipeline.from_pretrained(strength=0, resolution=SIZE),
            probability=probability,
            seed=self.seed,
            backgrounds=bank,
        )


ARMS: dict[str, Callable[[Domain], torch.utils.data.Dataset]] = {
    REAL: lambda domain: domain.mixed(probability=0.0),
    PUBLISHED: lambda domain: WithSynthetic(domain.real, domain.generated(), domain.seed),
    FLY: lambda domain: domain.mixed(),
    PUBLISHED_BANK: lambda domain: WithSynthetic(
        domain.real, domain.generated(domain.bank(list(range(len(KINDS))))), domain.seed
    ),
    FLY_BANK: lambda domain: domain.mixed(domain.bank(list(range(len(KINDS))))),
}


def accuracies(domain: Domain, arm: str) -> dict[str, float]:
    """Trains on an arm's images; accuracy on the untied test images, and on some of them."""
    model = train(domain, ARMS[arm](domain))
    images = [PIXELS(domain.unseen.image(row)) for row in range(len(domain.unseen.labels))]
    model.eval()
    with torch.no_grad():
        logits = torch.cat(
            [model(torch.stack(images[i : i + 100])).logits for i in range(0, len(images), 100)]
        )
    right = logits.argmax(1).numpy() == domain.unseen.labels
    rare = np.isin(domain.kinds, LACKING)
    return {"all": float(right.mean()), "rare landscapes": float(right[rare].mean())}


def train(domain: Domain, images: torch.utils.data.Dataset) -> torch.nn.Module:
    """One loop for all arms: they differ by their images alone."""
    torch.manual_seed(domain.seed)
    config = AutoConfig.from_pretrained(
        "sgdmix_hub/demo/tiny_resnet", num_labels=domain.num_classes
    )
    model = AutoModelForImageClassification.from_config(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    steps = EPOCHS * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for epoch in range(EPOCHS):
        images.set_epoch(epoch)
        generator = torch.Generator().manual_seed(sample_seed(domain.seed, epoch))
        loader = DataLoader(
            images, BATCH, shuffle=True, generator=generator, collate_fn=_collated, num_workers=0
        )
        for pixels, labels in loader:
            loss = cross_entropy(model(pixels).logits, labels, label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model


def _collated(rows: list[dict]) -> tuple[torch.Tensor, torch.Tensor]:
    pixels = torch.stack([PIXELS(TRAIN(row["image"])) for row in rows])
    return pixels, torch.tensor([row["label"] for row in rows])
