"""Whether an image has colours: grey and toned photographs have none that tell things apart."""

from __future__ import annotations

import cv2
import numpy as np

from sgdmix_hub.method.outlines import SIZE, small_lab

# Largest difference of the three values of a grey pixel: JPEG leaves one or two. A stamp with the
# date may be coloured.
GREY_SPREAD, GREY_SHARE = 4, 0.99
# In a toned photograph (sepia, cyanotype, duotone) a pixel's colour follows from its lightness.
# Units of Lab off that curve, as a mean around a pixel, that nearly no pixel exceeds, and their
# share of the image's chroma (benchmarks/mask_tones.py).
TONED_SPREAD, TONED_SHARE = 3.5, 0.3
AROUND = 4 / SIZE  # share of the image size: what JPEG leaves off the curve cancels out
STEPS = 32  # of lightness
# A photograph has tones between its darkest and its lightest; a drawing in two or three flat
# colours, which follow from the lightness too, has none: bins with so many pixels, of all bins.
TONES, OF_PIXELS, BINS = 5, 0.005, 16


def has_colours(pixels: np.ndarray) -> bool:
    """Whether a uint8 RGB image (size, size, 3) is neither grey nor toned."""
    return not is_grey(pixels) and not is_toned(small_lab(pixels))


def is_grey(pixels: np.ndarray) -> bool:
    """Whether a uint8 RGB image (h, w, 3) has hardly any colours."""
    spread = pixels.max(axis=2) - pixels.min(axis=2)
    return bool((spread <= GREY_SPREAD).mean() >= GREY_SHARE)


def is_toned(lab: np.ndarray) -> bool:
    """Whether the colours of an image, as `outlines.small_lab` gives it, follow from its lightness.

    So do those of a brown dog on white paper: an image whose chroma is small next to what is off
    the curve, or of which the larger part has none, is not toned; nor is a drawing in a few flat
    colours.
    """
    if num_tones(lab[..., 0]) < TONES:
        return False
    chroma = float(np.median(np.linalg.norm(lab[..., 1:], axis=2)))
    return off_curve(lab) <= min(TONED_SPREAD, TONED_SHARE * chroma)


def num_tones(lightness: np.ndarray) -> int:
    """In how many of `BINS` from the darkest to the lightest there are pixels enough."""
    counts, _ = np.histogram(lightness, BINS)
    return int((counts >= OF_PIXELS * lightness.size).sum())


def off_curve(lab: np.ndarray) -> float:
    """How far the colours of an image are from one curve through the lightnesses, in units of Lab:
    the length of the mean difference around a pixel that .99 of the pixels do not exceed.
    """
    lightness, colours = lab[..., 0].ravel(), lab[..., 1:].reshape(-1, 2)
    steps = np.array_split(np.argsort(lightness, kind="stable"), STEPS)
    at = [lightness[step].mean() for step in steps]
    differences = [
        of - np.interp(lightness, at, [of[step].mean() for step in steps]) for of in colours.T
    ]
    maps = np.stack(differences, axis=1).reshape(*lab.shape[:2], 2).astype(np.float32)
    means = cv2.GaussianBlur(maps, (0, 0), AROUND * len(lab))
    return float(np.quantile(np.linalg.norm(means, axis=2), GREY_SHARE))
