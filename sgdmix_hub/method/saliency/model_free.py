"""Images -> saliency maps without a model: float32 (64, 64) in [0, 1], the Z of the paper. cam.py
looks through a classifier.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from sgdmix_hub.data.images import foreground_share, square
from sgdmix_hub.errors import one_row

MAP_SIZE = 64
BORDER = 0.1  # share of the image's side that is taken for background when nothing else is known
BARRIER_PASSES = 4  # of FastMBD; three are enough for the paper, and they alternate in direction
BARRIER_SIGMA = 2.0  # pixels of the 64 x 64 map: closes the gaps that texture leaves in an object


def is_blank(saliency_map: np.ndarray) -> bool:
    """Whether a map separates nothing: constant or not finite."""
    return not np.isfinite(saliency_map).all() or float(np.ptp(saliency_map)) == 0.0


def to_unit_range(values: np.ndarray) -> np.ndarray:
    """Values scaled to [0, 1] as float32; zeros when they are constant."""
    spread = float(np.ptp(values))
    if spread == 0.0:
        return np.zeros(values.shape, np.float32)
    return ((values - values.min()) / spread).astype(np.float32)


def spectral_residual(grey: np.ndarray, sigma: float = 6.0) -> np.ndarray:
    """Spectral-residual saliency (Hou & Zhang, CVPR 2007). `grey`: float (h, w); returns float32
    (h, w) in [0, 1], zeros for an image that is grey all over.

    The textbook order: square of the inverse transform, then the Gaussian. OpenCV blurs first,
    which leaves mostly edges.
    """
    if np.ptp(grey) == 0:
        return np.zeros(
            grey.shape, np.float32
        )  # the residual of nothing is an impulse of rounding errors
    return to_unit_range(cv2.GaussianBlur(residual_amplitude(grey) ** 2, (0, 0), sigma))


def residual_amplitude(grey: np.ndarray) -> np.ndarray:
    """Amplitude of the image that is left when the log spectrum's 3 x 3 average is taken out of it,
    float64 (h, w).
    """
    spectrum = np.fft.fft2(grey.astype(np.float64))
    log_amplitude = np.log(np.abs(spectrum) + 1e-12)
    residual = log_amplitude - cv2.blur(log_amplitude, (3, 3), borderType=cv2.BORDER_REFLECT_101)
    return np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum))))


def minimum_barrier(pixels: np.ndarray) -> np.ndarray:
    """Minimum barrier saliency, MB+ (Zhang et al., ICCV 2015): what cannot be reached from the
    image's border without crossing a change of colour, plus what has another colour than the
    borders. `pixels`: uint8 (h, w, 3) RGB; returns float32 (h, w) in [0, 1].
    """
    lab = cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    barrier = sum(barrier_distance(np.ascontiguousarray(lab[..., channel])) for channel in range(3))
    unlike_border = to_unit_range(border_contrast(lab))
    return to_unit_range(
        cv2.GaussianBlur(to_unit_range(barrier) + unlike_border, (0, 0), BARRIER_SIGMA)
    )


def barrier_distance(channel: np.ndarray) -> np.ndarray:
    """Minimum barrier distance to the border, approximately (FastMBD, with raster scans a whole row
    or column at a time).

    The barrier of a path is its highest minus its lowest value; a pixel gets the lowest barrier
    over the paths that the scans tried. `channel`: float32 (h, w); returns float32 (h, w), zeros on
    the border.
    """
    distance = np.full_like(channel, np.inf)
    distance[[0, -1], :] = distance[:, [0, -1]] = 0
    highest, lowest = channel.copy(), channel.copy()
    for scan in range(BARRIER_PASSES):
        for axis in (0, 1):
            views = [np.moveaxis(array, axis, 0) for array in (channel, distance, highest, lowest)]
            _scan(*(view if scan % 2 == 0 else view[::-1] for view in views))
    return distance


def _scan(
    channel: np.ndarray, distance: np.ndarray, highest: np.ndarray, lowest: np.ndarray
) -> None:
    """Extends the paths of every line by one step into the next line, in place, where that lowers
    the barrier.
    """
    for line in range(1, len(channel)):
        top = np.maximum(highest[line - 1], channel[line])
        bottom = np.minimum(lowest[line - 1], channel[line])
        better = top - bottom < distance[line]
        distance[line][better] = (top - bottom)[better]
        highest[line][better], lowest[line][better] = top[better], bottom[better]


def border_contrast(lab: np.ndarray) -> np.ndarray:
    """How unlike the borders a pixel's colour is, float64 (h, w): Mahalanobis distances to the four
    border strips' colours, each scaled to 1, summed without the largest (an object may touch one
    border). `lab`: float32 (h, w, 3).
    """
    rows, columns = (max(1, round(BORDER * side)) for side in lab.shape[:2])
    strips = (lab[:rows], lab[-rows:], lab[:, :columns], lab[:, -columns:])
    distances = np.stack(
        [_mahalanobis(lab, strip.reshape(-1, 3).astype(np.float64)) for strip in strips]
    )
    return distances.sum(axis=0) - distances.max(axis=0)


def _mahalanobis(lab: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Distance of each pixel to a set of colours (n, 3), over its own maximum; zeros where all
    pixels are alike.
    """
    inverse = np.linalg.inv(
        np.cov(colors.T) + np.eye(3)
    )  # one unit of Lab, about what an eye can see, for strips of a single colour
    difference = lab - colors.mean(axis=0)
    distance = np.sqrt(np.maximum(np.einsum("hwi,ij,hwj->hw", difference, inverse, difference), 0))
    return distance / max(distance.max(), 1e-9)


@one_row("saliency map")
def spectral_residual_map(image: Image.Image, resize: str, sigma: float) -> np.ndarray:
    """Spectral residual of an RGB image, computed at 64 x 64."""
    return spectral_residual(
        np.asarray(square(image.convert("L"), MAP_SIZE, resize), dtype=np.float64), sigma
    )


@one_row("saliency map")
def minimum_barrier_map(image: Image.Image, resize: str) -> np.ndarray:
    """Minimum barrier saliency of an RGB image, computed at 64 x 64."""
    return minimum_barrier(np.asarray(square(image, MAP_SIZE, resize)))


@one_row("mask")
def mask_column_map(mask: Image.Image, resize: str) -> np.ndarray:
    """A foreground mask from the dataset, as it is stored, as a map: means over the cells of 64 x
    64.
    """
    share = Image.fromarray(np.rint(foreground_share(mask) * 255).astype(np.uint8))
    return np.asarray(square(share, MAP_SIZE, resize, Image.Resampling.BOX), dtype=np.float32) / 255
