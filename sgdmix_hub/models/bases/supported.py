"""Which base models a run can use, told from their small files before any weight is fetched."""

from __future__ import annotations

import re
from pathlib import Path

from sgdmix_hub.errors import UserError, first_line, shown
from sgdmix_hub.files import read_json
from sgdmix_hub.hub.pins import Pin, local_folder

from .families import BY_CLASS_NAME, titles
from .family import Family

ADVICE = f"use a base of {titles()}"
INDEX, SCHEDULE = "model_index.json", "scheduler/scheduler_config.json"
PART = re.compile(r"\w[\w-]*", re.ASCII)
LONGEST_SCHEDULE = 100_000  # noise levels; Stable Diffusion has 1,000


def check_supported(base: Pin) -> Family:
    """The family of a base. Raises `UserError` unless a run can use it."""
    folder = Path(local_folder(base, [INDEX, SCHEDULE, "*/config.json"]))
    index = read_index(base, folder)
    kind = index.get("_class_name")
    family = BY_CLASS_NAME.get(kind) if isinstance(kind, str) else None
    if family is None:
        raise UserError(f"the base model {base.name} is a {shown(kind)}: {ADVICE}")
    configs = {
        part: read_part(base, folder, f"{part}/config.json") for part in (family.denoiser, "vae")
    }
    levels = read_part(base, folder, SCHEDULE).get("num_train_timesteps", 1000)
    if type(levels) is not int or not 1 <= levels <= LONGEST_SCHEDULE:
        raise UserError(
            f"the base model {base.name} has {shown(levels)} noise levels, "
            f"not 1 to {LONGEST_SCHEDULE}: {ADVICE}"
        )
    fault = family.fault(index, configs)
    if fault is not None:
        raise UserError(f"the base model {base.name} has {fault}: {ADVICE}")
    return family


def check_sampling(base: Pin, scheduler: str, timestep_spacing: str | None) -> Family:
    """The family of a base. Raises `UserError` unless a run can use it with this sampler."""
    family = check_supported(base)
    config = read_part(base, Path(local_folder(base, [SCHEDULE])), SCHEDULE)
    try:
        family.scheduler(config, scheduler, timestep_spacing)
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UserError(
            f"{SCHEDULE} of the base model {base.name} makes no sampler: {first_line(error)}"
        ) from error
    return family


def absent_parts(base: Pin, family: Family) -> dict[str, None]:
    """The parts that this base comes without, although its pipelines have them."""
    index = read_index(base, Path(local_folder(base, [INDEX])))
    optional = [encoder for encoder in family.encoders if encoder.optional]
    parts = [part for encoder in optional for part in (encoder.model, encoder.tokenizer)]
    return {part: None for part in parts if index.get(part) in (None, [None, None])}


def read_index(base: Pin, folder: Path) -> dict:
    """The parts of a base and their classes. Raises `UserError`, also for a part that is no plain
    name: parts are folders.
    """
    index = read_part(base, folder, INDEX)
    odd = [name for name in index if not PART.fullmatch(name)]
    if odd:
        raise UserError(f"{INDEX} of the base model {base.name} names a part {shown(odd[0])}")
    return index


def read_part(base: Pin, folder: Path, name: str) -> dict:
    """One of the small files. Raises `UserError`."""
    try:
        values = read_json(folder / name)
    except FileNotFoundError:
        raise UserError(
            f"the base model {base.name} has no {name}, so it is not a complete diffusers "
            f"pipeline: {ADVICE}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{name} of the base model {base.name} cannot be read: {shown(error)}"
        ) from error
    if not isinstance(values, dict):
        raise UserError(f"{name} of the base model {base.name} holds no settings of a model")
    return values
