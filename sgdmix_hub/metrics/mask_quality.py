"""How well masks find the true foreground, beside the best mask that looks at no image, as an
`evaluate` metric.

The functions take bool masks (n, h, w) and return one value in [0, 1] per image, float64 (n,),
because an interval needs them; the metric reports their means. Empty masks follow one convention: 1
where both masks are empty, 0 where only one is.
"""

import math

import cv2
import datasets
import evaluate
import numpy as np

DESCRIPTION = "Mean IoU, precision, recall and boundary F of masks against the true foreground, and the IoU of the best fixed mask."
BOUNDARY_TOLERANCE = 0.008  # share of the image diagonal within which boundaries match: DAVIS's


class MaskQuality(evaluate.Metric):
    """`compute(predictions=, references=)` with lists of equally large 0/1 masks -> means over
    images, all in [0, 1].

    - `iou`, `precision`, `recall`: on pixels; precision falls with background in the mask, recall
      with foreground left out;
    - `boundary_f`: on outlines, which the pixel counts of a large foreground hardly see;
    - `best_fixed_iou`: of the mean of the true masks, cut where its own mean IoU is highest: what
      can be reached without looking.

    ValueError for masks that are not all of one size.
    """

    def _info(self):
        mask = datasets.Sequence(datasets.Sequence(datasets.Value("uint8")))
        features = datasets.Features({"predictions": mask, "references": mask})
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation="", inputs_description="", features=features
        )

    def _compute(self, predictions, references):
        predicted = np.asarray(predictions, dtype=bool)
        true = np.asarray(references, dtype=bool)
        return {
            "iou": float(mask_iou(predicted, true).mean()),
            "precision": float(mask_precision(predicted, true).mean()),
            "recall": float(mask_recall(predicted, true).mean()),
            "boundary_f": float(boundary_f(predicted, true).mean()),
            "best_fixed_iou": best_fixed_iou(true),
        }


def mask_iou(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """float64 (n,): intersection over union of bool masks (n, h, w); 1 where both are empty."""
    union = (predicted | true).sum(axis=(1, 2))
    intersection = (predicted & true).sum(axis=(1, 2))
    return np.where(union == 0, 1.0, intersection / np.maximum(union, 1))


def mask_precision(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """float64 (n,): share of the predicted pixels that are true, of bool masks (n, h, w); 1 where
    both are empty, 0 where one is.
    """
    both_empty = ~(predicted | true).any(axis=(1, 2))
    intersection = (predicted & true).sum(axis=(1, 2))
    return np.where(both_empty, 1.0, intersection / np.maximum(predicted.sum(axis=(1, 2)), 1))


def mask_recall(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """float64 (n,): share of the true pixels that were predicted, of bool masks (n, h, w); 1 where
    both are empty, 0 where one is.
    """
    return mask_precision(true, predicted)


def boundary_f(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """float64 (n,): the boundary measure F = 2PR / (P + R) of bool masks (n, h, w), as the DAVIS
    benchmark takes it.

    P is the share of the predicted mask's boundary pixels within a distance of the true one's
    (0.008 of the image diagonal, rounded up to whole pixels), R the converse (Perazzi et al., CVPR
    2016; its code dilates by a disc, and so does this). One case differs: the empty mask and the
    whole image both have no boundary, and DAVIS gives such a pair 1; here that is 0, and 1 for
    equal masks only.
    """
    predicted_boundary, true_boundary = boundary(predicted), boundary(true)
    radius = math.ceil(BOUNDARY_TOLERANCE * math.hypot(*true.shape[1:]))
    precision = share_near(predicted_boundary, true_boundary, radius)
    recall = share_near(true_boundary, predicted_boundary, radius)
    measure = 2 * precision * recall / np.maximum(precision + recall, np.finfo(np.float64).tiny)
    return np.where((predicted == true).all(axis=(1, 2)), 1.0, measure)


def boundary(masks: np.ndarray) -> np.ndarray:
    """bool (n, h, w): the pixels of bool masks (n, h, w) that differ from their right, lower or
    lower right neighbour.

    That is one pixel wide and blind to the image's frame, as `seg2bmap` of the Berkeley benchmark
    and DAVIS.
    """
    padded = np.pad(masks, ((0, 0), (0, 1), (0, 1)), mode="edge")
    right, below, diagonal = padded[:, :-1, 1:], padded[:, 1:, :-1], padded[:, 1:, 1:]
    return (masks != right) | (masks != below) | (masks != diagonal)


def share_near(points: np.ndarray, others: np.ndarray, radius: int) -> np.ndarray:
    """float64 (n,): share of the points within `radius` pixels of any other point; bool (n, h, w)
    each; 0 where there are no points.
    """
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = (x * x + y * y <= radius * radius).astype(
        np.uint8
    )  # OpenCV's own ellipse is not this disc from a radius of 2 on
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
