"""Library versions and devices: for the record of a run, and for bug reports (`sgdmix env`).

Neither contains names, paths or tokens.
"""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import cv2

from sgdmix_hub._version import __version__
from sgdmix_hub.errors import UserError, shown

# Their versions may change published bytes.
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

USAGE = "usage: sgdmix env\n\nPrints the versions of the libraries and the GPUs, for a bug report."


def report() -> str:
    """The text of `sgdmix env`: one fact per line."""
    import torch

    from sgdmix_hub.arithmetic import REPRODUCIBLE

    facts = {
        "sgdmix_hub": __version__,
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    facts |= {library: installed(library) for library in (*LIBRARIES, *ALSO_REPORTED)}
    kernels, products = torch.backends.cpu.get_cpu_capability(), os.environ.get("MKL_CBWR")
    facts["CPU kernels"] = f"{kernels}, MKL_CBWR {products or REPRODUCIBLE}"
    devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    kinds = [f"{devices.count(name)} x {name}" for name in sorted(set(devices))]
    facts["GPUs"] = ", ".join(kinds) or "none"
    return "\n".join(f"{name:<24}{value}" for name, value in facts.items())


def installed(library: str) -> str:
    """The library's version, or "not installed"."""
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"


def main(words: list[str]) -> None:
    """Prints the report. Raises `UserError` for any word."""
    if words[:1] in (["--help"], ["-h"]):
        print(USAGE)
    elif words:
        raise UserError(f"sgdmix env takes no settings: remove {shown(words[0])}")
    else:
        print(report())


def versions() -> dict[str, str]:
    """The versions that may change a run's bytes: of the libraries, and of this package."""
    return {library: _parsed_version(library) for library in LIBRARIES} | {
        "sgdmix_hub": __version__,
        "opencv": cv2.__version__,
    }


_parsed_version = cache(version)  # a tenth of a second for all of them
