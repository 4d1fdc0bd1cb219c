"""Saliency sources: the name of a method -> a loaded source -> what it finds in images.

What a source needs, and which settings its maps depend on, is in `SALIENCY_SOURCES` of
settings/method.py: programs read that table without loading torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import cv2
import numpy as np
from PIL import Image

from sgdmix_hub.errors import Unusable, attempt
from sgdmix_hub.settings.method import CAM_METHODS, MethodSettings, apply_preset

from .cam import BATCH, CamSaliency
from .consensus import consensus_mask
from .model_free import (
    MAP_SIZE,
    is_blank,
    mask_column_map,
    minimum_barrier_map,
    spectral_residual_map,
)

if TYPE_CHECKING:
    from sgdmix_hub.models.classifier import Classifier


@dataclass(frozen=True)
class Found:
    """What a source finds in one image.

    `map`: float16 (64, 64) in [0, 1]; `mask`: bool (256, 256), the source's own finer mask, or None
    if it makes none; `confidence`: in [0, 1], or None if the source states none.
    """

    map: np.ndarray
    mask: np.ndarray | None = None
    confidence: float | None = None


class Source(Protocol):
    """A loaded saliency source. `batch_size`: how many images it looks at together."""

    batch_size: int

    def found(
        self,
        images: list[Image.Image],
        labels: list[int] | None,
        stored: list[Image.Image] | None,
    ) -> list[Found | Unusable]:
        """What the source finds in RGB images of any size, or why an image has no map.

        `labels`: the images' classes, for a source that needs a classifier. `stored`: the images'
        masks in the dataset, for a source that needs a column. Raises `ValueError` if they are
        missing.
        """
        ...


class ImageSource:
    """Maps of single images, without a model."""

    batch_size = 1

    def __init__(self, make_map: Callable[[Image.Image], np.ndarray]):
        self.make_map = make_map

    def found(
        self,
        images: list[Image.Image],
        labels: list[int] | None,
        stored: list[Image.Image] | None,
    ) -> list[Found | Unusable]:
        return [attempt(lambda image: usable(self.make_map(image)), image) for image in images]


class ConsensusSource:
    """The best of several model-free masks of single images, and its confidence."""

    batch_size = 1

    def __init__(self, resize: str):
        self.resize = resize

    def found(
        self,
        images: list[Image.Image],
        labels: list[int] | None,
        stored: list[Image.Image] | None,
    ) -> list[Found | Unusable]:
        return [attempt(self._found, image) for image in images]

    def _found(self, image: Image.Image) -> Found | Unusable:
        mask, confidence = consensus_mask(image, self.resize)
        cells = cv2.resize(
            mask.astype(np.float32), (MAP_SIZE, MAP_SIZE), interpolation=cv2.INTER_AREA
        )
        found = usable(cells)
        return (
            found
            if isinstance(found, Unusable)
            else replace(found, mask=mask, confidence=confidence)
        )


class ColumnSource:
    """The dataset's own masks as maps; a mask is cut from the stored one, at full resolution."""

    batch_size = 1

    def __init__(self, resize: str):
        self.resize = resize

    def found(
        self,
        images: list[Image.Image],
        labels: list[int] | None,
        stored: list[Image.Image] | None,
    ) -> list[Found | Unusable]:
        if stored is None:
            raise ValueError(
                "saliency_method mask-column reads a dataset's masks: "
                "give maps and masks to `mask` instead"
            )
        return [
            attempt(lambda mask: usable(mask_column_map(mask, self.resize)), mask)
            for mask in stored
        ]


class CamSource:
    """Class activation maps of a classifier for the images' true labels."""

    batch_size = BATCH

    def __init__(self, cam: CamSaliency, resize: str):
        self.cam = cam
        self.resize = resize

    def found(
        self,
        images: list[Image.Image],
        labels: list[int] | None,
        stored: list[Image.Image] | None,
    ) -> list[Found | Unusable]:
        if labels is None:
            raise ValueError("class activation maps need the labels of the images")
        return [usable(cam) for cam in self.cam.image_maps(images, labels, self.resize)]


def usable(saliency_map: np.ndarray) -> Found | Unusable:
    """A float (64, 64) map as it is stored, unless it separates nothing."""
    stored = saliency_map.astype(np.float16)
    return Unusable("blank saliency map") if is_blank(stored) else Found(stored)


def load_source(settings: MethodSettings, classifier: Classifier | None = None) -> Source:
    """The source that the settings name; `classifier`: for a source that needs one.

    Raises `KeyError` for an unknown method, and `UserError` if a CAM cannot read the classifier.
    """
    settings = apply_preset(settings)
    return LOADERS[settings.saliency_method](settings, classifier)


def load_cam(settings: MethodSettings, classifier: Classifier) -> CamSaliency:
    """The CAM that the settings name, on a classifier. Raises `UserError`."""
    return CamSaliency(
        classifier,
        settings.saliency_method,
        settings.saliency_layer,
        settings.saliency_input_size,
    )


def _cam_source(settings: MethodSettings, classifier: Classifier | None) -> CamSource:
    if classifier is None:
        raise ValueError(f"saliency_method {settings.saliency_method} needs a classifier")
    return CamSource(load_cam(settings, classifier), settings.resize)


# One row a method of `SALIENCY_SOURCES`: (settings, classifier or None) -> source.
LOADERS: dict[str, Callable[[MethodSettings, Classifier | None], Source]] = {
    **dict.fromkeys(CAM_METHODS, _cam_source),
    "consensus": lambda settings, _: ConsensusSource(settings.resize),
    "minimum-barrier": lambda settings, _: ImageSource(
        partial(minimum_barrier_map, resize=settings.resize)
    ),
    "spectral-residual": lambda settings, _: ImageSource(
        partial(spectral_residual_map, resize=settings.resize, sigma=settings.saliency_sigma)
    ),
    "mask-column": lambda settings, _: ColumnSource(settings.resize),
}
