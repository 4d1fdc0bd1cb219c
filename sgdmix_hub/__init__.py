"""SGD-Mix (arXiv 2505.11813) as a dataset generator for the Hugging Face Hub."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ._version import __version__

if TYPE_CHECKING:
    from sgdmix_hub.mixed import MixedDataset, SGDMixTransform
    from sgdmix_hub.publishing.read import load_published

__all__ = ["MixedDataset", "SGDMixTransform", "__version__", "load_published"]
HOMES = {
    "load_published": "sgdmix_hub.publishing.read",
    "MixedDataset": "sgdmix_hub.mixed",
    "SGDMixTransform": "sgdmix_hub.mixed",
}


def __getattr__(name: str):
    """Imports a public name on first use: its module imports datasets and torch."""
    if name in HOMES:
        return getattr(import_module(HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
