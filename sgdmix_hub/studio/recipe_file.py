"""What was chosen, as settings of a generation and as the YAML file that `augment` takes."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import yaml

from sgdmix_hub.errors import UserError
from sgdmix_hub.files import write_text
from sgdmix_hub.settings.generation import PINNED_INPUTS, AugmentSettings

from .controls import names_on_page

OURS = "# Chosen with sgdmix studio."
HEADING = OURS + " Go on: sgdmix augment --config {name} --output_dir outputs\n"


def chosen_settings(
    start: AugmentSettings, values: dict[str, Any], has_base: bool
) -> AugmentSettings:
    """`start` with the values that were chosen. A setting that is on the page and has no value gets
    its default. Raises `UserError`.
    """
    unset = _defaults(names_on_page(has_base))
    if not has_base:
        unset |= {"strength": [0.0]}
    return dataclasses.replace(start, **(unset | values))


def write_recipe(
    path: Path, start: AugmentSettings, values: dict[str, Any], has_base: bool
) -> None:
    """Writes the file. Raises `UserError` if the settings cannot be used together, or if a file is
    there that this page has not written.
    """
    chosen = chosen_settings(start, values, has_base)
    chosen.validate()
    check_place(path)
    text = yaml.safe_dump(recipe_values(chosen), sort_keys=False, allow_unicode=True)
    write_text(path, HEADING.format(name=path.name) + text)


def check_place(path: Path) -> None:
    """Raises `UserError` if a file is there that this page has not written, or cannot be read."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            is_ours = file.read(len(OURS)) == OURS
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(
            f"{path.name} cannot be written: {error.strerror}; choose another --save_to"
        ) from None
    if not is_ours:
        raise UserError(
            f"{path.name} is not a file that sgdmix studio wrote, and is kept: move it, or start "
            "with another --save_to"
        )


def recipe_values(chosen: AugmentSettings) -> dict[str, Any]:
    """The settings that differ from their defaults, without places and speed."""
    defaults = _defaults([field.name for field in dataclasses.fields(AugmentSettings)])
    values = {
        name: value
        for name, value in dataclasses.asdict(chosen).items()
        if name not in ("output_dir", "config") and value is not None
    }
    sampling = AugmentSettings(
        dataset_name="x", output_dir="x", few_step_method=chosen.few_step_method
    )
    for name, default in defaults.items():
        if name in values and values[name] in (default, getattr(sampling, name)):
            values.pop(name)
    for name in PINNED_INPUTS:
        if name in values and os.path.isdir(values[name]):
            values[name] = os.path.abspath(values[name])
    return {"dataset_name": values.pop("dataset_name"), "strength": chosen.stated_strength} | values


def _defaults(names: list[str]) -> dict[str, Any]:
    """The defaults of settings, as the fields give them; required ones have none."""
    defaults = {}
    for field in dataclasses.fields(AugmentSettings):
        if field.name not in names:
            continue
        if field.default_factory is not dataclasses.MISSING:
            defaults[field.name] = field.default_factory()
        elif field.default is not dataclasses.MISSING:
            defaults[field.name] = field.default
    return defaults
