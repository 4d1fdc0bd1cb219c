"""A classifier made ready for its share of the total batch: memory, and batch statistics."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import torch

from sgdmix_hub.settings.fields import AUTO
from sgdmix_hub.settings.training import ClassifierSettings
from sgdmix_hub.training.batch_norm import batch_norm_layers, share_statistics
from sgdmix_hub.training.precision import dtype_of
from sgdmix_hub.training.share import Share, fitted
from sgdmix_hub.training.trial import on_trial

logger = logging.getLogger(__name__)


def ready_for_share(
    settings: ClassifierSettings, model: Any, size: int, share: Share
) -> tuple[Any, Share]:
    """The model with batch statistics over all processes, and the share in batches that fit.

    `size`: side of the inputs. Without batch normalisation the model stays as it is. A collective
    on GPUs. Warns if the statistics cannot be those of the total batch.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if settings.per_device_train_batch_size == AUTO and device.type == "cuda":
        share = fitted(share, partial(attempt, settings, model, size, device))
    if batch_norm_layers(model) and share.num_processes > 1:
        model = share_statistics(model, device.type == "cuda")
    if (seen := batch_norm_samples(model, share)) not in (None, share.total_batch):
        logger.warning(
            "batch normalisation sees %d of the %d samples of a step, because the rest is "
            "accumulated: start more processes, or give a smaller total_batch_size, for the result "
            "of the recipe",
            seen,
            share.total_batch,
        )
    return model, share


def batch_norm_samples(model: torch.nn.Module, share: Share) -> int | None:
    """Over how many samples batch statistics are computed; None without batch normalisation."""
    return share.batch_size * share.num_processes if batch_norm_layers(model) else None


def attempt(
    settings: ClassifierSettings, model: Any, size: int, device: torch.device, images: int
) -> None:
    """A forward and backward pass of that many images, beside all that the training keeps.

    The model's weights and buffers stay as they are, and so does the random state.
    """
    model.to(device).train()
    # gradients as DDP copies them, and the two moments of AdamW
    kept = [torch.empty_like(weight) for weight in model.parameters() for _ in range(3)]
    dtype = dtype_of(settings)
    with on_trial(model, device):
        inputs = torch.randn(images, 3, size, size, device=device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = model(pixel_values=inputs).logits
        logits.float().square().mean().backward()
    del kept
