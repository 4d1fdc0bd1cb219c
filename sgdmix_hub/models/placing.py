"""Where a pipeline's networks are and how they are run: offloaded, sliced, compiled."""

from __future__ import annotations

from typing import Any

import torch

from sgdmix_hub.errors import UserError
from sgdmix_hub.settings.method import MethodSettings

from .bases.family import Pipeline


def prepare_vae(pipeline: Pipeline, settings: MethodSettings) -> None:
    """Slices or tiles the autoencoder's work, if asked. Raises `UserError` if it cannot."""
    for name in ("vae_slicing", "vae_tiling"):
        if getattr(settings, name):
            enable = getattr(pipeline.vae, name.replace("vae_", "enable_"), None)
            if enable is None:
                raise UserError(f"{name}: {type(pipeline.vae).__name__} cannot, leave it out")
            enable()


def move(pipeline: Any, device: torch.device, dtype: torch.dtype, quantized: Any = None) -> None:
    """Moves the networks to a device in a precision, which a quantized one has already."""
    if quantized is None:
        pipeline.to(device, dtype)
        return
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.to(device) if part is quantized else part.to(device, dtype)


def offload(pipeline: Any, kind: str | None, device: torch.device) -> None:
    """Keeps the networks in main memory, and brings each, or each layer, to the device when it is
    run. Without a `kind` they stay where they are.
    """
    if kind == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif kind == "group":
        pipeline.enable_group_offload(
            device, offload_type="leaf_level", use_stream=device.type == "cuda"
        )


def compile_networks(denoiser: Any, pipeline: Pipeline, settings: MethodSettings) -> None:
    """Compiles the denoiser, or the blocks that it repeats, and the autoencoder, if asked."""
    if not settings.compile:
        return
    if settings.regional_compile and getattr(denoiser, "_repeated_blocks", None):
        denoiser.compile_repeated_blocks(dynamic=False)
    else:
        denoiser.compile(dynamic=False)
    for part in (pipeline.vae.encoder, pipeline.vae.decoder):
        part.compile(dynamic=False)
