"""The judge of the tiny base: a small ResNet, trained on rendered birds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from parts.tiny_base.scenes import ATTRIBUTES, JUDGE_TRAIN, make_scenes
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from sgdmix_hub.demo.tiny_training import save_tensors, to_tensor

WIDTHS = (24, 48, 96)
PARTS, FEATURES = 8, 128
BATCH = 64
PEAK_LEARNING_RATE = 4e-3


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.first_norm, self.second_norm = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.shortcut = (
            nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            if inputs != outputs
            else nn.Identity()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.first_norm(self.first(x)))
        return F.relu(self.second_norm(self.second(y)) + self.shortcut(x))


class Judge(nn.Module):
    """Images in [-1, 1], (N, 3, 64, 64) -> features (N, 128) -> logits of every attribute.

    The last feature map, 8x8, is averaged under eight learned maps of attention instead of one even
    one: the parts of a bird are small.
    """

    def __init__(self):
        super().__init__()
        blocks = [
            Block(WIDTHS[max(i - 1, 0)], width, 1 if i == 0 else 2)
            for i, width in enumerate(WIDTHS)
        ]
        self.body = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, WIDTHS[0], 3, 1, 1), *blocks)
        self.attention = nn.Conv2d(WIDTHS[-1], PARTS, 1)
        self.embed = nn.Sequential(
            nn.Linear(PARTS * WIDTHS[-1], FEATURES), nn.BatchNorm1d(FEATURES), nn.ReLU()
        )
        self.heads = nn.ModuleDict(
            {name: nn.Linear(FEATURES, len(values)) for name, values in ATTRIBUTES.items()}
        )

    def features(self, images: torch.Tensor) -> torch.Tensor:
        found = self.body(images)
        attention = self.attention(found).flatten(2).softmax(2)
        return self.embed(torch.einsum("npk,nck->npc", attention, found.flatten(2)).flatten(1))

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        features = self.features(images)
        return [head(features) for head in self.heads.values()]

    @torch.no_grad()
    def look_at(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 (N, 64, 64, 3) -> features float64 (N, 128) and answers int64 (N, attributes)."""
        features = torch.cat(
            [
                self.features(to_tensor(images[start : start + 256]))
                for start in range(0, len(images), 256)
            ]
        )
        answers = torch.stack([head(features).argmax(1) for head in self.heads.values()], 1)
        return features.double().numpy(), answers.numpy()


def train_judge(num_images: int, epochs: int) -> Judge:
    """Cross-entropy over all attributes, on rendered birds and their mirror images."""
    scenes = make_scenes(JUDGE_TRAIN, num_images)
    labels = torch.from_numpy(scenes.labels)
    torch.manual_seed(0)
    judge = Judge().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=0.02)
    steps = epochs * (num_images // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LEARNING_RATE, total_steps=steps, pct_start=0.15
    )
    progress = tqdm(total=steps, desc="judge", disable=None, mininterval=5)
    for _ in range(epochs):
        for rows in torch.randperm(num_images).split(BATCH)[: num_images // BATCH]:
            images = to_tensor(scenes.images[rows.numpy()])
            images = torch.where(torch.rand(BATCH, 1, 1, 1) < 0.5, images.flip(3), images)
            with torch.autocast("cpu", torch.bfloat16):
                logits = judge(images)
            loss = sum(
                F.cross_entropy(attribute_logits.float(), labels[rows, i])
                for i, attribute_logits in enumerate(logits)
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            progress.update()
            progress.set_postfix(loss=f"{loss.item():.2f}", refresh=False)
    progress.close()
    return judge.eval()


def cached_judge(folder: Path, num_images: int, epochs: int) -> Judge:
    """The judge trained on so many images for so many epochs, from `folder` if it is there."""
    path = folder / f"judge_{num_images}_{epochs}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(train_judge(num_images, epochs).state_dict(), path)
    judge = Judge()
    judge.load_state_dict(load_file(path))
    return judge.eval().to(memory_format=torch.channels_last)
