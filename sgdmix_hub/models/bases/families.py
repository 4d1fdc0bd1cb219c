"""The families of base models, found by what model_index.json says."""

from __future__ import annotations

from typing import Any

from .family import Family
from .flux import Flux
from .flux_2_klein import Flux2Klein
from .qwen_image import QwenImage
from .stable_diffusion import StableDiffusion
from .stable_diffusion_3 import StableDiffusion3
from .stable_diffusion_xl import StableDiffusionXL
from .z_image import ZImage

FAMILIES: tuple[Family, ...] = (
    StableDiffusion(),
    StableDiffusionXL(),
    ZImage(),
    StableDiffusion3(),
    Flux(),
    Flux2Klein(),
    QwenImage(),
)
BY_CLASS_NAME = {name: family for family in FAMILIES for name in family.class_names}
BY_NAME = {family.name: family for family in FAMILIES}


def name_in(facts: dict[str, Any]) -> str:
    """The family that an adapter.json names; one that names none is of Stable Diffusion 1 or 2."""
    return facts.get("family", StableDiffusion.name)


def titles() -> str:
    """The families in words."""
    return " or ".join(family.title for family in FAMILIES)


def families_table() -> str:
    """The families as a Markdown table, for docs/extending.md."""
    rows = [
        f"| {family.title} | `{family.name}` | {_code(family.class_names)} | `{family.denoiser}` "
        f"| {_code(family.lora_targets)} | {_code(encoder.model for encoder in family.encoders)} "
        f"| `{family.license}` |"
        for family in FAMILIES
    ]
    head = "| family | in adapter.json | `_class_name` | denoiser | LoRA on | tokens in | licence |"
    return "\n".join([head, "|---|---|---|---|---|---|---|", *rows])


def _code(names) -> str:
    return ", ".join(f"`{name}`" for name in names)
