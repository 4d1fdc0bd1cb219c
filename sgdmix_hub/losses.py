"""The loss of a classifier, on labels that are classes or shares of classes."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy


def classification_loss(outputs, labels: torch.Tensor, num_items_in_batch=None, *, label_smoothing: float) -> torch.Tensor:
    """Cross-entropy with label smoothing, the mean over images: a `compute_loss_func` of transformers' Trainer, whose own label smoother
    takes no soft labels.

    `labels`: int64 (B,), or float (B, classes) with rows that sum to 1, of which (1 - s) y + s / classes is left by a smoothing of s.
    `num_items_in_batch`: how many values the labels of one optimizer step hold, over all processes; this batch's when not given.
    """
    loss = cross_entropy(outputs["logits"].float(), labels, label_smoothing=label_smoothing, reduction="sum")
    if num_items_in_batch is None:
        return loss / len(labels)
    return loss * (labels[0].numel() / num_items_in_batch)
