"""Grad-CAM on a ResNet-50 at 224 x 224: images per second, against stock pytorch-grad-cam.

Also checks that the maps agree.

    python benchmarks/cam.py

Random weights: they do not change the speed. The two take turns in one run; the ratio is the median
over the turns.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from transformers import (
    AutoModelForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessor,
)

from sgdmix_hub.files import write_json
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.method.saliency.cam import CamSaliency
from sgdmix_hub.method.saliency.model_free import MAP_SIZE
from sgdmix_hub.models.classifier import Classifier

SIZE = 224


class Logits(torch.nn.Module):
    """What pytorch-grad-cam's documentation wraps transformers models in."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values).logits


def stock_cam(folder: Path, layer: str) -> GradCAM:
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    return GradCAM(Logits(model), [dict(model.named_modules())[layer]])


def gradient_megabytes(model: torch.nn.Module) -> float:
    """What is left in the parameters' `.grad`."""
    return (
        sum(
            p.grad.numel() * p.grad.element_size() for p in model.parameters() if p.grad is not None
        )
        / 1e6
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/cam.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        ResNetForImageClassification(ResNetConfig(num_labels=1000)).save_pretrained(folder)
        ViTImageProcessor(size={"height": SIZE, "width": SIZE}).save_pretrained(folder)
        ours = CamSaliency(Classifier(resolve(folder), torch.device("cpu")), "grad-cam")
        stock = stock_cam(Path(folder), ours.layer_name)
    images = torch.randn(arguments.batch_size, 3, SIZE, SIZE)
    labels = list(range(arguments.batch_size))
    seconds: dict[str, list[float]] = {"ours": [], "stock": []}
    for _ in range(arguments.turns):
        started = time.perf_counter()
        maps = ours.maps(images, labels)
        seconds["ours"].append(time.perf_counter() - started)
        started = time.perf_counter()
        stock_maps = stock(images, [ClassifierOutputTarget(label) for label in labels])
        seconds["stock"].append(time.perf_counter() - started)
    same_size = np.stack(
        [cv2.resize(m, (MAP_SIZE, MAP_SIZE), interpolation=cv2.INTER_AREA) for m in stock_maps]
    )
    figures = {
        "model": (
            f"ResNet-50, random weights, {SIZE} x {SIZE}, batches of {arguments.batch_size}, one "
            "thread"
        ),
        "turns": arguments.turns,
        "images_per_second": {
            name: round(arguments.batch_size / float(np.median(values)), 2)
            for name, values in seconds.items()
        },
        "ratio": round(float(np.median(np.divide(seconds["stock"], seconds["ours"]))), 2),
        "largest_difference": float(np.abs(maps - same_size).max()),
        "gradients_left_megabytes": {
            "ours": gradient_megabytes(ours.classifier.model),
            "stock": gradient_megabytes(stock.model),
        },
    }
    write_json(arguments.results, figures)
    print(arguments.results.read_text())


if __name__ == "__main__":
    main()
