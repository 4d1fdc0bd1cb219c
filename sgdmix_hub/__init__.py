"""SGD-Mix (arXiv 2505.11813) as a dataset generator for the Hugging Face Hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._version import __version__

if TYPE_CHECKING:
    from sgdmix_hub.publishing.read import load_published

__all__ = ["__version__", "load_published"]


def __getattr__(name: str):
    """Imports `load_published` on first use: it imports datasets and torch."""
    if name == "load_published":
        from sgdmix_hub.publishing.read import load_published

        return load_published
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
