"""A classifier's training images: real and synthetic ones, mixed by mixup or cutmix."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import one_hot
from torchvision.transforms import v2

from sgdmix_hub.data.splits import Split
from sgdmix_hub.publishing.read import PublishedRows
from sgdmix_hub.seeds import RandomStream, generator, seed_of
from sgdmix_hub.settings.training import ClassifierSettings

# `synthetic_weighting` -> weights of the classes, float64 (k,), from their real images, int64 (k,).
CLASS_WEIGHTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "class-balanced": lambda real: np.ones(len(real)),
    "inverse-frequency": lambda real: 1 / (real + 1),  # Diff-Mix's --use_weighted_syn
}


class TrainingImages(torch.utils.data.Dataset):
    """Real images of a subset, and the synthetic images made from them.

    Positions are those of an epoch, which shows every image in a new order. It consists of whole
    total batches: the first images of the order are shown again to fill the last one. With
    `probability`, a real image is replaced by one of its synthetic images: epochs have the length
    of the real subset, so runs with and without synthetic images make the same number of updates.
    With another `weighting` than "source", the replacement is of any class, drawn by
    `CLASS_WEIGHTS`. With `added`, an epoch also shows all synthetic images. With `balanced`, every
    epoch draws the same number of images anew, all classes equally often.

    Draws are functions of (seed, epoch, position), and for mixing, of a total batch's first
    position. They depend neither on the worker or the process, nor on where a training was resumed.

    Items: `pixel_values`, the transformed image; `labels`, the class, or float32 (classes,) if
    `gamma`, `mixup_alpha` or `cutmix_alpha` is set; `sample`, the seed of what the network draws
    for it. A synthetic image has its published label, or `soft_label` with `gamma`.
    """

    def __init__(
        self,
        split: Split,
        rows: np.ndarray,
        transform: Callable[[Image.Image], torch.Tensor],
        synthetic: PublishedRows | None,
        probability: float,
        seed: int,
        *,
        total_batch: int,
        weighting: str = "source",
        added: bool = False,
        balanced: bool = False,
        gamma: float | None = None,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
    ):
        self.split, self.rows, self.transform = split, rows, transform
        self.synthetic, self.probability, self.gamma = synthetic, probability, gamma
        self.added: list[int] = []
        if added:
            self.added = self._made_from_all()
        self.by_class: list[np.ndarray] = []
        if weighting != "source":
            positions = np.array(self._made_from_all(), dtype=np.int64)
            labels = self._made.labels[positions]
            classes = np.unique(labels)
            self.by_class = [positions[labels == label] for label in classes]
            real = np.bincount(split.labels[rows], minlength=len(split.class_names))[classes]
            self.class_weights = torch.from_numpy(CLASS_WEIGHTS[weighting](real))
        self.balanced = balanced
        self.mixup_alpha, self.cutmix_alpha = mixup_alpha, cutmix_alpha
        self.seed, self.total_batch = seed, total_batch
        self._order_of, self._order = -1, np.arange(0)
        # set before each epoch; not by a `set_epoch`, which only some of accelerate's loaders call
        self.epoch = 0

    def __len__(self) -> int:
        """The positions of an epoch, a multiple of the total batch."""
        return -(-self.num_images // self.total_batch) * self.total_batch

    @property
    def num_images(self) -> int:
        """Real images and added ones."""
        return len(self.rows) + len(self.added)

    def __getitem__(self, index: int) -> dict:
        seed = self._seed_of(index, RandomStream.SAMPLE)
        with seeded(seed):
            return self._shown(self.entry(index)) | {"sample": seed}

    def __getitems__(self, positions: list[int]) -> list[dict]:
        """The items of a batch, consecutive ones of one total batch: the method that torch's
        loaders prefer.

        Each is mixed with the one before it in the total batch, which another process may have.
        """
        if not self._mixes:
            return [self[position] for position in positions]
        first = positions[0] // self.total_batch * self.total_batch
        before = first + (positions[0] - first - 1) % self.total_batch
        items = [self[position] for position in (before, *positions)]
        pixels, labels = (
            torch.stack([item[name] for item in items]) for name in ("pixel_values", "labels")
        )
        with seeded(self._seed_of(first, RandomStream.BATCH)):
            mixed = mix_batch(pixels, labels, self.mixup_alpha, self.cutmix_alpha)
        return [
            item | {"pixel_values": image, "labels": label}
            for item, image, label in zip(items, *mixed, strict=True)
        ][1:]

    def _shown(self, entry: int) -> dict:
        """The item of an image, counted over the real and then the added ones, without mixing."""
        if entry >= len(self.rows):
            return self._synthetic_item(self.added[entry - len(self.rows)])
        row = int(self.rows[entry])
        replacement = self._replacement(row)
        if replacement is not None:
            return self._synthetic_item(replacement)
        return self._item(self.split.image(row), self._hard_label(int(self.split.labels[row])))

    @property
    def _made(self) -> PublishedRows:
        """The synthetic images, where there must be some."""
        assert self.synthetic is not None
        return self.synthetic

    def _made_from_all(self) -> list[int]:
        """The synthetic images of all training rows: none of an image that is held out."""
        return [position for row in self.rows for position in self._made.made_from(row)]

    @property
    def _mixes(self) -> bool:
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0

    def _seed_of(self, position: int, stream: RandomStream) -> int:
        return seed_of(stream, self.seed, self.epoch * len(self) + position)

    def entry(self, position: int) -> int:
        """The image at a position of the epoch, counted over the real and then the added ones."""
        if self._order_of != self.epoch:
            order = generator(RandomStream.ORDER, self.seed, self.epoch).permutation(
                self.num_images
            )
            self._order = self._balanced()[order] if self.balanced else order
            self._order_of = self.epoch
        return int(self._order[position % self.num_images])

    def _balanced(self) -> np.ndarray:
        """The images of a balanced epoch, class by class."""
        rng = generator(RandomStream.BALANCE, self.seed, self.epoch)
        added = self._made.labels[self.added] if self.added else []
        labels = np.concatenate([self.split.labels[self.rows], added]).astype(np.int64)
        return balanced_draw(labels, rng)

    def _replacement(self, row: int) -> int | None:
        """The published row to show in place of a real row; None to show the real one."""
        if not torch.rand(()) < self.probability:
            return None
        if self.by_class:
            of_class = self.by_class[int(torch.multinomial(self.class_weights, 1))]
            return int(of_class[int(torch.randint(len(of_class), ()))])
        made = self._made.made_from(row)
        return made[int(torch.randint(len(made), ()))] if made else None

    def _item(self, image: Image.Image, label: int | torch.Tensor) -> dict:
        return {"pixel_values": self.transform(image), "labels": label}

    def _synthetic_item(self, position: int) -> dict:
        """The item of a published row."""
        made = self._made
        label = int(made.labels[position])
        if self.gamma is None:
            return self._item(made.image_like_source(position), self._hard_label(label))
        source = int(self.split.labels[made.sources[position]])
        strength, classes = float(made.strengths[position]), len(self.split.class_names)
        soft = soft_label(source, label, strength, self.gamma, classes)
        return self._item(made.image_like_source(position), soft)

    def _hard_label(self, label: int) -> int | torch.Tensor:
        if self._mixes or self.gamma is not None:
            return one_hot(torch.tensor(label), len(self.split.class_names)).float()
        return label


def training_images(
    settings: ClassifierSettings,
    split: Split,
    rows: np.ndarray,
    synthetic: PublishedRows | None,
    transform: Callable[[Image.Image], torch.Tensor],
) -> TrainingImages:
    """Training images as the settings say: `rows` of the split, and `synthetic` ones from them."""
    added = synthetic is not None and settings.synthetic_mode == "add"
    return TrainingImages(
        split,
        rows,
        transform,
        synthetic,
        0.0 if synthetic is None or added else settings.synthetic_probability,
        settings.seed,
        total_batch=settings.total_batch_size,
        weighting="source" if synthetic is None else settings.synthetic_weighting,
        added=added,
        balanced=settings.sampling == "balanced",
        gamma=settings.synthetic_gamma if synthetic else None,
        mixup_alpha=settings.mixup_alpha,
        cutmix_alpha=settings.cutmix_alpha,
    )


@contextmanager
def seeded(seed: int):
    """Seeds torch's CPU generator, and restores its state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def balanced_draw(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The n images of a balanced epoch, class by class, from images with `labels`: both int64 (n,).

    Counts differ by at most one between classes, and between the images of a class.
    """
    classes = np.unique(labels)
    quotas = np.full(len(classes), len(labels) // len(classes))
    quotas[rng.permutation(len(classes))[: len(labels) % len(classes)]] += 1
    drawn = []
    for label, quota in zip(classes, quotas, strict=True):
        images = np.flatnonzero(labels == label)
        rounds = [rng.permutation(images) for _ in range(-(-quota // len(images)))]
        drawn.append(np.concatenate(rounds)[:quota])
    return np.concatenate(drawn)


def soft_label(
    source: int, shown: int, strength: float, gamma: float, classes: int
) -> torch.Tensor:
    """Diff-Mix's label (CVPR 2024), float32 (classes,), of an image refined at strength S.

    1 - S^gamma of the source's class, and S^gamma of the class that the prompt named.
    """
    share = strength**gamma
    label = torch.zeros(classes)
    label[source] += 1 - share
    label[shown] += share
    return label


def mix_batch(
    pixels: torch.Tensor, labels: torch.Tensor, mixup_alpha: float, cutmix_alpha: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mixes images, float32 (B, c, h, w), and labels, float32 (B, classes), with the previous ones.

    By mixup (ICLR 2018) or cutmix (ICCV 2019), whichever alpha is above 0; if both are, one of the
    two is chosen with equal chance, as in timm.
    """
    is_cutmix = cutmix_alpha > 0 and (mixup_alpha == 0 or bool(torch.rand(()) < 0.5))
    mixing = v2.CutMix(alpha=cutmix_alpha) if is_cutmix else v2.MixUp(alpha=mixup_alpha)
    return mixing(pixels, labels)
