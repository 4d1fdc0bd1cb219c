"""Saliency map -> foreground mask: a threshold (Eq. 8), GrabCut, clean-up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image
from scipy import ndimage
from skimage import filters

from sgdmix_hub.data.images import Frame, fitted, foreground_share, frame_of, resize_mask
from sgdmix_hub.errors import one_row
from sgdmix_hub.settings.method import MethodSettings

from .outlines import contrast, sharpness, small_lab, widen

THRESHOLDS = {
    "otsu": filters.threshold_otsu,
    "isodata": filters.threshold_isodata,
    "li": filters.threshold_li,
    "mean": filters.threshold_mean,
    "minimum": filters.threshold_minimum,
    "triangle": filters.threshold_triangle,
    "yen": filters.threshold_yen,
}
CUT = 0.5  # a pixel of the dataset's own mask is foreground above this share
CUT_AT = 256  # pixels; the cut of a larger mask is found on a smaller one


@dataclass(frozen=True)
class GrabCut:
    """How GrabCut is seeded and when its mask is taken. Radii are shares of the image size.

    Chosen by mask IoU on photographs and on the demo's birds (benchmarks/masks.py);
    settings of a run may name others.
    """

    size: int = 128  # at 256 the IoU is the same and the time five times as much
    iterations: int = 2
    sure_foreground: float = 0.9  # quantile of the map in the mask above which a pixel is certain
    probable_radius: float = 0.02  # around the mask, what is rather foreground
    background_radius: float = 0.1  # around the mask, beyond which all is certain background
    sharp: float | None = 1.2  # sharpness of an outline that is not refined; None refines all


GRABCUT = GrabCut()
NO_BOX = (0, 0, 0, 0)  # GrabCut starts from a mask


def threshold(saliency_map: np.ndarray, method: str = "otsu", quantile: float = 0.8) -> float:
    """The threshold of a map of any shape: scikit-image's of that name, or a quantile.

    Foreground lies strictly above it. A map without a threshold (constant, or without two modes for
    `minimum`) gets its maximum: its mask is empty, and the row is skipped, not guessed.
    """
    values = np.asarray(saliency_map, np.float64)  # the last bit of a threshold decides over pixels
    if values.min() == values.max():
        return float(values.max())
    if method == "quantile":
        return float(np.quantile(values, quantile))
    try:
        return float(THRESHOLDS[method](values))
    except RuntimeError:
        return float(values.max())


def predicted_cut(share: np.ndarray) -> float:
    """Where a model's soft mask of a whole image, float32 (h, w) in [0, 1], is cut: at Otsu's
    threshold, since what a network is not sure of is often part of the object (chosen by
    benchmarks/soft_cuts.py). Not above one half, so that a mask that is high everywhere stays
    whole; and at one half if nothing is above that, so that a faint mask shows nothing.
    """
    if max(share.shape) > CUT_AT:
        share = cv2.resize(share, (CUT_AT, CUT_AT), interpolation=cv2.INTER_AREA)
    return CUT if share.max() <= CUT else min(threshold(share), CUT)


def centred(share: np.ndarray) -> np.ndarray:
    """A model's soft mask, of which the part below its cut is scaled to [0, `CUT`], and the part
    above to [`CUT`, 1]: from here on it is cut like every other mask. A hard mask stays as it is.
    """
    return np.interp(share, (0, predicted_cut(share), 1), (0, CUT, 1)).astype(np.float32)


def scaled_map(saliency_map: np.ndarray, size: int | Frame) -> np.ndarray:
    """A (64, 64) map scaled bilinearly, float32 (size, size), or (height, width) of a frame."""
    return cv2.resize(
        np.asarray(saliency_map, np.float32), frame_of(size), interpolation=cv2.INTER_LINEAR
    )


def threshold_mask(
    saliency_map: np.ndarray, size: int | Frame, method: str = "otsu", quantile: float = 0.8
) -> np.ndarray:
    """The mask of a float (64, 64) map, bool (size, size), or (height, width) of a frame.

    The threshold is taken on the map itself, the mask from the map scaled bilinearly.
    """
    return scaled_map(saliency_map, size) > threshold(
        np.asarray(saliency_map, np.float32), method, quantile
    )


@one_row("mask")
def grabcut_mask(
    image: np.ndarray,
    saliency_map: np.ndarray,
    coarse: np.ndarray,
    grabcut: GrabCut = GRABCUT,
) -> np.ndarray:
    """A coarse mask, bool (size, size), refined by GrabCut (Rother et al., 2004; OpenCV) on the
    image, uint8 (size, size, 3).

    The map's peak inside the mask is certain foreground, what is far from the mask certain
    background; GrabCut decides between. The coarse mask is returned if its outline already lies on
    an edge of the image, if GrabCut's outline has less contrast, and if GrabCut cannot begin or
    finds nothing: refinement shall not replace a mask that was better.
    """
    if not coarse.any() or coarse.all():
        return coarse
    lab = small_lab(image)
    if grabcut.sharp is not None and sharpness(lab, coarse) >= grabcut.sharp:
        return coarse
    refined = _grabcut(image, saliency_map, coarse, grabcut)
    if not refined.any() or refined.all():
        return coarse
    if grabcut.sharp is not None and contrast(lab, refined) <= contrast(lab, coarse):
        return coarse
    return refined


def _grabcut(
    image: np.ndarray, saliency_map: np.ndarray, coarse: np.ndarray, grabcut: GrabCut
) -> np.ndarray:
    """GrabCut's mask, bool (size, size), or the coarse one if there is nothing to decide."""
    frame = (image.shape[1], image.shape[0])
    small = resize_mask(coarse, grabcut.size)
    if not small.any() or small.all():
        return coarse
    scaled = scaled_map(saliency_map, grabcut.size)
    seeds = np.full(small.shape, cv2.GC_PR_BGD, np.uint8)
    seeds[widen(small, grabcut.probable_radius)] = cv2.GC_PR_FGD
    seeds[~widen(small, grabcut.background_radius)] = cv2.GC_BGD
    seeds[small & (scaled >= np.quantile(scaled[small], grabcut.sure_foreground))] = cv2.GC_FGD
    if np.isin(seeds, (cv2.GC_FGD, cv2.GC_PR_FGD)).all():
        return coarse
    cv2.setRNGSeed(0)  # GrabCut's k-means draws from OpenCV's state of this thread
    interpolation = cv2.INTER_AREA if min(frame) > grabcut.size else cv2.INTER_CUBIC
    bgr = cv2.resize(
        np.ascontiguousarray(image[..., ::-1]), small.shape, interpolation=interpolation
    )
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(
        bgr, seeds, NO_BOX, background, foreground, grabcut.iterations, cv2.GC_INIT_WITH_MASK
    )
    return resize_mask((seeds == cv2.GC_FGD) | (seeds == cv2.GC_PR_FGD), frame)


