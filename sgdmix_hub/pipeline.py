"""SGDMixPipeline: the stages in order, for the rows of one batch: masks -> union -> mixture -> refinement."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from .config import AugmentSettings
from .data import square
from .masks import foreground_mask
from .mixing import compose, mix
from .refine import Refiner, to_uint8, unusable_reason


class UnusableRow(Exception):
    """A row that cannot be made; its text is the reason that is recorded."""


@dataclass(frozen=True)
class MaskedImage:
    """One image at the resolution of the run with its foreground mask: uint8 (size, size, 3) and bool (size, size)."""

    pixels: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class Mixture:
    """What mixing one row gives: `mixed` uint8 (size, size, 3), `kept` bool (size, size), which is what came from the source."""

    source: MaskedImage
    target: MaskedImage
    mixed: np.ndarray
    kept: np.ndarray

    @property
    def foreground_area(self) -> float:
        """Share of the pixels that were kept from the source."""
        return float(self.kept.mean())


class SGDMixPipeline:
    """SGD-Mix on images and their saliency maps. Without a refiner (strength 0) it mixes alone."""

    def __init__(self, settings: AugmentSettings, refiner: Refiner | None):
        """`settings` with its preset applied; `refiner` None exactly when the strength is 0."""
        self.settings = settings
        self.refiner = refiner

    def mask(self, image: Image.Image, saliency_map: np.ndarray) -> MaskedImage:
        """An RGB image of any size and its (64, 64) saliency map -> the image at the run's resolution with its mask."""
        pixels = np.asarray(square(image, self.settings.resolution, self.settings.resize))
        return MaskedImage(pixels, foreground_mask(pixels, saliency_map, self.settings.mask_refinement))

    def mix(self, source: MaskedImage, target: MaskedImage) -> Mixture:
        """Mixes two images. Raises `UnusableRow` when the source has no foreground."""
        if not source.mask.any():
            raise UnusableRow("empty mask: the saliency map has no foreground")
        method, feather = self.settings.mixing_method, self.settings.feather
        mixed, kept = mix(source.pixels, target.pixels, source.mask, target.mask, method, feather)
        return Mixture(source, target, mixed, kept)

    def refine(self, mixtures: list[Mixture], labels: list[int], seeds: list[int]) -> list[np.ndarray | str]:
        """For each mixture (at most a batch) the finished image, uint8 (size, size, 3), or the reason why it is unusable."""
        if self.refiner is None:
            return [mixture.mixed for mixture in mixtures]
        mixed = np.stack([mixture.mixed for mixture in mixtures])
        foregrounds = np.stack([mixture.source.mask for mixture in mixtures])
        images, flagged = self.refiner.refine(mixed, foregrounds, labels, seeds)
        finished: list[np.ndarray | str] = []
        for mixture, image, flag in zip(mixtures, images, flagged, strict=True):
            reason = unusable_reason(image, flag)
            finished.append(reason if reason is not None else self._finish(mixture, to_uint8(image)))
        return finished

    def _finish(self, mixture: Mixture, refined: np.ndarray) -> np.ndarray:
        if not self.settings.paste_foreground:
            return refined
        return compose(mixture.source.pixels, refined, mixture.source.mask, self.settings.feather)
