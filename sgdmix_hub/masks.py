"""Saliency map -> binary foreground mask: Otsu's threshold (Eq. 8), optionally refined by GrabCut."""

from __future__ import annotations

import cv2
import numpy as np

# GrabCut's seeds, chosen by mask IoU on the demo domain (benchmarks/demo.py measures it). Radii are shares of the image size.
GRABCUT_SIZE = 128  # smaller images leave too few pixels for the colour models, larger ones only cost time
GRABCUT_ITERATIONS = 2
SURE_FOREGROUND = 0.9  # quantile of the map inside the Otsu mask above which a pixel is certain
PROBABLE_RADIUS = 0.1  # a class activation covers the telling part, the object reaches further
SURE_BACKGROUND_RADIUS = 0.3


def otsu_threshold(saliency_map: np.ndarray, bins: int = 256) -> float:
    """Otsu's threshold of a map (any shape), over a histogram of 256 bins between its extremes, as scikit-image takes it.

    In float64: the last bit of a threshold decides over pixels. The foreground is what lies strictly ABOVE the threshold. A constant map
    returns its value, so its mask is empty.
    """
    saliency_map = np.asarray(saliency_map, np.float64)
    low, high = float(saliency_map.min()), float(saliency_map.max())
    if low == high:
        return low
    counts, edges = np.histogram(saliency_map, bins=bins, range=(low, high))
    centers = (edges[:-1] + edges[1:]) / 2
    below, above = np.cumsum(counts), np.cumsum(counts[::-1])[::-1]
    mean_below = np.cumsum(counts * centers) / below
    mean_above = (np.cumsum((counts * centers)[::-1]) / above[::-1])[::-1]
    variance_between = below[:-1] * above[1:] * (mean_below[:-1] - mean_above[1:]) ** 2
    return float(centers[int(np.argmax(variance_between))])


def threshold_mask(saliency_map: np.ndarray, size: int) -> np.ndarray:
    """The mask of a float (64, 64) map at size x size, bool: threshold of the map itself, cut from the map scaled bilinearly."""
    saliency_map = np.asarray(saliency_map, np.float32)
    scaled = cv2.resize(saliency_map, (size, size), interpolation=cv2.INTER_LINEAR)
    return scaled > otsu_threshold(saliency_map)


def grabcut_mask(image: np.ndarray, saliency_map: np.ndarray) -> np.ndarray:
    """The Otsu mask refined by GrabCut (Rother et al., 2004; OpenCV) on the image, uint8 (size, size, 3); bool (size, size).

    The map's peak is certain foreground, what is far from the Otsu mask certain background, the rest is for the colour models to decide.
    The Otsu mask is returned where GrabCut finds nothing, or nothing but foreground.
    """
    size = image.shape[0]
    coarse = threshold_mask(saliency_map, GRABCUT_SIZE)
    if not coarse.any() or coarse.all():
        return threshold_mask(saliency_map, size)
    scaled = cv2.resize(np.asarray(saliency_map, np.float32), (GRABCUT_SIZE, GRABCUT_SIZE), interpolation=cv2.INTER_LINEAR)
    seeds = np.full(coarse.shape, cv2.GC_PR_BGD, np.uint8)
    seeds[widen(coarse, PROBABLE_RADIUS)] = cv2.GC_PR_FGD
    seeds[~widen(coarse, SURE_BACKGROUND_RADIUS)] = cv2.GC_BGD
    seeds[coarse & (scaled >= np.quantile(scaled[coarse], SURE_FOREGROUND))] = cv2.GC_FGD
    cv2.setRNGSeed(0)  # GrabCut's k-means draws from OpenCV's state of this thread
    interpolation = cv2.INTER_AREA if size > GRABCUT_SIZE else cv2.INTER_CUBIC
    bgr = cv2.resize(np.ascontiguousarray(image[..., ::-1]), coarse.shape, interpolation=interpolation)
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(bgr, seeds, None, background, foreground, GRABCUT_ITERATIONS, cv2.GC_INIT_WITH_MASK)
    refined = ((seeds == cv2.GC_FGD) | (seeds == cv2.GC_PR_FGD)).astype(np.float32)
    interpolation = cv2.INTER_LINEAR if size > GRABCUT_SIZE else cv2.INTER_AREA
    mask = cv2.resize(refined, (size, size), interpolation=interpolation) > 0.5
    return mask if mask.any() and not mask.all() else threshold_mask(saliency_map, size)


def widen(mask: np.ndarray, radius: float) -> np.ndarray:
    """The bool mask dilated by a disc; `radius` as a share of the image size, at least one pixel."""
    pixels = max(1, round(radius * mask.shape[0]))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1))
    return cv2.dilate(mask.astype(np.uint8), disc).astype(bool)


def foreground_mask(image: np.ndarray, saliency_map: np.ndarray, refinement: str) -> np.ndarray:
    """The mask M of a row, bool (size, size): `refinement` is none (Eq. 8) or grabcut."""
    if refinement == "grabcut":
        return grabcut_mask(image, saliency_map)
    return threshold_mask(saliency_map, image.shape[0])
