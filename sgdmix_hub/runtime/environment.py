"""Versions and devices: those that have a hand in a run's bytes, and what `sgdmix env` says for a
bug report: no names, paths or tokens.
"""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import cv2

from sgdmix_hub._version import __version__
from sgdmix_hub.errors import UserError, shown

LIBRARIES = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "datasets",
    "pyarrow",
    "pillow",
    "numpy",
    "scipy",
    "scikit-image",
    "grad-cam",
)
ALSO_REPORTED = ("torchvision", "accelerate", "huggingface_hub", "opencv-python-headless")


def report() -> str:
    """One line a fact."""
    import torch

    facts = {
        "sgdmix_hub": __version__,
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    facts |= {library: installed(library) for library in (*LIBRARIES, *ALSO_REPORTED)}
    devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    facts["GPUs"] = (
        ", ".join(f"{devices.count(name)} x {name}" for name in sorted(set(devices))) or "none"
    )
    return "\n".join(f"{name:<24}{value}" for name, value in facts.items())


def installed(library: str) -> str:
    """The library's version, or that it is missing."""
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"


def main(words: list[str]) -> None:
    """Prints the report. Raises `UserError` for any word."""
    if words:
        raise UserError(f"sgdmix env takes no settings: {shown(words[0])}")
    print(report())


def versions() -> dict[str, str]:
    """The libraries that have a hand in the bytes."""
    return {library: version(library) for library in LIBRARIES} | {
        "sgdmix_hub": __version__,
        "opencv": cv2.__version__,
    }
