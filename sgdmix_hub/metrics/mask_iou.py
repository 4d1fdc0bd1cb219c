"""How well masks find the true foreground, beside the best mask that looks at no image, as an `evaluate` metric."""

import datasets
import evaluate
import numpy as np

DESCRIPTION = "Mean intersection over union with the true foreground, and the same for the best fixed mask."


class MaskIoU(evaluate.Metric):
    """`compute(predictions=, references=)` with lists of equally large 0/1 masks -> `iou`, `best_fixed_iou`, both in [0, 1].

    The fixed mask is the mean of the true masks, cut where its own mean IoU is highest: what can be reached without looking.
    """

    def _info(self):
        mask = datasets.Sequence(datasets.Sequence(datasets.Value("uint8")))
        features = datasets.Features({"predictions": mask, "references": mask})
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        predicted = np.asarray(predictions, dtype=bool)
        true = np.asarray(references, dtype=bool)
        return {"iou": float(mask_iou(predicted, true).mean()), "best_fixed_iou": best_fixed_iou(true)}


def mask_iou(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """float64 (n,): intersection over union of bool masks (n, h, w); 1 where both are empty."""
    union = (predicted | true).sum(axis=(1, 2))
    intersection = (predicted & true).sum(axis=(1, 2))
    return np.where(union == 0, 1.0, intersection / np.maximum(union, 1))


def best_fixed_iou(true: np.ndarray) -> float:
    """Mean IoU of the best thresholded mean mask, over bool masks (n, h, w)."""
    mean = true.mean(axis=0)
    candidates = [np.broadcast_to(mean >= t, true.shape) for t in np.linspace(0.05, 0.95, 19) * mean.max()]
    candidates.append(np.zeros_like(true))
    return float(max(mask_iou(fixed, true).mean() for fixed in candidates))
