"""A segmentation model, or a detector with one, as what makes masks: RGB images -> foregrounds."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from PIL import Image

from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.pins import Pin

from .boxes import BOX_FAMILIES, DETECTOR_FAMILIES, Detector, Sam2, column_boxes
from .classes import INSTANCE_FAMILIES, MAP_FAMILIES, ClassInstances, ClassMaps
from .frames import Box, Framed, framed, pixel_values
from .instances import Instances, Segmentation, foreground_of
from .loading import Loaded, load
from .words import WORD_FAMILIES, ClipSeg, Sam3

BATCH = 4  # images at once, always: last bits depend on it
FAMILIES = BOX_FAMILIES | INSTANCE_FAMILIES | MAP_FAMILIES | WORD_FAMILIES
Finder = Sam3 | ClipSeg | ClassInstances | ClassMaps


class Segmenter:
    """A pinned segmentation model with what it is asked for.

    Which foreground an image gets depends on the image, its box and the settings alone: batches
    have one size, padded with the last image.
    """

    def __init__(
        self,
        pin: Pin,
        detector: Pin | None,
        words: tuple[str, ...],
        instances: str,
        resize: str,
        device: torch.device,
    ):
        """`words`: what to look for; none for SAM 2 on boxes. `instances`: union, largest or
        nearest-box. Raises `UserError` when a model cannot be read, or cannot be asked like this.
        """
        self.words, self.instances, self.resize, self.device = words, instances, resize, device
        self.model = load(pin, FAMILIES, "segmenter")
        self.takes_boxes = self.model.family in BOX_FAMILIES
        if detector is not None and not self.takes_boxes:
            raise UserError(
                f"the {self.model.called} does not take boxes: leave --detector out, "
                "or give a SAM 2 model as --segmenter"
            )
        if not words and (detector is not None or not self.takes_boxes):
            raise UserError(
                f"the {self.model.called} needs words to look for: give --segmenter_prompt"
            )
        self.detector_model = None if detector is None else load_detector(detector)
        self.detector = (
            None if self.detector_model is None else Detector(self.detector_model, words, device)
        )
        families = FAMILIES if self.detector_model is None else DETECTOR_FAMILIES
        self.found_from = families[(self.detector_model or self.model).family].found_from
        self.sam = Sam2(self.model, device) if self.takes_boxes else None
        self.finder = None if self.takes_boxes else _finder(self.model, words, device)

    batch_size = BATCH

    @property
    def sought(self) -> str:
        """What it looks for, as reasons name it."""
        return " or ".join(self.words) or "object"

    @property
    def needs_boxes(self) -> bool:
        """Whether every image has to come with a box."""
        return self.takes_boxes and self.detector is None

    def segment(
        self, images: Sequence[Image.Image], boxes: Sequence[Box | None] | None = None
    ) -> list[Segmentation]:
        """The foreground of each RGB image of any size; `boxes` (left, top, right, bottom) are in
        the images' pixels. One that shows nothing of what was asked for has confidence 0 and an
        empty mask.
        """
        boxes = [None] * len(images) if boxes is None else boxes
        found: list[Segmentation] = []
        for start in range(0, len(images), BATCH):
            batch = list(images[start : start + BATCH])
            given = list(boxes[start : start + BATCH])
            padding = BATCH - len(batch)
            segmented = self._batch(batch + batch[-1:] * padding, given + given[-1:] * padding)
            found += segmented[: len(batch)]
        return found

    def _batch(self, images: list[Image.Image], boxes: list[Box | None]) -> list[Segmentation]:
        shown = self._framed(self.model, images, boxes)
        with torch.inference_mode(), self._half_precision():
            values = pixel_values(shown, self.model.input, self.device)
            if self.finder is not None:
                found = self.finder.find(values, shown)
            else:
                found = self._boxed(values, shown, images, boxes)
            return [
                foreground_of(_scored(instances), image, self.instances, self.found_from)
                for instances, image in zip(found, shown, strict=True)
            ]

    def _boxed(
        self,
        values: torch.Tensor,
        shown: list[Framed],
        images: list[Image.Image],
        boxes: list[Box | None],
    ) -> list[Instances]:
        assert self.sam is not None
        if self.detector is None or self.detector_model is None:
            return self.sam.find(values, *column_boxes(shown, self.device))
        seen = self._framed(self.detector_model, images, boxes)
        detected, scores = self.detector.boxes(
            pixel_values(seen, self.detector_model.input, self.device), seen
        )
        side = self.model.input.side
        frames = torch.tensor(
            [
                [side * there.width / here.width, side * there.height / here.height] * 2
                for there, here in zip(shown, seen, strict=True)
            ],
            device=self.device,
        )
        corners = (detected * frames[:, None]).clamp(0, side)
        return self.sam.find(values, corners, scores)

    def _framed(
        self, model: Loaded, images: list[Image.Image], boxes: list[Box | None]
    ) -> list[Framed]:
        return [
            framed(image, box, self.resize, model.input)
            for image, box in zip(images, boxes, strict=True)
        ]

    def _half_precision(self) -> AbstractContextManager:
        """bfloat16 on a GPU, whose range no activation leaves; a CPU keeps float32."""
        if self.device.type == "cpu":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def load_detector(pin: Pin) -> Loaded:
    """The detector of a pin. Raises `UserError`."""
    return load(pin, DETECTOR_FAMILIES, "detector")


def _finder(model: Loaded, words: tuple[str, ...], device: torch.device) -> Finder:
    if model.family in INSTANCE_FAMILIES:
        return ClassInstances(model, words, device)
    if model.family in MAP_FAMILIES:
        return ClassMaps(model, words, device)
    return (
        ClipSeg(model, words, device) if model.family == "clipseg" else Sam3(model, words, device)
    )


def _scored(found: Instances) -> Instances:
    """Without the instances that stand for none: their score is 0, or no number."""
    there = found.scores > 0
    return Instances(found.logits[there], found.scores[there])