def _refined_by_grabcut(
    image: np.ndarray, saliency_map: np.ndarray, coarse: np.ndarray, settings: MethodSettings
) -> np.ndarray:
    grabcut = GrabCut(
        probable_radius=settings.grabcut_radius,
        background_radius=settings.grabcut_background_radius,
    )
    return grabcut_mask(image, saliency_map, coarse, grabcut)


REFINEMENTS: dict[
    str, Callable[[np.ndarray, np.ndarray, np.ndarray, MethodSettings], np.ndarray]
] = {
    "none": lambda image, saliency_map, coarse, settings: coarse,
    "grabcut": _refined_by_grabcut,
}


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest 8-connected part of a bool mask alone; an empty mask as it is."""
    count, numbers, facts, _ = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=8
    )
    if count == 1:
        return mask
    return numbers == 1 + int(np.argmax(facts[1:, cv2.CC_STAT_AREA]))


def clean_up(mask: np.ndarray, settings: MethodSettings) -> np.ndarray:
    """The mask after the settings' clean-up: largest component, then holes, then dilation."""
    if settings.largest_component:
        mask = largest_component(mask)
    if settings.fill_holes:
        mask = ndimage.binary_fill_holes(mask)
    return widen(mask, settings.mask_dilation) if settings.mask_dilation else mask


@one_row("mask")
def share_of(
    mask: Image.Image,
    image_size: tuple[int, int],
    box: tuple[int, int, int, int] | None,
    size: int | Frame,
    resize: str,
) -> np.ndarray:
    """A stored foreground mask at the size of its image's pixels, float32 (size, size), or (height,
    width) of a frame, in [0, 1].

    `image_size`: width and height of the image; `box`: the part of it that is used, or None for
    all. Raises `UnusableRow`.
    """
    share = Image.fromarray(foreground_share(mask))
    if share.size != image_size:
        share = share.resize(image_size, Image.Resampling.BILINEAR)
    shown = share if box is None else share.crop(box)
    return np.asarray(fitted(shown, frame_of(size), resize, Image.Resampling.BILINEAR))


def share_of_frame(
    mask: np.ndarray,
    image_size: tuple[int, int],
    box: tuple[int, int, int, int] | None,
    size: int | Frame,
) -> np.ndarray:
    """A mask over what the run shows of an image, bool (h, h), scaled to float32 (size, size), or
    (height, width) of a frame, in [0, 1].

    `box`: the part to take, in pixels of an image of `image_size` that the mask covers whole.
    """
    part = None
    if box is not None:
        across, down = (len(mask) / length for length in image_size)
        part = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
    share = Image.fromarray(mask.astype(np.float32))
    return np.asarray(share.resize(frame_of(size), Image.Resampling.BILINEAR, box=part))


@one_row("mask")
def foreground_mask(
    image: np.ndarray,
    saliency_map: np.ndarray,
    settings: MethodSettings,
    share: np.ndarray | None = None,
) -> np.ndarray:
    """The mask M of an image, uint8 (h, w, 3), by settings with their preset applied: bool (h, w).

    `share`: the dataset's own mask, float32 (h, w) in [0, 1], if it has one. It is cut at one
    half; the coarser map and GrabCut are not used. Raises `UnusableRow`.
    """
    if share is not None:
        return clean_up(share > CUT, settings)
    method, refinement = settings.threshold_method, settings.mask_refinement
    assert method is not None and refinement is not None, "the preset is applied"
    frame = (image.shape[1], image.shape[0])
    mask = threshold_mask(saliency_map, frame, method, settings.threshold_quantile)
    return clean_up(REFINEMENTS[refinement](image, saliency_map, mask, settings), settings)
