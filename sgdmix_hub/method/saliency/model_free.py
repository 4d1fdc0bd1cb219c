"""Saliency maps without a model: the Z of the paper, float32 (64, 64) in [0, 1]."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from sgdmix_hub.data.images import foreground_share, square
from sgdmix_hub.errors import one_row

MAP_SIZE = 64
BORDER = 0.1  # share of the image's side at each border that is assumed to be background
BARRIER_PASSES = 4  # of FastMBD, in alternating directions; its paper makes three
BARRIER_SIGMA = 2.0  # pixels of the 64 x 64 map; closes gaps that texture leaves in an object


def is_blank(saliency_map: np.ndarray) -> bool:
    """Whether a map is constant or not finite, so that it separates nothing."""
    return not np.isfinite(saliency_map).all() or float(np.ptp(saliency_map)) == 0.0


def to_unit_range(values: np.ndarray) -> np.ndarray:
    """The values scaled to [0, 1], float32; zeros if they are constant."""
    spread = float(np.ptp(values))
    if spread == 0.0:
        return np.zeros(values.shape, np.float32)
    return ((values - values.min()) / spread).astype(np.float32)


def spectral_residual(grey: np.ndarray, sigma: float = 6.0) -> np.ndarray:
    """Spectral-residual saliency (Hou & Zhang, CVPR 2007).

    `grey`: float (h, w). Returns float32 (h, w) in [0, 1]; zeros for a constant image. Squares the
    inverse transform and then blurs, as in the paper; OpenCV blurs first, which leaves mostly
    edges.
    """
    if np.ptp(grey) == 0:  # its residual would be an impulse of rounding errors
        return np.zeros(grey.shape, np.float32)
    return to_unit_range(cv2.GaussianBlur(residual_amplitude(grey) ** 2, (0, 0), sigma))


def residual_amplitude(grey: np.ndarray) -> np.ndarray:
    """Amplitude of the image without the 3 x 3 average of its log spectrum, float64 (h, w)."""
    spectrum = np.fft.fft2(grey.astype(np.float64))
    log_amplitude = np.log(np.abs(spectrum) + 1e-12)
    residual = log_amplitude - cv2.blur(log_amplitude, (3, 3), borderType=cv2.BORDER_REFLECT_101)
    return np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum))))


def minimum_barrier(pixels: np.ndarray) -> np.ndarray:
    """Minimum barrier saliency, MB+ (Zhang et al., ICCV 2015).

    Salient is what cannot be reached from the border without a change of colour, and what differs
    in colour from the borders. `pixels`: uint8 (h, w, 3) RGB. Returns float32 (h, w) in [0, 1].
    """
    lab = cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    channels = [np.ascontiguousarray(lab[..., channel]) for channel in range(3)]
    lightness, green_red, blue_yellow = map(barrier_distance, channels)
    barrier = lightness + green_red + blue_yellow
    unlike_border = to_unit_range(border_contrast(lab))
    return to_unit_range(
        cv2.GaussianBlur(to_unit_range(barrier) + unlike_border, (0, 0), BARRIER_SIGMA)
    )


def barrier_distance(channel: np.ndarray) -> np.ndarray:
    """Approximate minimum barrier distance to the border, by FastMBD.

    The barrier of a path is its highest minus its lowest value. A pixel gets the lowest barrier of
    all paths that the scans try; a scan moves a whole row or column at a time. `channel`: float32
    (h, w). Returns float32 (h, w), zeros on the border.
    """
    distance = np.full_like(channel, np.inf)
    distance[[0, -1], :] = distance[:, [0, -1]] = 0
    return lowest_barriers(channel, distance)


def lowest_barriers(values: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """The barriers of all pixels, float32 (h, w, ...), from those that are known: infinite where no
    path begins. `values`: float32 of the same shape. Changes and returns `distance`.
    """
    highest, lowest = values.copy(), values.copy()
    for scan in range(BARRIER_PASSES):
        for axis in (0, 1):
            views = [np.moveaxis(array, axis, 0) for array in (values, distance, highest, lowest)]
            _scan(*(view if scan % 2 == 0 else view[::-1] for view in views))
    return distance


def _scan(
    channel: np.ndarray, distance: np.ndarray, highest: np.ndarray, lowest: np.ndarray
) -> None:
    """Extends the paths of each line into the next line if that lowers the barrier; in place."""
    for line in range(1, len(channel)):
        top = np.maximum(highest[line - 1], channel[line])
        bottom = np.minimum(lowest[line - 1], channel[line])
        better = top - bottom < distance[line]
        distance[line][better] = (top - bottom)[better]
        highest[line][better], lowest[line][better] = top[better], bottom[better]


def border_contrast(lab: np.ndarray) -> np.ndarray:
    """How much a pixel's colour differs from the borders', float64 (h, w).

    The sum of the Mahalanobis distances to the colours of the four border strips, each scaled to 1,
    without the largest: an object may touch one border. `lab`: float32 (h, w, 3).
    """
    distances = border_distances(lab)
    distances = np.stack([one / max(one.max(), 1e-9) for one in distances])
    return distances.sum(axis=0) - distances.max(axis=0)


def border_distances(lab: np.ndarray) -> np.ndarray:
    """Mahalanobis distances to the colours of the upper, lower, left and right strip, float64
    (4, h, w). `lab`: float32 (h, w, 3).
    """
    rows, columns = (max(1, round(BORDER * side)) for side in lab.shape[:2])
    strips = (lab[:rows], lab[-rows:], lab[:, :columns], lab[:, -columns:])
    return np.stack(
        [_mahalanobis(lab, strip.reshape(-1, 3).astype(np.float64)) for strip in strips]
    )


def _mahalanobis(lab: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Distance of each pixel to a set of colours (n, 3)."""
    # plus one unit of Lab, about the smallest visible difference, for strips of a single colour
    inverse = np.linalg.inv(np.cov(colors.T) + np.eye(3))
    difference = lab - colors.mean(axis=0)
    return np.sqrt(np.maximum(np.einsum("hwi,ij,hwj->hw", difference, inverse, difference), 0))


@one_row("saliency map")
def spectral_residual_map(image: Image.Image, resize: str, sigma: float) -> np.ndarray:
    """Spectral residual of an RGB image, computed at 64 x 64."""
    grey = square(image.convert("L"), MAP_SIZE, resize)
    return spectral_residual(np.asarray(grey, dtype=np.float64), sigma)


@one_row("saliency map")
def minimum_barrier_map(image: Image.Image, resize: str) -> np.ndarray:
    """Minimum barrier saliency of an RGB image, computed at 64 x 64."""
    return minimum_barrier(np.asarray(square(image, MAP_SIZE, resize)))


@one_row("mask")
def mask_column_map(mask: Image.Image, resize: str) -> np.ndarray:
    """A stored foreground mask of any size as a map: its mean in each of 64 x 64 cells."""
    share = Image.fromarray(np.rint(foreground_share(mask) * 255).astype(np.uint8))
    return np.asarray(square(share, MAP_SIZE, resize, Image.Resampling.BOX), dtype=np.float32) / 255
