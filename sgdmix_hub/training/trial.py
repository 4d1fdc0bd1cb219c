"""A pass that is run to see whether it fits into memory, and that leaves nothing behind."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch


@contextmanager
def on_trial(model: torch.nn.Module, device: torch.device) -> Generator[None, None, None]:
    """Afterwards the model has its buffers as before and no gradients, and the random state is as
    before, even if the pass ran out of memory in its middle. `device`: where the model is.
    """
    buffers = [buffer.clone() for buffer in model.buffers()]
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        model.zero_grad()
        for buffer, before in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(before)
