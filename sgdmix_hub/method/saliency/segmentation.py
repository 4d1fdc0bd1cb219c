"""Sources that find the foreground as a mask: a segmentation model, GrabCut inside a box, any
function of an image, such as a model of rembg, and a column of what such a model predicted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

from sgdmix_hub.data.images import foreground_share, square
from sgdmix_hub.errors import (
    Unusable,
    UnusableRow,
    UserError,
    attempt,
    first_line,
    one_line,
    one_row,
)
from sgdmix_hub.method.confidence import PREDICTED, confidence
from sgdmix_hub.method.masks import CUT, centred
from sgdmix_hub.method.outlines import small_lab
from sgdmix_hub.models.segmenters.frames import MASK_SIZE, Box, Input, framed
from sgdmix_hub.models.segmenters.instances import Segmentation
from sgdmix_hub.settings.reasons import LOW_CONFIDENCE

from .sources import Cells, Found, Images, Labels, Outcomes, Stored

if TYPE_CHECKING:
    from sgdmix_hub.models.segmenters.segmenter import Segmenter

GRABCUT_ITERATIONS = 5
# Shares of the frame, and of its border, beyond which a mask shows no object before a background.
LEAST_AREA, MOST_AREA, MOST_BORDER = 0.0005, 0.95, 0.9
MaskFunction = Callable[[Image.Image], "Image.Image | np.ndarray"]


class SegmentationSource:
    """Masks of a segmentation model, with the model's own confidence."""

    def __init__(self, segmenter: Segmenter):
        self.segmenter = segmenter
        self.batch_size = segmenter.batch_size

    def found(self, images: Images, labels: Labels, stored: Cells) -> Outcomes:
        """`stored`: the images' boxes, for SAM 2 without a detector and for `nearest-box`."""
        boxes = None if stored is None else [box_stored(value) for value in stored]
        if boxes is None and self.segmenter.needs_boxes:
            raise ValueError("this segmenter masks the boxes of a dataset's column")
        return [
            as_found(segmentation, self.segmenter.sought)
            for segmentation in self.segmenter.segment(images, boxes)
        ]


class MaskFunctionSource:
    """Masks of any function of an RGB image.

    The function returns the foreground of the whole image, of any size: a PIL image, or an array
    that is bool, in [0, 1], or uint8. The confidence of a soft mask is estimated; a hard one is
    taken at its word.
    """

    batch_size = 1

    def __init__(self, make_mask: MaskFunction, resize: str):
        self.make_mask, self.resize = make_mask, resize

    def found(self, images: Images, labels: Labels, stored: Cells) -> Outcomes:
        return [attempt(self._found, image) for image in images]

    @one_row("mask")
    def _found(self, image: Image.Image) -> Found:
        mask = self.make_mask(image)
        if isinstance(mask, Image.Image):
            check_opaque(mask)
        share = centred(share_in(mask))
        shown = share_shown(share, image.size, self.resize)
        if not is_soft(share):
            return plausible(Segmentation(shown, mean_inside(shown)))
        return plausible(Segmentation(shown, predicted_confidence(image, shown, self.resize)))


class PredictedColumnSource:
    """Masks in a column of the dataset that a model predicted. Their confidence is estimated.

    A mask is cut from the stored one, at full resolution (`centred_mask`).
    """

    batch_size = 1

    def __init__(self, resize: str):
        self.resize = resize

    def found(self, images: Images, labels: Labels, stored: Cells) -> Outcomes:
        if stored is None:
            raise ValueError("saliency_method predicted-column reads a dataset's masks")
        return [
            attempt(self._found, image, mask)
            for image, mask in zip(images, stored, strict=True)
            if isinstance(mask, Image.Image)
        ]

    @one_row("mask")
    def _found(self, image: Image.Image, mask: Image.Image) -> Found:
        share = predicted_share(mask)
        shown = share_shown(share, image.size, self.resize)
        trust = predicted_confidence(image, shown, self.resize)
        found = plausible(Segmentation(shown, trust))
        if not is_soft(share):  # whatever a hard mask shows, it has two clear levels
            raise UnusableRow(
                "mask: it is not soft, so nothing tells whether it is good: saliency_method "
                "mask-column takes such masks as true"
            )
        return replace(found, mask=None)


