"""What a base model needs in memory, from the headers of its files, and how it is made to fit.

The weights need not be here for it: of a repository only the headers are fetched.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from huggingface_hub import HfApi
from safetensors import safe_open

from sgdmix_hub.errors import UserError, first_line
from sgdmix_hub.hub.client import fetch
from sgdmix_hub.hub.pins import Pin, local_folder

from .bases.supported import INDEX, SHARDED, check_supported, read_index, shards_in
from .quantization import QUANTIZATIONS

# whose encodings a refiner keeps, one for inpainting; one of SD takes 0.5 MB with its negative
MOST_PROMPTS = 512
NAMES = ("diffusion_pytorch_model", "model")  # of a network's weights; variants have others
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Need:
    """The weights of a base: how many each network has. `denoiser`, `encoders`: their names."""

    weights: dict[str, int]
    denoiser: str
    encoders: tuple[str, ...]

    def gigabytes(self, dtype: str, quantization: str | None = None) -> dict[str, float]:
        """GB of every network's weights in a precision; of a quantized denoiser's, about."""
        size = dict.fromkeys(self.weights, float(BYTES[dtype]))
        if quantization is not None:
            size[self.denoiser] = QUANTIZATIONS[quantization][1]
        return {name: count * size[name] / 1e9 for name, count in self.weights.items()}


def need_of(base: Pin, safety_checker: bool) -> Need:
    """The weights of a pinned base, which is not loaded. Raises `UserError`."""
    family = check_supported(base)
    folder = Path(local_folder(base, [INDEX, f"*/*{SHARDED}"]))
    parts = [name for name, stated in read_index(base, folder).items() if _is_part(name, stated)]
    if not safety_checker:
        parts = [name for name in parts if name != "safety_checker"]
    present = _files(base, folder)
    weights = {}
    for part in parts:
        files = _files_of(base, folder, part, present)
        if files:
            weights[part] = sum(_count(base, folder, name) for name in files)
    encoders = tuple(encoder.model for encoder in family.encoders)
    return Need(weights, family.denoiser, encoders)


def listed(held: dict[str, float]) -> str:
    """GB of every network as text, the largest first."""
    parts = sorted(held.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {size:.2f}" for name, size in parts)


def gpu_room() -> float | None:
    """GB of this process's GPU; None without one."""
    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / 1e9


def _is_part(name: str, stated: object) -> bool:
    return not name.startswith("_") and isinstance(stated, list) and len(stated) == 2 and stated[0]


def _files(base: Pin, folder: Path) -> set[str]:
    """The names of a base's files, of all or of those that are cached. Raises `UserError`."""
    if base.path is None:
        try:
            return set(HfApi().list_repo_files(base.name, revision=base.revision))
        except Exception:  # offline, or out of reach: the snapshot may still be whole
            pass
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors")}


def _files_of(base: Pin, folder: Path, part: str, present: set[str]) -> list[str]:
    """The files of a network's weights; none for a tokenizer. Raises `UserError`."""
    for name in NAMES:
        whole, index = f"{part}/{name}.safetensors", f"{part}/{name}{SHARDED}"
        if whole in present:
            return [whole]
        if (folder / index).is_file():
            shards = shards_in(base, folder, index)
            return sorted({f"{part}/{shard}" for shard in shards.values()})
    return []


def _count(base: Pin, folder: Path, name: str) -> int:
    """The weights in one file, whose header alone is read. Raises `UserError`."""
    if (folder / name).is_file():
        try:
            with safe_open(folder / name, "pt") as file:
                return sum(prod(file.get_slice(key).get_shape()) for key in list(file.keys()))
        except Exception as error:
            raise UserError(f"{name} of {base.name} cannot be read: {first_line(error)}") from error
    if base.is_local:
        raise UserError(f"the base model {base.name} has no {name}: download it again")
    metadata = fetch(
        lambda: HfApi().parse_safetensors_file_metadata(base.name, name, revision=base.revision),
        str(base),
    )
    return sum(metadata.parameter_count.values())
