"""What a classifier is trained on: real images, synthetic ones in their place or beside them, mixed
with each other.
"""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import torch
from torch.nn.functional import one_hot
from torchvision.transforms import v2

from sgdmix_hub.data.splits import Split
from sgdmix_hub.publishing.read import PublishedRows
from sgdmix_hub.seeds import RandomStream, generator, seed_of
from sgdmix_hub.settings.training import ClassifierSettings


class TrainingImages(torch.utils.data.Dataset):
    """Real images of a subset; with a probability, an image is replaced by one of the synthetic
    images made from it, or (`added`) an epoch shows all of them beside the real ones.

    Unless they are added every epoch is as long as the real subset, so runs with and without
    synthetic images make the same number of updates. What is drawn for an image is a function of
    (seed, epoch, position), and how a batch is mixed one of (seed, epoch, position of its first
    image): neither depends on who loads it, nor on where a training was resumed. Where they are
    `balanced`, the images of an epoch, as many as without it, are drawn anew for each: every class
    equally often.

    Items: `pixel_values`, what `transform` makes of the image; `labels`, the class, or float32
    (classes,) where `gamma`, `mixup_alpha` or `cutmix_alpha` is on. A synthetic image has the label
    of its published row, with `gamma` `soft_label`.
    """

    def __init__(
        self,
        split: Split,
        rows: np.ndarray,
        transform,
        synthetic: PublishedRows | None,
        probability: float,
        seed: int,
        *,
        added: bool = False,
        balanced: bool = False,
        gamma: float | None = None,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
    ):
        self.split, self.rows, self.transform = split, rows, transform
        self.synthetic, self.probability, self.gamma = synthetic, probability, gamma
        self.added = (
            [position for row in rows for position in synthetic.made_from(row)] if added else []
        )
        self.balanced = balanced
        self.mixup_alpha, self.cutmix_alpha = mixup_alpha, cutmix_alpha
        self.seed = seed
        self._drawn_for, self._drawn = -1, np.arange(0)
        self.epoch = 0  # to be set before an epoch; not a `set_epoch`, which accelerate calls in some of its loaders and in others not

    def __len__(self) -> int:
        return len(self.rows) + len(self.added)

    def __getitem__(self, position: int) -> dict:
        with seeded(self._seed_of(position, RandomStream.SAMPLE)):
            entry = self._entry(position)
            if entry < len(self.rows):
                row = int(self.rows[entry])
                shown = self._replacement(row)
            else:
                row, shown = None, self.added[entry - len(self.rows)]
            image = self.split.image(row) if shown is None else self.synthetic.image(shown)
            return {"pixel_values": self.transform(image), "labels": self._label(row, shown)}

    def __getitems__(self, positions: list[int]) -> list[dict]:
        """The items of a batch, which is how torch's loaders ask for them."""
        items = [self[position] for position in positions]
        if not self._mixes:
            return items
        pixels, labels = (
            torch.stack([item[name] for item in items]) for name in ("pixel_values", "labels")
        )
        with seeded(self._seed_of(positions[0], RandomStream.BATCH)):
            mixed = mix_batch(pixels, labels, self.mixup_alpha, self.cutmix_alpha)
        return [
            {"pixel_values": image, "labels": label} for image, label in zip(*mixed, strict=True)
        ]

    @property
    def _mixes(self) -> bool:
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0

    def _seed_of(self, position: int, stream: RandomStream) -> int:
        return seed_of(stream, self.seed, self.epoch * len(self) + position)

    def _entry(self, position: int) -> int:
        """Which of the images a position of the epoch shows: the real ones, then those that were
        added.
        """
        if not self.balanced:
            return position
        if self._drawn_for != self.epoch:
            rng = generator(RandomStream.BALANCE, self.seed, self.epoch)
            added = [] if self.synthetic is None else self.synthetic.labels[self.added]
            self._drawn = balanced_draw(
                np.concatenate([self.split.labels[self.rows], added]).astype(np.int64), rng
            )
            self._drawn_for = self.epoch
        return int(self._drawn[position])

    def _replacement(self, row: int) -> int | None:
        """The published row that is shown in place of a real one; None to show the real one."""
        if not torch.rand(()) < self.probability:
            return None
        made = self.synthetic.made_from(row)
        return made[int(torch.randint(len(made), ()))] if made else None

    def _label(self, row: int | None, shown: int | None) -> int | torch.Tensor:
        label = int(self.split.labels[row] if shown is None else self.synthetic.labels[shown])
        classes = len(self.split.class_names)
        if shown is not None and self.gamma is not None:
            source = int(self.split.labels[self.synthetic.sources[shown]])
            return soft_label(
                source, label, float(self.synthetic.strengths[shown]), self.gamma, classes
            )
        if self._mixes or self.gamma is not None:
            return one_hot(torch.tensor(label), classes).float()
        return label


def training_images(
    settings: ClassifierSettings,
    split: Split,
    rows: np.ndarray,
    synthetic: PublishedRows | None,
    transform,
) -> TrainingImages:
    """The images that the settings name: these rows of the split, and the synthetic ones made from
    them.
    """
    added = synthetic is not None and settings.synthetic_mode == "add"
    return TrainingImages(
        split,
        rows,
        transform,
        synthetic,
        0.0 if synthetic is None or added else settings.synthetic_probability,
        settings.seed,
        added=added,
        balanced=settings.sampling == "balanced",
        gamma=settings.synthetic_gamma if synthetic else None,
        mixup_alpha=settings.mixup_alpha,
        cutmix_alpha=settings.cutmix_alpha,
    )


@contextmanager
def seeded(seed: int):
    """torch's random numbers on the CPU start at `seed`, and go on after it as if nothing had been
    drawn.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def balanced_draw(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """int64 (n,): which of the images with these labels, int64 (n,), an epoch of n shows, class by
    class: all classes equally often to within one, and within a class all images equally often to
    within one.
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
    """float32 (classes,): (1 - S^gamma) of the source's class and S^gamma of the class that the
    image was refined towards, at strength S. Diff-Mix (CVPR 2024).
    """
    share = strength**gamma
    label = torch.zeros(classes)
    label[source] += 1 - share
    label[shown] += share
    return label


def mix_batch(
    pixels: torch.Tensor, labels: torch.Tensor, mixup_alpha: float, cutmix_alpha: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images float32 (B, c, h, w) and labels float32 (B, classes), each mixed with the one before
    it: by mixup (ICLR 2018) or cutmix (ICCV 2019), whose alpha is above 0; where both are, by one
    of the two with equal chance, as in timm.
    """
    is_cutmix = cutmix_alpha > 0 and (mixup_alpha == 0 or bool(torch.rand(()) < 0.5))
    mixing = v2.CutMix(alpha=cutmix_alpha) if is_cutmix else v2.MixUp(alpha=mixup_alpha)
    return mixing(pixels, labels)
