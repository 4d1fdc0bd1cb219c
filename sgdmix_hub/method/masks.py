"""Saliency map -> binary foreground mask: a threshold (Eq. 8), GrabCut on the image, clean-up.
Radii are shares of the image size.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image
from scipy import ndimage
from skimage import filters

from sgdmix_hub.data.images import foreground_share, resize_mask, square
from sgdmix_hub.errors import one_row
from sgdmix_hub.settings.method import MethodSettings

THRESHOLDS = {
    "otsu": filters.threshold_otsu,
    "isodata": filters.threshold_isodata,
    "li": filters.threshold_li,
    "mean": filters.threshold_mean,
    "minimum": filters.threshold_minimum,
    "triangle": filters.threshold_triangle,
    "yen": filters.threshold_yen,
}
CUT = 0.5  # share of the foreground above which a pixel of a mask that the dataset brings is foreground

# GrabCut's seeds, chosen by mask IoU on the demo domain (benchmarks/method.py measures it).
GRABCUT_SIZE = (
    128  # smaller images leave too few pixels for the colour models, larger ones only cost time
)
GRABCUT_ITERATIONS = 2
SURE_FOREGROUND = 0.9  # quantile of the map inside the coarse mask above which a pixel is certain
PROBABLE_RADIUS = 0.1  # a class activation covers the telling part, the object reaches further
SURE_BACKGROUND_RADIUS = 0.3


def threshold(saliency_map: np.ndarray, method: str = "otsu", quantile: float = 0.8) -> float:
    """The threshold of a map (any shape): scikit-image's of that name, or, for `quantile`, that
    quantile of the map.

    The foreground is what lies strictly ABOVE the threshold. A map that a method finds no threshold
    for (constant; without two modes, for `minimum`) gets its own maximum, so its mask is empty: an
    image is skipped rather than guessed at.
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


def scaled_map(saliency_map: np.ndarray, size: int) -> np.ndarray:
    """A (64, 64) map scaled bilinearly, float32 (size, size)."""
    return cv2.resize(
        np.asarray(saliency_map, np.float32), (size, size), interpolation=cv2.INTER_LINEAR
    )


def threshold_mask(
    saliency_map: np.ndarray, size: int, method: str = "otsu", quantile: float = 0.8
) -> np.ndarray:
    """The mask of a float (64, 64) map at size x size, bool: threshold of the map itself, cut from
    the map scaled bilinearly.
    """
    return scaled_map(saliency_map, size) > threshold(
        np.asarray(saliency_map, np.float32), method, quantile
    )


@one_row("mask")
def grabcut_mask(image: np.ndarray, saliency_map: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """A coarse mask, bool (size, size), refined by GrabCut (Rother et al., 2004; OpenCV) on the
    image, uint8 (size, size, 3).

    Inside the coarse mask the map's peak is certain foreground, what is far from the mask certain
    background, the rest is for the colour models to decide. The coarse mask is returned where
    GrabCut finds nothing, or nothing but foreground, and where it cannot begin: a mask that is
    spread over the whole image leaves no background to learn from.
    """
    size = image.shape[0]
    small = resize_mask(coarse, GRABCUT_SIZE)
    if not small.any() or small.all():
        return coarse
    scaled = scaled_map(saliency_map, GRABCUT_SIZE)
    seeds = np.full(small.shape, cv2.GC_PR_BGD, np.uint8)
    seeds[widen(small, PROBABLE_RADIUS)] = cv2.GC_PR_FGD
    seeds[~widen(small, SURE_BACKGROUND_RADIUS)] = cv2.GC_BGD
    seeds[small & (scaled >= np.quantile(scaled[small], SURE_FOREGROUND))] = cv2.GC_FGD
    if np.isin(seeds, (cv2.GC_FGD, cv2.GC_PR_FGD)).all():
        return coarse
    cv2.setRNGSeed(0)  # GrabCut's k-means draws from OpenCV's state of this thread
    interpolation = cv2.INTER_AREA if size > GRABCUT_SIZE else cv2.INTER_CUBIC
    bgr = cv2.resize(
        np.ascontiguousarray(image[..., ::-1]), small.shape, interpolation=interpolation
    )
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(bgr, seeds, None, background, foreground, GRABCUT_ITERATIONS, cv2.GC_INIT_WITH_MASK)
    mask = resize_mask((seeds == cv2.GC_FGD) | (seeds == cv2.GC_PR_FGD), size)
    return mask if mask.any() and not mask.all() else coarse


REFINEMENTS = {"none": lambda image, saliency_map, coarse: coarse, "grabcut": grabcut_mask}


def widen(mask: np.ndarray, radius: float) -> np.ndarray:
    """The bool mask dilated by a disc; `radius` as a share of the image size, at least one pixel."""
    pixels = max(1, round(radius * mask.shape[0]))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1))
    return cv2.dilate(mask.astype(np.uint8), disc).astype(bool)


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
    size: int,
    resize: str,
) -> np.ndarray:
    """A stored foreground mask in the geometry of its image of `image_size`, of which `box` alone
    is taken where it is given: float32 (size, size) in [0, 1]. Raises `UnusableRow`.
    """
    share = Image.fromarray(foreground_share(mask))
    if share.size != image_size:
        share = share.resize(image_size, Image.Resampling.BILINEAR)
    return np.asarray(
        square(share if box is None else share.crop(box), size, resize, Image.Resampling.BILINEAR)
    )


def share_of_frame(
    mask: np.ndarray, image_size: tuple[int, int], box: tuple[int, int, int, int] | None, size: int
) -> np.ndarray:
    """A mask over the run's frame, bool (h, h), scaled to float32 (size, size) in [0, 1].

    `box`: the part to take, in pixels of an image of `image_size` that the frame shows whole.
    """
    part = None
    if box is not None:
        across, down = (len(mask) / length for length in image_size)
        part = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
    share = Image.fromarray(mask.astype(np.float32))
    return np.asarray(share.resize((size, size), Image.Resampling.BILINEAR, box=part))


@one_row("mask")
def foreground_mask(
    image: np.ndarray,
    saliency_map: np.ndarray,
    settings: MethodSettings,
    share: np.ndarray | None = None,
) -> np.ndarray:
    """The mask M of an image, uint8 (size, size, 3), bool (size, size), by the settings (with their
    preset applied).

    `share`: of the foreground in every pixel, float32 (size, size) in [0, 1], where the dataset
    brings it. It is cut at one half; the map and GrabCut, which are coarser, have no part in it.
    Raises `UnusableRow`.
    """
    if share is not None:
        return clean_up(share > CUT, settings)
    mask = threshold_mask(
        saliency_map, image.shape[0], settings.threshold_method, settings.threshold_quantile
    )
    return clean_up(REFINEMENTS[settings.mask_refinement](image, saliency_map, mask), settings)
