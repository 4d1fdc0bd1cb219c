"""Masking and mixing of single rows: images and saliency maps -> mixture, without a model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from sgdmix_hub.data.images import Frame, fitted, frame_for
from sgdmix_hub.errors import UnusableRow, one_row
from sgdmix_hub.settings.method import MethodSettings

from .backgrounds import background_box
from .masks import CUT, foreground_mask, share_of, share_of_frame, threshold_mask
from .mixing import compose, fill, inpainting_hole, kept_mask

Box = tuple[int, int, int, int]  # left, top, right, bottom


@dataclass(frozen=True)
class MaskedImage:
    """One image at the run's resolution with its foreground mask.

    `pixels`: uint8 (size, size, 3), or (h, w, 3) of a bucket; `mask`: bool (size, size), or (h, w);
    `size`: width and height of the upright image as it was stored; `box`: the part of it that is
    shown, in its pixels, or None for all.
    """

    pixels: np.ndarray
    mask: np.ndarray
    size: tuple[int, int]
    box: Box | None = None

    @property
    def aspect(self) -> float:
        """Width over height of the image as it was stored."""
        return self.size[0] / self.size[1]

    @property
    def frame(self) -> Frame:
        """Width and height of the pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]

    @cached_property
    def filled(self) -> tuple[np.ndarray, np.ndarray]:
        """The image as a background: its hole, bool (size, size), and its pixels with that filled.

        Kept, since one target serves many sources. Raises `UnusableRow` if the hole is too large.
        """
        hole = inpainting_hole(self.mask)
        return hole, fill(self.pixels, hole)


@dataclass(frozen=True)
class Mixture:
    """A mixed row.

    `kept`: bool (size, size), the pixels taken from the source; `hole`: bool (size, size), the
    pixels of the target that were inpainted; `background`: uint8 (size, size, 3), the target with
    its hole filled; `mixed`: uint8 (size, size, 3), the result.
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
    def is_source(self) -> bool:
        """Whether it is the source as it was: its mask could not be trusted."""
        return self.target is self.source

    @property
    def shown(self) -> np.ndarray:
        """The pixels that show the target as it is, bool (size, size)."""
        return ~self.kept & ~self.hole


class Mixer:
    """Masks and mixes images by settings with their preset applied."""

    def __init__(self, settings: MethodSettings):
        method, feather = settings.mixing_method, settings.feather
        assert method is not None and feather is not None, "a preset gives every method setting"
        self.settings = settings
        self.method = method
        self.feather = feather

    @one_row("mask")
    def mask(
        self,
        image: Image.Image,
        saliency_map: np.ndarray,
        aspect: float | None = None,
        stored_mask: Image.Image | None = None,
        found_mask: np.ndarray | None = None,
        frame: Frame | None = None,
    ) -> MaskedImage:
        """An RGB image of any size and its (64, 64) map -> the image with its mask.

        `aspect`: width over height to which image, map and mask are cropped first, where they show
        the most background. A target gets its source's aspect, so that stretching distorts both
        alike. The mask is cut
        from the map unless there is a finer one: `stored_mask`, the dataset's own, or `found_mask`,
        bool (256, 256), the saliency source's over the run's frame. `frame`: width and height of
        the result; by default those that the image itself is generated in. Raises `UnusableRow`.
        """
        resize = self.settings.resize
        width, height = image.size
        frame = frame or self.frame(image.size)
        box = None
        if aspect is not None:
            foreground = self._whole_foreground(saliency_map, stored_mask, found_mask)
            box = background_box(foreground, width, height, aspect)
        share = None
        if stored_mask is not None:
            share = share_of(stored_mask, image.size, box, frame, resize)
        elif found_mask is not None:
            share = share_of_frame(found_mask, image.size, box, frame)
        if box is not None:
            image, saliency_map = crop_to_box(image, saliency_map, box)
        pixels = np.asarray(fitted(image, frame, resize))
        mask = foreground_mask(pixels, saliency_map, self.settings, share)
        return MaskedImage(pixels, mask, (width, height), box)

    def _whole_foreground(
        self,
        saliency_map: np.ndarray,
        stored_mask: Image.Image | None,
        found_mask: np.ndarray | None,
    ) -> np.ndarray:
        """About where an image's foreground is, bool (h, h) over all of it."""
        if stored_mask is not None:
            size = len(saliency_map)
            return share_of(stored_mask, stored_mask.size, None, size, "stretch") > CUT
        if found_mask is not None:
            return found_mask
        method = self.settings.threshold_method
        assert method is not None, "the preset is applied"
        return threshold_mask(
            saliency_map, len(saliency_map), method, self.settings.threshold_quantile
        )

    def frame(self, size: tuple[int, int]) -> Frame:
        """Width and height in which an image of a size is generated."""
        return frame_for(size, self.settings.resolution, self.settings.resize)

    def target_aspect(self, source: MaskedImage) -> float | None:
        """The aspect ratio to crop the source's target to; None if the target stays whole."""
        if not self.settings.crop_target or self.settings.resize == "center-crop":
            return None  # center-crop makes every image square before it is masked
        return source.aspect

    @one_row("mixing")
    def mix(self, source: MaskedImage, target: MaskedImage) -> Mixture:
        """Mixes two images.

        Raises `UnusableRow` if the source has no foreground, or the target hardly any background.
        """
        if not source.mask.any() and self.method != "none":
            raise UnusableRow("empty mask: the saliency map has no foreground")
        kept = kept_mask(source.mask, target.mask, self.method)
        hole, background = np.zeros_like(kept), target.pixels
        if self.method == "inpaint":
            hole, background = target.filled
        mixed = compose(source.pixels, background, kept, self.feather)
        return Mixture(source, target, kept, hole, background, mixed)


def unmixed(source: MaskedImage) -> Mixture:
    """The source as it is, in the place of a mixture."""
    whole = np.ones(source.mask.shape, bool)
    return Mixture(source, source, whole, ~whole, source.pixels, source.pixels)


def crop_to_box(
    image: Image.Image, saliency_map: np.ndarray, box: Box
) -> tuple[Image.Image, np.ndarray]:
    """Image and map cut by the same box (left, top, right, bottom), in pixels of the image.

    The map, float (64, 64), covers the whole image; the cut one is scaled back to float32 (64, 64).
    """
    left, top, right, bottom = box
    size = saliency_map.shape[0]
    across, down = size / image.width, size / image.height
    map_box = (left * across, top * down, right * across, bottom * down)
    cut = Image.fromarray(np.asarray(saliency_map, np.float32)).resize(
        (size, size), Image.Resampling.BILINEAR, box=map_box
    )
    return image.crop(box), np.asarray(cut)
