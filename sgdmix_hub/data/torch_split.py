"""Any map-style dataset of (image, label), such as torchvision's and timm's, as a `Split`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from datasets import Dataset
from PIL import Image

from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.pins import Pin

from .images import to_rgb
from .splits import Split

READ = 32  # images that identify a dataset
NO_TRANSFORM = "leave its transform out, and give it to MixedDataset as transform="


@dataclass(frozen=True, kw_only=True)
class TorchSplit(Split):
    """`dataset[row]` is a PIL image and its label, and whatever else the dataset gives."""

    dataset: Any

    def image(self, index: int, column: str | None = None) -> Image.Image:
        return to_rgb(read(self.dataset, int(index))[0])


def torch_split(dataset: Any) -> TorchSplit:
    """The dataset as a split without labels yet. Raises `UserError`.

    Its pin is a hash of its length and of some images and labels: it has no content hash of its
    own. So a dataset that changed in other images is taken for the same.
    """
    rows = np.arange(len(dataset))
    if not len(rows):
        raise UserError("the dataset is empty")
    digest = hashlib.sha256(str(len(rows)).encode())
    for row in np.unique(np.linspace(0, len(rows) - 1, READ).round().astype(int)).tolist():
        (first, label), (again, _) = read(dataset, row), read(dataset, row)
        if first.size != again.size or first.tobytes() != again.tobytes():
            raise UserError(
                f"the dataset's image {row} is another one when it is read again: {NO_TRANSFORM}"
            )
        digest.update(f"{first.mode} {first.size} {label}".encode() + first.tobytes())
    return TorchSplit(
        Pin("dataset", digest.hexdigest()[:32]),
        cast(Dataset, dataset),
        "image",
        np.full(len(rows), -1, np.int64),
        [],
        rows,
        dataset=dataset,
    )


def read(dataset: Any, row: int) -> tuple[Image.Image, int]:
    """An image and its label. Raises `UserError` if it is no PIL image."""
    item = dataset[row]
    if not isinstance(item, (tuple, list)) or len(item) < 2:
        raise UserError(f"the dataset gives {type(item).__name__}, not an image and its label")
    image, label = item[:2]
    if not isinstance(image, Image.Image):
        raise UserError(f"the dataset gives {type(image).__name__}, not PIL images: {NO_TRANSFORM}")
    return image, int(label)
