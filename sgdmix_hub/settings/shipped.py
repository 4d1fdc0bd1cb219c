"""Files that ship in the package, found by name: accelerate configurations and recipes."""

from __future__ import annotations

import os
from pathlib import Path

from sgdmix_hub.errors import UserError, shown

PACKAGE = Path(__file__).parents[1]
ACCELERATE_CONFIGS = PACKAGE / "accelerate_configs"
RECIPES = PACKAGE / "recipes"


def accelerate_config(name: str) -> Path:
    """An accelerate configuration: a file, or the name of one that ships (`gpu8`).

    Raises `UserError`.
    """
    names = sorted(path.stem for path in ACCELERATE_CONFIGS.glob("*.yaml"))
    if name in names:
        return ACCELERATE_CONFIGS / f"{name}.yaml"
    if os.path.isfile(name):
        return Path(name)
    raise UserError(
        f"no accelerate configuration {shown(name)!r}: give a file of `accelerate config`, or one "
        f"of {', '.join(names)}"
    )


def recipe_folder(name: str) -> Path:
    """A recipe: a folder, or the name of one that ships (`cub-sgdmix`). Raises `UserError`."""
    names = sorted(path.name for path in RECIPES.iterdir() if path.is_dir())
    if os.path.isdir(name):
        return Path(name)
    if name in names:
        return RECIPES / name
    raise UserError(f"no recipe {shown(name)!r}: give a folder, or one of {', '.join(names)}")


def shipped_recipe_file(location: str) -> Path | None:
    """The file of a recipe that ships, such as `cub-sgdmix/generate.yaml`; None for other names."""
    folder, _, name = location.partition("/")
    # compared with what there is, never joined: the location may be anybody's
    files = (
        path
        for recipe in RECIPES.iterdir()
        if recipe.name == folder
        for path in recipe.glob("*.yaml")
        if path.name == name
    )
    return next(files, None)
