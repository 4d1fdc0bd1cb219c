"""Settings that make a diffusion model fit a small card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .fields import Checked, setting

Quantization = Literal["bitsandbytes-8bit", "bitsandbytes-4bit", "torchao-int8"]


@dataclass(kw_only=True)
class MemorySettings(Checked):
    """Where and how the networks of a diffusion model are held and run."""

    quantization: Quantization | None = setting(
        None,
        "hold the denoiser's weights in 8 or 4 bits, for bases that do not fit; needs the package "
        "of that name",
    )
    vae_tiling: bool | None = setting(
        None, "run the autoencoder tile by tile, for large images on small cards; seams may differ"
    )
    vae_slicing: bool | None = setting(
        None,
        "run the autoencoder image by image: less memory, a little slower",
        changes="last_bits",
    )
    cpu_offload: Literal["model", "group"] | None = setting(
        None,
        "keep the networks in main memory, and bring each network, or each layer, to the GPU when "
        "it is run: for small cards, slower",
        changes="nothing",
    )
    regional_compile: bool | None = setting(
        None,
        "with compile: only the blocks that the denoiser repeats, which starts much sooner",
        changes="last_bits",
    )
