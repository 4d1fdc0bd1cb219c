"""Saliency sources: the name of a method -> a loaded source -> what it finds in images.

What a source needs, and which settings its maps depend on, is in `SALIENCY_SOURCES` of
settings/saliency.py: programs read that table without loading torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol, Union, cast

import cv2
import numpy as np
from PIL import Image

from sgdmix_hub.errors import Unusable, attempt
from sgdmix_hub.settings.method import MethodSettings
from sgdmix_hub.settings.presets import saliency_method
from sgdmix_hub.settings.saliency import CAM_METHODS

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
    from sgdmix_hub.models.segmenters.segmenter import Segmenter

# The network that a source needs, loaded.
Network = Union["Classifier", "Segmenter", None]
# What a dataset's column holds for an image: its mask, or its box (left, top, right, bottom).
Stored = Image.Image | tuple[float, float, float, float]
Images = list[Image.Image]
Labels = list[int] | None
Cells = list[Stored] | None


@dataclass(frozen=True)
class Found:
    """What a source finds in one image.

    `map`: float16 (64, 64) in [0, 1]; `mask`: bool (256, 256), the source's own finer mask, or None
    if it makes none; `confidence`: in [0, 1], or None if the source states none.
    """

    map: np.ndarray
    mask: np.ndarray | None = None
    confidence: float | None = None


Outcomes = list[Found | Unusable]


class Source(Protocol):
    """A loaded saliency source. `batch_size`: how many images it looks at together."""

    batch_size: int

    def found(self, images: Images, labels: Labels, stored: Cells) -> Outcomes:
        """What the source finds in RGB images of any size, or why an image has no map.

        `labels`: the images' classes, for a source that needs a classifier. `stored`: the images'
        masks or boxes in the dataset, for a source that reads a column. Raises `ValueError` if
        they are missing.
        """
        ...


class ImageSource:
    """Maps of single images, without a model."""

    batch_size = 1

    def __init__(self, make_map: Callable[[Image.Image], np.ndarray]):
        self.make_map = make_map

    def found(self, images: Images, labels: Labels, stored: Cells) -> Outcomes:
        return [attempt(lambda image: usable(self.make_map(image)), image) for image in images]


class ConsensusSource:
    """The best of several model-free masks of single images, and its confidence."""

    batch_size = 1

    def __init__(self, resize: str):
        self.resize = resize

    def found(self, images: Images, labels: Labels, stored: Cells) -> Outcomes:
        return [attempt(self._found, image) for image in images]

    def _found(self, image: Image.Image) -> Found | Unusable:
        mask, confidence = consensus_mask(image, self.resize)
        cells = cv2.resize(
            mask.astype(np.float32), (MAP_SIZE, MAP_SIZE), interpolation=cv2.INTER_AREA
        )
        found = usable(cells)
        if isinstance(found, Unusable):
            return found
        return replace(found, mask=mask, confidence=confidence)


class ColumnSource:
    """The dataset's own masks as maps; a mask is cut from the stored one, at full resolution."""

    batch_size = 1

    def __init__(self, resize: str):
        self.resize = resize

    def found(self, images: Images, labels: Labels, stored: Cells) -> Outcomes:
        if stored is None:
            raise ValueError(
                "saliency_method mask-column reads a dataset's masks: "
                "give maps and masks to `mixer.mask` instead"
            )
        return [
            attempt(lambda mask: usable(mask_column_map(mask, self.resize)), mask)
            for mask in stored
            if isinstance(mask, Image.Image)
        ]


class CamSource:
    """Class activation maps of a classifier for the images' true labels."""

    batch_size = BATCH

    def __init__(self, cam: CamSaliency, resize: str):
        self.cam = cam
        self.resize = resize

    def found(self, images: Images, labels: Labels, stored: Cells) -> Outcomes:
        if labels is None:
            raise ValueError("class activation maps need the labels of the images")
        return [usable(cam) for cam in self.cam.image_maps(images, labels, self.resize)]


def usable(saliency_map: np.ndarray) -> Found | Unusable:
    """A float (64, 64) map as it is stored, unless it separates nothing."""
    stored = saliency_map.astype(np.float16)
    return Unusable("blank saliency map") if is_blank(stored) else Found(stored)


def load_source(settings: MethodSettings, network: Network = None) -> Source:
    """The source that the settings name; `network`: for a source that needs one.

    Raises `KeyError` for an unknown method, and `UserError` if a CAM cannot read the classifier or
    rembg is not installed.
    """
    return LOADERS[saliency_method(settings)](settings, network)


def load_cam(settings: MethodSettings, classifier: Classifier) -> CamSaliency:
    """The CAM that the settings name, on a classifier. Raises `UserError`."""
    method = saliency_method(settings)
    return CamSaliency(classifier, method, settings.saliency_layer, settings.saliency_input_size)


def _cam_source(settings: MethodSettings, network: Network) -> CamSource:
    if network is None:
        raise ValueError(f"saliency_method {settings.saliency_method} needs a classifier")
    return CamSource(load_cam(settings, cast("Classifier", network)), settings.resize)


def _segmentation_source(settings: MethodSettings, network: Network) -> Source:
    from .segmentation import SegmentationSource

    if network is None:
        raise ValueError("saliency_method segmentation needs a segmenter")
    return SegmentationSource(cast("Segmenter", network))


def _predicted_source(settings: MethodSettings, network: Network) -> Source:
    from .segmentation import PredictedColumnSource

    return PredictedColumnSource(settings.resize)


def _box_source(settings: MethodSettings, network: Network) -> Source:
    from .segmentation import BoxSource

    return BoxSource(settings.resize)


def _rembg_source(settings: MethodSettings, network: Network) -> Source:
    from .segmentation import MaskFunctionSource, rembg_function

    return MaskFunctionSource(rembg_function(settings.rembg_model), settings.resize)


def _no_function(settings: MethodSettings, network: Network) -> Source:
    raise ValueError("saliency_method function needs a mask_function")


# One row a method of `SALIENCY_SOURCES`: (settings, the network it needs or None) -> source.
LOADERS: dict[str, Callable[[MethodSettings, Network], Source]] = {
    **dict.fromkeys(CAM_METHODS, _cam_source),
    "consensus": lambda settings, _: ConsensusSource(settings.resize),
    "minimum-barrier": lambda settings, _: ImageSource(
        partial(minimum_barrier_map, resize=settings.resize)
    ),
    "spectral-residual": lambda settings, _: ImageSource(
        partial(spectral_residual_map, resize=settings.resize, sigma=settings.saliency_sigma)
    ),
    "mask-column": lambda settings, _: ColumnSource(settings.resize),
    "predicted-column": _predicted_source,
    "box-column": _box_source,
    "segmentation": _segmentation_source,
    "rembg": _rembg_source,
    "function": _no_function,
}
