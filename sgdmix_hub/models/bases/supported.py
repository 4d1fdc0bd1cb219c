"""Which base models a run can use, told from their small files before any weight is fetched."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from sgdmix_hub.errors import UserError, first_line, shown
from sgdmix_hub.files import read_json
from sgdmix_hub.hub.pins import Pin, local_folder

from .families import BY_CLASS_NAME, titles
from .family import Family

ADVICE = f"use a base of {titles()}"
INDEX, SCHEDULE = "model_index.json", "scheduler/scheduler_config.json"
PART = re.compile(r"\w[\w-]*", re.ASCII)
LIBRARIES = ("diffusers", "transformers", "stable_diffusion")  # where the classes of parts are
CHOOSES = re.compile(r"Auto[A-Z]")  # classes of transformers that run what a config names
SHARDED = ".safetensors.index.json"  # the end of a list of a network's files of weights
SHARD = re.compile(r"\w[\w.-]*\.safetensors", re.ASCII)
LONGEST_SCHEDULE = 100_000  # noise levels; Stable Diffusion has 1,000
COUNTS_LAYERS = re.compile(r"layers|blocks|depth")
MOST_LAYERS = 1_000  # of one kind; Qwen-Image has 60


def check_supported(base: Pin) -> Family:
    """The family of a base. Raises `UserError` unless a run can use it."""
    folder = Path(local_folder(base, [INDEX, SCHEDULE, "*/config.json"]))
    index = read_index(base, folder)
    check_layers(base, folder, index)
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
    fault = family.fault(index, configs) or fault_of_encoders(index, family)
    if fault is not None:
        raise UserError(f"the base model {base.name} has {fault}: {ADVICE}")
    return family


def fault_of_encoders(index: dict, family: Family) -> str | None:
    """Which text encoder or tokenizer a base lacks, or None. Of an optional encoder that is not
    there, the tokenizer may be: diffusers saves it.
    """
    for encoder in family.encoders:
        parts = encoder.model, encoder.tokenizer
        absent = [part for part in parts if index.get(part) in (None, [None, None])]
        if absent and not (encoder.optional and encoder.model in absent):
            return f"no {absent[0]}, unlike {family.title}"
    return None


def check_layers(base: Pin, folder: Path, index: dict) -> None:
    """Raises `UserError` if a network has so many layers that making them would not end."""
    for part in index:
        name = f"{part}/config.json"
        config = read_part(base, folder, name) if (folder / name).is_file() else {}
        for values in (config, *(value for value in config.values() if isinstance(value, dict))):
            for key, value in values.items():
                if COUNTS_LAYERS.search(key) and largest_count(value) > MOST_LAYERS:
                    raise UserError(
                        f"{name} of the base model {base.name} states {shown(value)} as "
                        f"{shown(key)}, and at most {MOST_LAYERS} are taken: use another base"
                    )


def largest_count(value: object) -> int:
    """The largest whole number in a value, or in lists of lists of them; 0 without one."""
    if isinstance(value, list):
        return max(map(largest_count, value), default=0)
    return value if type(value) is int else 0


def check_sampling(base: Pin, scheduler: str, timestep_spacing: str | None) -> Family:
    """The family of a base. Raises `UserError` unless a run can use it with this sampler."""
    family = check_supported(base)
    config = read_part(base, Path(local_folder(base, [SCHEDULE])), SCHEDULE)
    with making_sampler():
        family.scheduler(config, scheduler, timestep_spacing)
    return family


@contextmanager
def making_sampler() -> Generator[None]:
    """Raises `UserError` for what the libraries raise of a base's noise schedule."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # numbers and texts of others
        raise UserError(
            f"{SCHEDULE} of the base model makes no sampler: {first_line(error)}"
        ) from error


def absent_parts(base: Pin, family: Family) -> dict[str, None]:
    """The parts that this base comes without, although its pipelines have them."""
    index = read_index(base, Path(local_folder(base, [INDEX])))
    optional = [encoder for encoder in family.encoders if encoder.optional]
    parts = [part for encoder in optional for part in (encoder.model, encoder.tokenizer)]
    return {part: None for part in parts if index.get(part) in (None, [None, None])}


def read_index(base: Pin, folder: Path) -> dict:
    """The parts of a base and their classes. Raises `UserError`, also for a part that is no plain
    name, since parts are folders, or no class of the libraries that bases are made of.
    """
    index = read_part(base, folder, INDEX)
    odd = [name for name in index if not PART.fullmatch(name)]
    if odd:
        raise UserError(f"{INDEX} of the base model {base.name} names a part {shown(odd[0])}")
    for name, stated in index.items():
        if isinstance(stated, list) and stated != [None, None] and not _is_class(stated):
            raise UserError(
                f"{INDEX} of the base model {base.name} names {shown(stated)} as its "
                f"{shown(name)}, which is no class of diffusers or transformers: use another base"
            )
    return index


def _is_class(stated: list) -> bool:
    if len(stated) != 2 or not all(isinstance(text, str) for text in stated):
        return False
    library, name = stated
    chooses = library == "transformers" and CHOOSES.match(name)
    return library in LIBRARIES and name.isidentifier() and not chooses


def shards_in(base: Pin, folder: Path, index: str) -> dict[str, str]:
    """Weight -> its file, of a list of shards. Raises `UserError`, also for files of other formats
    or elsewhere: the libraries would read, and unpickle, what the list names.
    """
    shards = read_part(base, folder, index).get("weight_map")
    if not isinstance(shards, dict) or not all(map(_is_shard, shards.values())):
        raise UserError(f"{shown(index)} of the base model {base.name} lists no shards")
    return shards


def _is_shard(name: object) -> bool:
    return isinstance(name, str) and SHARD.fullmatch(name) is not None


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
