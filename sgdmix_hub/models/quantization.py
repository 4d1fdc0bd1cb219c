"""Denoisers whose weights are held in fewer bits, by bitsandbytes or torchao."""

from __future__ import annotations

import logging
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch

from sgdmix_hub.errors import UserError

# quantization -> the package that it needs, and about how many bytes a weight takes
QUANTIZATIONS = {
    "bitsandbytes-8bit": ("bitsandbytes", 1.0),
    "bitsandbytes-4bit": ("bitsandbytes", 0.56),  # with one scale a block of 64
    "torchao-int8": ("torchao", 1.0),
}


def check_package(quantization: str) -> None:
    """Raises `UserError` if a quantization's package is not installed, or needs a GPU."""
    package, _ = QUANTIZATIONS[quantization]
    if find_spec(package) is None:
        raise UserError(f"quantization {quantization} needs the package {package}: install it")
    if package == "bitsandbytes" and not torch.cuda.is_available():
        raise UserError(f"quantization {quantization} needs a GPU: torchao-int8 does not")


def quantization_versions(quantization: str | None) -> dict[str, str]:
    """The version of the package that quantizes, if it is installed; for a run's record."""
    package = "" if quantization is None else QUANTIZATIONS[quantization][0]
    return {package: version(package)} if package and find_spec(package) else {}


def quantization_config(quantization: str, part: str, dtype: torch.dtype) -> Any:
    """diffusers' config that quantizes one part of a pipeline. Raises `UserError`.

    `dtype`: in which it computes.
    """
    check_package(quantization)
    from diffusers.quantizers import PipelineQuantizationConfig

    if quantization == "torchao-int8":
        from diffusers import TorchAoConfig

        # by name: the package is no requirement
        config: Any = import_module("torchao.quantization").Int8WeightOnlyConfig()
        mapping: Any = {part: TorchAoConfig(config)}
        return PipelineQuantizationConfig(quant_mapping=mapping)
    # it warns of the dtype in every layer of every step
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    options: dict[str, Any] = {"load_in_8bit": True}
    if quantization == "bitsandbytes-4bit":
        options = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_compute_dtype": dtype,
        }
    backend = quantization.replace("-", "_")
    return PipelineQuantizationConfig(
        quant_backend=backend, quant_kwargs=options, components_to_quantize=[part]
    )
