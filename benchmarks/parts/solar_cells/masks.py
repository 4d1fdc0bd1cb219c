"""What can be known of masks on cells, which have no foreground: bars, sameness, mirror images."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy.ndimage import median_filter

from sgdmix_hub.data.images import square
from sgdmix_hub.method.mixing import LARGEST_HOLE
from sgdmix_hub.method.saliency.consensus import MASK_SIZE, consensus
from sgdmix_hub.metrics.mask_quality import best_fixed_iou, mask_iou
from sgdmix_hub.settings.saliency import SALIENCY_SOURCES

NEAR = 0.1  # share of the height over which a bar's surroundings are taken
EDGE = 0.04  # share of the height at either edge, where the cell ends and no bar is sought
DARKER = 0.06  # a bar is darker than its surroundings by this share of them
FLOOR = SALIENCY_SOURCES["consensus"].trusted_from


def busbars(grey: np.ndarray) -> np.ndarray:
    """The busbars of a cell: bool (h, w), whole rows of a grey image uint8 (h, w).

    The median over the width ignores cracks and cells that are dark in part.
    """
    height = len(grey)
    profile = np.median(grey.astype(np.float32), axis=1)
    around = median_filter(profile, size=round(NEAR * height) | 1, mode="nearest")
    bars = profile < (1 - DARKER) * around
    edge = round(EDGE * height)
    bars[:edge] = bars[height - edge :] = False
    return np.repeat(bars[:, None], grey.shape[1], axis=1)


def mirrored_iou(pixels: np.ndarray, resize: str) -> list[float]:
    """IoU of `consensus` masks of RGB images uint8 (n, h, w, 3) with those of their mirror images,
    mirrored back.
    """

    def mask(image: np.ndarray) -> np.ndarray:
        return consensus(np.asarray(square(Image.fromarray(image), MASK_SIZE, resize)))[0][None]

    return [float(mask_iou(mask(one), mask(one[:, ::-1])[..., ::-1])[0]) for one in pixels]


def mask_figures(masks: np.ndarray, confidences: np.ndarray, greys: np.ndarray) -> dict:
    """Of masks bool (n, h, w), their confidences (n,) and the grey images they cut (n, h, w)."""
    bars = np.stack([busbars(grey) for grey in greys])
    with_bars = bars.any(axis=(1, 2))
    cut, barred = masks[with_bars], bars[with_bars]
    return {
        "trusted": float((confidences >= FLOOR).mean()),
        "area": float(masks.mean()),
        "nearly all": float((masks.mean(axis=(1, 2)) > LARGEST_HOLE).mean()),
        "best fixed": best_fixed_iou(masks),
        "with bars": float(with_bars.mean()),
        "mask in bars": float((cut & barred).sum() / max(cut.sum(), 1)),
        "image in bars": float(barred.mean()) if len(barred) else float("nan"),
    }
