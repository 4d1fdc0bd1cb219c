"""SGDMixPipeline: the stages in order, for the rows of one batch: masks -> mixture -> refinement."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from .config import AugmentSettings
from .data import aspect_box, square
from .masks import foreground_mask
from .mixing import compose, inpaint, inpainting_hole, kept_mask
from .refine import Refiner, to_uint8, unusable_reason


class UnusableRow(Exception):
    """A row that cannot be made; its text is the reason that is recorded."""


@dataclass(frozen=True)
class MaskedImage:
    """One image at the resolution of the run with its foreground mask: uint8 (size, size, 3) and bool (size, size); `aspect` is the
    width over the height that it was stored with."""

    pixels: np.ndarray
    mask: np.ndarray
    aspect: float


@dataclass(frozen=True)
class Mixture:
    """What mixing one row gives, bool and uint8 at (size, size): `kept` is what comes from the source, `hole` what was inpainted in the
    target, `background` the target with the hole filled, `mixed` the result.
    """

    source: MaskedImage
    target: MaskedImage
    kept: np.ndarray
    hole: np.ndarray
    background: np.ndarray
    mixed: np.ndarray

    @property
    def foreground_area(self) -> float:
        """Share of the pixels that were kept from the source."""
        return float(self.kept.mean())

    @property
    def shown(self) -> np.ndarray:
        """The pixels that show the target as it is, bool (size, size)."""
        return ~self.kept & ~self.hole


class SGDMixPipeline:
    """SGD-Mix on images and their saliency maps. Without a refiner (strength 0) it mixes alone."""

    def __init__(self, settings: AugmentSettings, refiner: Refiner | None):
        """`settings` with its preset applied; `refiner` None exactly when the strength is 0."""
        self.settings = settings
        self.refiner = refiner

    def mask(self, image: Image.Image, saliency_map: np.ndarray, aspect: float | None = None) -> MaskedImage:
        """An RGB image of any size and its (64, 64) saliency map -> the image at the run's resolution with its mask.

        With `aspect` (width over height) image and map are first cropped to it, in the middle: the target's geometry, so that stretching
        it with its source distorts both alike.
        """
        stored = image.width / image.height
        if aspect is not None:
            image, saliency_map = crop_to_aspect(image, saliency_map, aspect)
        pixels = np.asarray(square(image, self.settings.resolution, self.settings.resize))
        return MaskedImage(pixels, foreground_mask(pixels, saliency_map, self.settings), stored)

    def target_aspect(self, source: MaskedImage) -> float | None:
        """The aspect ratio that a source's target is cropped to; None where it is left whole."""
        crop = self.settings.crop_target and self.settings.resize == "stretch"  # center-crop has made every image square before
        return source.aspect if crop else None

    def mix(self, source: MaskedImage, target: MaskedImage) -> Mixture:
        """Mixes two images. Raises `UnusableRow` when the source has no foreground."""
        if not source.mask.any():
            raise UnusableRow("empty mask: the saliency map has no foreground")
        method = self.settings.mixing_method
        kept = kept_mask(source.mask, target.mask, method)
        hole, background = np.zeros_like(kept), target.pixels
        if method == "inpaint":
            hole = inpainting_hole(target.mask)
            background = inpaint(target.pixels, hole)
        return Mixture(source, target, kept, hole, background, compose(source.pixels, background, kept, self.settings.feather))

    def inpaint(self, mixtures: list[Mixture], seeds: list[int]) -> list[Mixture | str]:
        """The mixtures (at most a batch) with what `inpainting_method` puts into their targets' holes, or the reason why one is
        unusable."""
        if self.settings.inpainting_method == "opencv":
            return mixtures
        images, holes = (np.stack([getattr(mixture, name) for mixture in mixtures]) for name in ("background", "hole"))
        filled, flagged = self.refiner.inpaint(images, holes, seeds)
        return [self._with_hole_filled(*row) for row in zip(mixtures, filled, flagged, strict=True)]

    def _with_hole_filled(self, mixture: Mixture, filled: np.ndarray, flag: bool) -> Mixture | str:
        if not mixture.hole.any():
            return mixture
        reason = unusable_reason(filled, flag)
        if reason is not None:
            return f"inpainting: {reason}"
        feather = self.settings.feather
        background = compose(to_uint8(filled), mixture.background, mixture.hole, feather)
        return replace(mixture, background=background, mixed=compose(mixture.source.pixels, background, mixture.kept, feather))

    def refine(self, mixtures: list[Mixture], labels: list[int], seeds: list[int]) -> list[np.ndarray | str]:
        """For each mixture (at most a batch) the finished image, uint8 (size, size, 3), or the reason why it is unusable."""
        if self.refiner is None or not mixtures:
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


def crop_to_aspect(image: Image.Image, saliency_map: np.ndarray, aspect: float) -> tuple[Image.Image, np.ndarray]:
    """Image and map, which covers the whole image, cut by one box to `aspect` (width over height)."""
    left, top, right, bottom = box = aspect_box(image.width, image.height, aspect)
    size = saliency_map.shape[0]
    across, down = size / image.width, size / image.height
    map_box = (left * across, top * down, right * across, bottom * down)
    cut = Image.fromarray(np.asarray(saliency_map, np.float32)).resize((size, size), Image.Resampling.BILINEAR, box=map_box)
    return image.crop(box), np.asarray(cut)