def predicted_share(mask: Image.Image) -> np.ndarray:
    """A stored mask that a model predicted, `centred`. Raises `UnusableRow` for two that would be
    read as another mask: whole numbers up to 1, which as a true mask would be whole and here show
    nothing, and a cut-out.
    """
    if mask.mode not in ("1", "P", "F") and np.max(np.asarray(mask)) == 1:
        raise UnusableRow(f"{LOW_CONFIDENCE} 0.00: the mask has no value above 1 of 255")
    check_opaque(mask)
    return centred(share_in(mask))


@one_row("mask")
def centred_mask(mask: Image.Image) -> Image.Image:
    """`predicted_share` as an image, which is read as any stored mask. Raises `UnusableRow`."""
    return Image.fromarray(predicted_share(mask))


def check_opaque(mask: Image.Image) -> None:
    """Raises `UnusableRow` for a cut-out: the brightness of an object is no share of it."""
    if "A" in mask.getbands() and np.min(np.asarray(mask.getchannel("A"))) < 255:
        raise UnusableRow("mask: it is a transparent image: give its alpha alone")


def share_shown(share: np.ndarray, image_size: tuple[int, int], resize: str) -> np.ndarray:
    """What the run's frame shows of a mask of a whole image, float32 (256, 256)."""
    frame = frame_box(image_size, share.shape[::-1], resize)
    whole, size = Image.fromarray(share), (MASK_SIZE, MASK_SIZE)
    return np.asarray(whole.resize(size, Image.Resampling.BILINEAR, box=frame), np.float32)


def is_soft(share: np.ndarray) -> bool:
    """Whether a mask has any value between its lowest and its highest."""
    return bool(((share > share.min()) & (share < share.max())).any())


def mean_inside(share: np.ndarray) -> float:
    """The mean of a mask inside its foreground; 0 without any."""
    inside = share > CUT
    return float(share[inside].mean()) if inside.any() else 0.0


def predicted_confidence(image: Image.Image, share: np.ndarray, resize: str) -> float:
    """The chance that a soft mask, float32 (256, 256) over the run's frame, is good."""
    lab = small_lab(np.asarray(square(image, MASK_SIZE, resize)))
    return confidence(lab, share > CUT, share, PREDICTED)


class BoxSource:
    """GrabCut inside a box of the dataset: what is outside of it is background."""

    batch_size = 1

    def __init__(self, resize: str):
        self.resize = resize

    def found(self, images: Images, labels: Labels, stored: Cells) -> Outcomes:
        if stored is None:
            raise ValueError("saliency_method box-column reads a dataset's boxes")
        return [
            attempt(self._found, image, box_stored(value))
            for image, value in zip(images, stored, strict=True)
        ]

    @one_row("mask")
    def _found(self, image: Image.Image, box: Box) -> Found:
        shown = framed(image, box, self.resize, WHOLE_IMAGE)
        share = box_grabcut(shown.pixels, shown.box).astype(np.float32)
        return Found(Segmentation(share, 1.0).saliency_map, share > 0)


WHOLE_IMAGE = Input(MASK_SIZE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), padded=False)


def box_grabcut(pixels: np.ndarray, box: Box | None) -> np.ndarray:
    """GrabCut's foreground inside a box, bool (size, size), of an image uint8 (size, size, 3).

    Raises `UnusableRow` for a box that is empty or leaves no background, and where GrabCut finds no
    foreground in it.
    """
    size = len(pixels)
    if box is None:
        raise UnusableRow("the box shows nothing of the image")
    left, top = (max(0, math.floor(value)) for value in box[:2])
    right, bottom = (min(size, math.ceil(value)) for value in box[2:])
    if (right - left) * (bottom - top) >= size * size:
        raise UnusableRow("the box covers the whole image: there is no background to learn from")
    labels = np.full((size, size), cv2.GC_BGD, np.uint8)
    labels[top:bottom, left:right] = cv2.GC_PR_FGD
    cv2.setRNGSeed(0)  # GrabCut's k-means draws from OpenCV's state of this thread
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
    bgr = np.ascontiguousarray(pixels[..., ::-1])
    whole = (0, 0, size, size)  # a rectangle, which this mode does not read
    cv2.grabCut(
        bgr, labels, whole, background, foreground, GRABCUT_ITERATIONS, cv2.GC_INIT_WITH_MASK
    )
    mask = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    if not mask.any():
        raise UnusableRow("GrabCut finds no foreground in the box")
    return mask


