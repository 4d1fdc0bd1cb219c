"""How much of a GPU's matrix-product rate the UNet reaches, and what its time goes to."""

from __future__ import annotations

import re
import time
from collections import defaultdict

import torch
from diffusers import UNet2DConditionModel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

SIDE, PRODUCTS, CALLS, TOKENS = 8192, 20, 5, 77
# names of kernels, in this order: attention is made of products too, and what fits nothing is norms
# and the like
KINDS = {
    "attention": r"flash|fmha|attention|sdpa",
    "layout and copies": r"nchwtonhwc|nhwctonchw|transpose|copy|cat|memcpy|memset",
    "matrix products and convolutions": (
        r"gemm|cutlass|xmma|cudnn|conv|nvjet|wgmma|_mm|addmm|matmul"
    ),
}
OTHERS = "norms, activations, sums"


def unet_alone(unet: UNet2DConditionModel, batch: int) -> dict:
    """FLOP/s of a UNet, plain and compiled, relative to a large matrix product on the same device.

    Also the shares of a call's time by kind of kernel.
    """
    inputs = unet_inputs(unet, batch, TOKENS)
    flops, product = call_flops(unet, inputs), product_rate(unet.device, unet.dtype)
    found = []
    for compiled in (False, True):
        if compiled:
            unet.compile(dynamic=False)
        seconds, kernels = kernel_shares(unet, inputs)
        found.append(
            {
                "compiled": compiled,
                "tflops": flops / seconds / 1e12,
                "share": flops / seconds / product,
                "kernels": kernels,
            }
        )
    return {
        "batch": batch,
        "dtype": str(unet.dtype).removeprefix("torch."),
        "product_tflops": product / 1e12,
        "runs": found,
    }


def unet_inputs(unet, batch: int, tokens: int) -> dict:
    """Inputs of one call, in the shapes that the sampler gives them."""
    config, options = unet.config, {"device": unet.device, "dtype": unet.dtype}
    latents = torch.randn(
        batch, config.in_channels, config.sample_size, config.sample_size, **options
    )
    embeds = torch.randn(batch, tokens, config.cross_attention_dim, **options)
    return {
        "sample": latents,
        "timestep": torch.tensor(500, device=unet.device),
        "encoder_hidden_states": embeds,
        "return_dict": False,
    }


@torch.no_grad()
def call_flops(unet, inputs: dict) -> int:
    """Floating-point operations of one call, counted in an eager one."""
    with FlopCounterMode(display=False) as counter:
        unet.forward(**inputs)
    return counter.get_total_flops()


def product_rate(device: torch.device, dtype: torch.dtype, side: int = SIDE) -> float:
    """FLOP/s of a square matrix product."""
    factor = torch.randn(side, side, device=device, dtype=dtype)
    for _ in range(3):
        factor @ factor
    _wait(device)
    started = time.perf_counter()
    for _ in range(PRODUCTS):
        factor @ factor
    _wait(device)
    return PRODUCTS * 2 * side**3 / (time.perf_counter() - started)


@torch.no_grad()
def kernel_shares(unet, inputs: dict) -> tuple[float, dict[str, float]]:
    """Seconds of a UNet call, and its shares by kind of kernel; `idle`: the device waited."""
    device = unet.device
    for _ in range(2):
        unet(**inputs)
    _wait(device)
    started = time.perf_counter()
    for _ in range(CALLS):
        unet(**inputs)
    _wait(device)
    wall = time.perf_counter() - started  # without the profiler, which slows the calls down
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(CALLS):
            unet(**inputs)
        _wait(device)
    seconds = defaultdict(float)
    for event in profiler.key_averages():
        seconds[kind_of(event.key)] += event.self_device_time_total / 1e6
    shares = {kind: spent / wall for kind, spent in seconds.items()}
    return wall / CALLS, shares | {"idle": max(0.0, 1 - sum(shares.values()))}


def kind_of(kernel: str) -> str:
    """The kind of a kernel, by its name; the compiler's (`triton_`) hold no products."""
    if not kernel.startswith("triton_"):
        for kind, pattern in KINDS.items():
            if re.search(pattern, kernel, re.IGNORECASE):
                return kind
    return OTHERS


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
