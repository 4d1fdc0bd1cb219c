"""A small segmentation network trained on a split's own pseudo masks, without any label.

Model-free masks are wrong in a different way in every image, and right in the same way: a network
that is too small to remember them learns what they share. Only images whose mask is trusted train
it; it is then applied to all.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

SIZE = 128  # input; the logits have half of that
WIDTHS = (24, 48, 64, 96)
LEAST_CONFIDENCE = 0.6  # of a mask that is trained on
LEAST_MASKS = 16  # below this there is nothing to learn from
BATCH_SIZE = 16
LEARNING_RATE = 2e-3
SMOOTHING = 0.05  # pseudo masks are never certain


class Block(nn.Module):
    """Two 3x3 convolutions with group norm."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.GroupNorm(8, outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.GroupNorm(8, outputs),
            nn.ReLU(),
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)


class Segmenter(nn.Module):
    """A U-Net of about half a million weights: float (n, 3, SIZE, SIZE) in [-1, 1] -> logits of the
    foreground (n, SIZE / 2, SIZE / 2). It also sees where in the image a pixel is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(5, WIDTHS[0], 3, stride=2, padding=1)
        sizes = (WIDTHS[0], *WIDTHS)
        self.down = nn.ModuleList(
            Block(inputs, outputs) for inputs, outputs in zip(sizes, WIDTHS, strict=False)
        )
        self.up = nn.ModuleList(
            Block(deep + shallow, shallow)
            for deep, shallow in zip(WIDTHS[:0:-1], WIDTHS[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(WIDTHS[0], 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        count, _, height, width = images.shape
        places = torch.stack(
            torch.meshgrid(
                torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
            )
        ).to(images)
        features = self.stem(torch.cat([images, places.expand(count, -1, -1, -1)], dim=1))
        skipped = []
        for level, block in enumerate(self.down):
            features = block(functional.max_pool2d(features, 2) if level else features)
            skipped.append(features)
        for block, skip in zip(self.up, skipped[-2::-1], strict=True):
            larger = functional.interpolate(features, skip.shape[-2:], mode="bilinear")
            features = block(torch.cat([larger, skip], dim=1))
        return self.head(features).squeeze(1)


def train_segmenter(
    images: np.ndarray, masks: np.ndarray, confidences: np.ndarray, seed: int, steps: int
) -> Segmenter | None:
    """A segmenter trained on the masks that are trusted, or None if they are too few.

    `images`: uint8 (n, SIZE, SIZE, 3); `masks`: bool (n, SIZE, SIZE); `confidences`: float (n,) in
    [0, 1], which also weight the loss. Deterministic, given the number of threads.
    """
    trusted = np.flatnonzero(confidences >= LEAST_CONFIDENCE)
    if len(trusted) < LEAST_MASKS:
        return None
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Segmenter()
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    batches = _batches(trusted, rng)
    for _ in range(steps):
        rows = next(batches)
        pixels, wanted = _augmented(images[rows], masks[rows], rng)
        weights = torch.from_numpy(confidences[rows].astype(np.float32))[:, None, None]
        wanted = wanted * (1 - 2 * SMOOTHING) + SMOOTHING
        loss = functional.binary_cross_entropy_with_logits(model(pixels), wanted, weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def predicted_shares(model: Segmenter, images: np.ndarray) -> np.ndarray:
    """The probability of foreground, float32 (n, SIZE, SIZE), of uint8 images (n, SIZE, SIZE, 3).

    The mean of the prediction for the image and for its mirror image.
    """
    shares = []
    for start in range(0, len(images), BATCH_SIZE):
        pixels = _as_input(images[start : start + BATCH_SIZE])
        logits = (model(pixels) + model(pixels.flip(-1)).flip(-1)) / 2
        larger = functional.interpolate(logits[:, None], (SIZE, SIZE), mode="bilinear")
        shares.append(torch.sigmoid(larger[:, 0]).numpy())
    return np.concatenate(shares)


def _batches(rows: np.ndarray, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Batches without end; every row once before any comes again."""
    queue = np.empty(0, int)
    while True:
        while len(queue) < BATCH_SIZE:
            queue = np.concatenate([queue, rng.permutation(rows)])
        yield queue[:BATCH_SIZE]
        queue = queue[BATCH_SIZE:]


def _augmented(
    images: np.ndarray, masks: np.ndarray, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Images and masks mirrored, cropped by up to a fifth and recoloured at random, as the network
    takes them and as it is compared.
    """
    pixels, wanted = _as_input(images), torch.from_numpy(masks.astype(np.float32))[:, None]
    joined = torch.cat([pixels, wanted], dim=1)
    for row in range(len(joined)):
        side = int(rng.integers(int(0.8 * SIZE), SIZE + 1))
        top, left = rng.integers(0, SIZE - side + 1, 2)
        part = joined[row : row + 1, :, top : top + side, left : left + side]
        joined[row] = functional.interpolate(part, (SIZE, SIZE), mode="bilinear")[0]
        if rng.random() < 0.5:
            joined[row] = joined[row].flip(-1)
    gains = torch.from_numpy(rng.uniform(0.7, 1.3, (len(joined), 3, 1, 1)).astype(np.float32))
    shifts = torch.from_numpy(rng.uniform(-0.2, 0.2, (len(joined), 3, 1, 1)).astype(np.float32))
    return joined[:, :3] * gains + shifts, functional.avg_pool2d(joined[:, 3:], 2)[:, 0]


def _as_input(images: np.ndarray) -> Tensor:
    """uint8 (n, h, w, 3) -> float32 (n, 3, h, w) in [-1, 1]."""
    return torch.from_numpy(images.astype(np.float32).transpose(0, 3, 1, 2)) / 127.5 - 1