def as_found(segmentation: Segmentation, sought: str) -> Found | Unusable:
    """A segmentation as it is stored; one that cannot be the `sought` has the confidence 0."""
    fault = implausible(segmentation.mask, sought)
    if fault is not None:
        return Unusable(f"{LOW_CONFIDENCE} 0.00: {fault}")
    return Found(segmentation.saliency_map, segmentation.mask, segmentation.confidence)


def plausible(segmentation: Segmentation) -> Found:
    """`as_found` of any foreground. Raises `UnusableRow`."""
    found = as_found(segmentation, "foreground")
    if isinstance(found, Unusable):
        raise UnusableRow(found.reason)
    return found


def implausible(mask: np.ndarray, sought: str) -> str | None:
    """Why a mask, bool (size, size), cannot show the `sought`, whatever its score; None if it can.

    It is empty or a few pixels, leaves no background, or runs along almost the whole border, as
    the background does.
    """
    area, border = mask.mean(), np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean()
    if area < LEAST_AREA:
        return f"no {sought} found"
    if area > MOST_AREA:
        return f"the {sought} covers more than {MOST_AREA:.0%} of the image"
    if border > MOST_BORDER:
        share = f"more than {MOST_BORDER:.0%}"
        return f"the {sought} covers {share} of the image's border, as a background does"
    return None


def share_in(mask: Image.Image | np.ndarray) -> np.ndarray:
    """A mask as the share of the foreground in every pixel, float32 (h, w) in [0, 1]."""
    if isinstance(mask, Image.Image):
        return foreground_share(mask).astype(np.float32)
    values = np.asarray(mask)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"a mask has shape (h, w), not {values.shape}")
    share = values.astype(np.float32)
    if values.dtype == np.uint8:
        share /= 255
    if not np.isfinite(share).all() or share.min() < 0 or share.max() > 1:
        raise ValueError("a mask holds values in [0, 1], bool or uint8")
    return share


def frame_box(
    image_size: tuple[int, int], mask_size: tuple[int, int], resize: str
) -> tuple[float, float, float, float]:
    """The part of a mask, which covers a whole image, that the run's frame shows."""
    width, height = image_size
    side_x, side_y = width, height
    if resize == "center-crop":
        side_x = side_y = min(image_size)
    left, top = (width - side_x) / 2, (height - side_y) / 2
    across, down = mask_size[0] / width, mask_size[1] / height
    return left * across, top * down, (left + side_x) * across, (top + side_y) * down


def box_stored(value: Stored) -> Box:
    assert not isinstance(value, Image.Image), "a column of boxes holds no images"
    return value


def box_of(cell: object, bbox_format: str) -> Box:
    """A cell of a box column as (left, top, right, bottom). Raises `UnusableRow`."""
    if not isinstance(cell, list | tuple | np.ndarray) or len(cell) != 4:
        raise UnusableRow("the box is not four numbers")
    try:
        left, top, third, fourth = (float(value) for value in cell)
    except (TypeError, ValueError):
        raise UnusableRow("the box is not four numbers") from None
    right, bottom = (third, fourth) if bbox_format == "xyxy" else (left + third, top + fourth)
    if not (math.isfinite(left + top + right + bottom) and left < right and top < bottom):
        raise UnusableRow("the box is empty: is bbox_format right?")
    return left, top, right, bottom


def rembg_function(model: str) -> MaskFunction:
    """A model of the package rembg: RGB image -> soft mask of its size. Raises `UserError` if it
    is not installed, or cannot be loaded.
    """
    try:
        import rembg  # ty: ignore[import-not-found]  # an extra
    except ImportError:
        raise UserError(
            "saliency_method rembg needs the package rembg: pip install 'sgdmix_hub[rembg]'"
        ) from None
    try:
        session = rembg.new_session(model)
    except Exception as error:  # what rembg, its downloads and ONNX Runtime raise
        raise UserError(
            one_line(f"rembg cannot load the model {model}: {first_line(error)}")
        ) from error
    return lambda image: rembg.remove(image, session=session, only_mask=True)
