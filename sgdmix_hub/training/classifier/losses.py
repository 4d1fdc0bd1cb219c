"""The loss of a classifier, for hard and soft labels."""

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
    """Mean cross-entropy with label smoothing, a `compute_loss_func` of transformers' Trainer.

    The Trainer's own label smoother takes no soft labels. `labels`: int64 (B,), or float (B,
    classes) with rows that sum to 1; smoothing s makes (1 - s) y + s / classes of them.
    `num_items_in_batch`: the number of label values in one optimizer step, over all processes; by
    default this batch's. `log_prior`: float (classes,), added to the logits.
    """
    logits = outputs["logits"].float()
    if log_prior is not None:
        logits = logits + log_prior.to(logits.device)
    loss = cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="sum")
    if num_items_in_batch is None:
        return loss / len(labels)
    return loss * (labels[0].numel() / num_items_in_batch)


def balanced_softmax_prior(counts: np.ndarray) -> torch.Tensor:
    """The `log_prior` of balanced softmax (Ren et al., NeurIPS 2020): float32 (classes,).

    It is the log of each class's training images, `counts` int64 (classes,), where 0 counts as 1.
    The trained classifier is used without it.
    """
    return torch.from_numpy(np.maximum(counts, 1)).float().log()
