"""The loss of a classifier, on labels that are classes or shares of classes."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import cross_entropy


def classification_loss(
    outputs,
    labels: torch.Tensor,
    num_items_in_batch=None,
    *,
    label_smoothing: float,
    log_prior: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross-entropy with label smoothing, the mean over images: a `compute_loss_func` of
    transformers' Trainer, whose own label smoother takes no soft labels.

    `labels`: int64 (B,), or float (B, classes) with rows that sum to 1, of which (1 - s) y + s /
    classes is left by a smoothing of s. `num_items_in_batch`: how many values the labels of one
    optimizer step hold, over all processes; this batch's when not given. `log_prior`: float
    (classes,) that is added to the logits.
    """
    logits = outputs["logits"].float()
    if log_prior is not None:
        logits = logits + log_prior.to(logits.device)
    loss = cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="sum")
    if num_items_in_batch is None:
        return loss / len(labels)
    return loss * (labels[0].numel() / num_items_in_batch)


def balanced_softmax_prior(counts: np.ndarray) -> torch.Tensor:
    """float32 (classes,): log of the training images of each class, int64 (classes,), none counting
    as one. As `log_prior` it makes the loss balanced softmax (Ren et al., NeurIPS 2020); nothing is
    added when the classifier is used.
    """
    return torch.from_numpy(np.maximum(counts, 1)).float().log()
