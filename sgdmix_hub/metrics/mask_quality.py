"""An `evaluate` metric: how well masks match the true foreground, and the best fixed mask.

The functions take bool masks (n, h, w) and return one value in [0, 1] per image, float64 (n,), from
which intervals can be computed; the metric reports their means. For empty masks all functions
return 1 if both masks are empty and 0 if only one is.
"""

import math

import cv2
import datasets
import evaluate
import numpy as np

DESCRIPTION = (
    "Mean IoU, precision, recall and boundary F of masks against the true foreground, and the IoU "
    "of the best fixed mask."
)
BOUNDARY_TOLERANCE = 0.008  # share of the image diagonal within which boundaries match: DAVIS's


class MaskQuality(evaluate.Metric):
    """`compute(predictions=, references=)` with lists of 0/1 masks of one size.

    Returns means over the images, all in [0, 1]:
    - `iou`, `precision`, `recall`: of pixels. Background in the mask lowers precision, missing
      foreground lowers recall;
    - `boundary_f`: of outlines, which hardly affect the pixel counts of a large foreground;
    - `best_fixed_iou`: of the same mask for all images, the mean of the true masks at its best
      threshold. Any method that looks at the images should exceed it.

    Raises `ValueError` for masks of different sizes.
    """

    def _info(self):
        mask = datasets.Sequence(datasets.Sequence(datasets.Value("uint8")))
        features = datasets.Features({"predictions": mask, "references": mask})
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation="", inputs_description="", features=features
        )

    def _compute(self, **columns):
        return mask_quality(
            **{name: np.asarray(column, dtype=bool) for name, column in columns.items()}
        )


def mask_quality(predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """The metric's figures, of bool masks (n, h, w)."""
    return {
        "iou": float(mask_iou(predictions, references).mean()),
        "precision": float(mask_precision(predictions, references).mean()),
        "recall": float(mask_recall(predictions, references).mean()),
        "boundary_f": float(boundary_f(predictions, references).mean()),
        "best_fixed_iou": best_fixed_iou(references),
    }


def mask_iou(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """float64 (n,): intersection over union of bool masks (n, h, w)."""
    union = (predicted | true).sum(axis=(1, 2))
    intersection = (predicted & true).sum(axis=(1, 2))
    return np.where(union == 0, 1.0, intersection / np.maximum(union, 1))


def mask_precision(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """float64 (n,): share of the predicted pixels that are true, of bool masks (n, h, w)."""
    both_empty = ~(predicted | true).any(axis=(1, 2))
    intersection = (predicted & true).sum(axis=(1, 2))
    return np.where(both_empty, 1.0, intersection / np.maximum(predicted.sum(axis=(1, 2)), 1))


def mask_recall(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """float64 (n,): share of the true pixels that are predicted, of bool masks (n, h, w)."""
    return mask_precision(true, predicted)


def boundary_f(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """float64 (n,): the boundary measure F = 2PR / (P + R) of DAVIS, of bool masks (n, h, w).

    P is the share of predicted boundary pixels that are near a true one: within 0.008 of the image
    diagonal, rounded up to whole pixels. R is the share of true ones near a predicted one (Perazzi
    et al., CVPR 2016; like its code, this dilates by a disc).

    One case differs: an empty mask and a mask of the whole image both have no boundary. DAVIS gives
    this pair 1, this function gives 0; it gives 1 for equal masks only.
    """
    predicted_boundary, true_boundary = boundary(predicted), boundary(true)
    radius = math.ceil(BOUNDARY_TOLERANCE * math.hypot(*true.shape[1:]))
    precision = share_near(predicted_boundary, true_boundary, radius)
    recall = share_near(true_boundary, predicted_boundary, radius)
    measure = 2 * precision * recall / np.maximum(precision + recall, np.finfo(np.float64).tiny)
    return np.where((predicted == true).all(axis=(1, 2)), 1.0, measure)


def boundary(masks: np.ndarray) -> np.ndarray:
    """bool (n, h, w): pixels that differ from their right, lower or lower right neighbour.

    The boundary is one pixel wide and excludes the image's frame, as `seg2bmap` of the Berkeley
    benchmark and DAVIS.
    """
    padded = np.pad(masks, ((0, 0), (0, 1), (0, 1)), mode="edge")
    right, below, diagonal = padded[:, :-1, 1:], padded[:, 1:, :-1], padded[:, 1:, 1:]
    return (masks != right) | (masks != below) | (masks != diagonal)


def share_near(points: np.ndarray, others: np.ndarray, radius: int) -> np.ndarray:
    """float64 (n,): share of the points within `radius` pixels of any of the others.

    `points`, `others`: bool (n, h, w). 0 without points.
    """
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    # OpenCV's own ellipse differs from this disc for radii of 2 and more
    disc = (x * x + y * y <= radius * radius).astype(np.uint8)
    near = np.stack([cv2.dilate(image.astype(np.uint8), disc) for image in others]).astype(bool)
    return (points & near).sum(axis=(1, 2)) / np.maximum(points.sum(axis=(1, 2)), 1)


def best_fixed_iou(true: np.ndarray) -> float:
    """Mean IoU of the best thresholded mean mask, over bool masks (n, h, w)."""
    mean = true.mean(axis=0)
    candidates = [
        np.broadcast_to(mean >= t, true.shape) for t in np.linspace(0.05, 0.95, 19) * mean.max()
    ]
    candidates.append(np.zeros_like(true))
    return float(max(mask_iou(fixed, true).mean() for fixed in candidates))
