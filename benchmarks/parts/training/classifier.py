"""Loops of a classifier as the recipe of CUB has it: its training, and what a judge does with it.

Weights and images are random and lie on the device: decoding is not in the loops.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import ResNetConfig, ResNetForImageClassification

from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.classifier import Judge, save_classifier
from sgdmix_hub.models.preprocessing import Preprocessing
from sgdmix_hub.training.precision import PRECISIONS


@dataclass(frozen=True)
class Task:
    """A network, the side of its inputs, and the images of a step."""

    network: ResNetConfig
    size: int
    batch: int
    precision: str


CUB = Task(ResNetConfig(num_labels=200), 448, 64, "bf16")  # ResNet-50


def network_of(task: Task) -> ResNetForImageClassification:
    torch.manual_seed(0)
    return ResNetForImageClassification(task.network)


def training_steps(
    model: ResNetForImageClassification, task: Task, compiled: bool = False
) -> Iterator[None]:
    """Endless optimizer steps: forward in the recipe's precision, cross-entropy, backward, SGD."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).train()
    if compiled:
        model.compile()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    images = torch.randn(task.batch, 3, task.size, task.size, device=device)
    labels = torch.randint(task.network.num_labels, (task.batch,), device=device)
    dtype = PRECISIONS[task.precision]
    while True:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = model(pixel_values=images, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield


def judging_steps(task: Task, folder: Path, compiled: bool = False) -> Iterator[None]:
    """A judge's logits of a batch, endlessly: float32, as `sgdmix evaluate` computes."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    half = (0.5, 0.5, 0.5)
    preprocessing = Preprocessing(task.size, task.size, "bilinear", half, half, "rgb")
    save_classifier(network_of(task), preprocessing, folder)
    names = task.network.id2label
    judge = Judge(resolve(str(folder)), [names[label] for label in sorted(names)], device)
    if compiled:
        judge.model.compile()
    images = torch.randn(task.batch, 3, task.size, task.size, device=device)
    while True:
        judge.logits(images)
        yield
