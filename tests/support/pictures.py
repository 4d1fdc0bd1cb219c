"""Synthetic images, saliency maps and masks that tests of several modules use."""

import numpy as np
import scipy.ndimage


def iou(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two bool masks."""
    return (first & second).sum() / (first | second).sum()


def noisy_images(count: int, size: int) -> np.ndarray:
    """uint8 (count, size, size, 3), of no content."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def boxed_foregrounds(count: int, size: int) -> np.ndarray:
    """bool (count, size, size): a box in each."""
    masks = np.zeros((count, size, size), bool)
    masks[:, 4:20, 8:28] = True
    return masks


def smooth_map(seed: int, blobs: int = 2) -> np.ndarray:
    """Smooth blobs, float32 (64, 64) in [0, 1]; every value is exact in float16."""
    rng = np.random.default_rng(seed)
    peaks = np.zeros((64, 64))
    peaks[tuple(rng.integers(8, 56, (2, blobs)))] = rng.random(blobs) + 0.5
    smooth = scipy.ndimage.gaussian_filter(peaks, rng.uniform(3, 9))
    return (smooth / smooth.max()).astype(np.float16).astype(np.float32)


def disc_on_texture(seed: int, size: int = 128) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image of a red disc on a green texture, the disc's mask, and a coarse saliency map of it.

    The map is a blob that is off-centre and too large.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    centre_y, centre_x = rng.uniform(0.4, 0.6, 2)
    disc = (y - centre_y) ** 2 + (x - centre_x) ** 2 < 0.18**2
    texture = scipy.ndimage.gaussian_filter(rng.random((size, size)), size / 40)
    texture = (texture - texture.min()) / np.ptp(texture)
    image = np.stack(
        [60 + 60 * texture, 120 + 80 * texture, 50 + 30 * texture], axis=-1
    ) + rng.normal(0, 6, (size, size, 3))
    image[disc] = np.array([205, 40, 45]) + rng.normal(0, 10, (disc.sum(), 3))
    grid_y, grid_x = np.mgrid[:64, :64] / 64
    saliency_map = np.exp(
        -((grid_y - centre_y - 0.06) ** 2 + (grid_x - centre_x + 0.05) ** 2) / 0.03
    ).astype(np.float32)
    return np.clip(image, 0, 255).astype(np.uint8), disc, saliency_map


def difference(mine, theirs):
    """The largest difference of 8-bit values, and the share of them that differ."""
    distance = np.abs(np.stack(mine).astype(int) - theirs)
    return distance.max(), (distance > 0).mean()
