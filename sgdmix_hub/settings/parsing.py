"""Settings from a YAML file and the command line, which wins: one strict parser for both."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from transformers import HfArgumentParser

from sgdmix_hub.errors import UserError, shown

from .fetched import check_fetched, fetch_config, is_fetched
from .fields import Checked, hints_of
from .yaml_files import read_yaml

Settings = TypeVar("Settings", bound=Checked)


class _Parser(HfArgumentParser):
    def add_argument(self, *names, bounds=None, **options):
        """Fields hand over all their metadata, of which `bounds` is for the settings themselves;
        numbers are read plainly.
        """
        if "type" in options:
            options["type"] = NUMBERS.get(options["type"], options["type"])
        return super().add_argument(*names, **options)

    def error(self, message):
        raise UserError(f"{message} (--help lists the settings)")


def plain_int(text: str) -> int:
    """A whole number in decimal digits: Python's own reading would take 1_000 too. Raises
    `ValueError`.
    """
    if not re.fullmatch(r"[-+]?[0-9]{1,30}", text):
        raise ValueError(text)
    return int(text)


def plain_float(text: str) -> float:
    """A number in decimal digits, with or without an exponent, or inf or nan, which settings refuse
    by name. Raises `ValueError`.
    """
    if not re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?inf|nan", text):
        raise ValueError(text)
    return float(text)


plain_int.__name__, plain_float.__name__ = (
    "whole number",
    "number",
)  # argparse says "invalid number value"
NUMBERS = {int: plain_int, float: plain_float}


def parse_settings(settings_class: type[Settings], argv: list[str] | None = None) -> Settings:
    """Settings from `--config` and the command line, which wins. Raises `UserError`; `--help`
    exits.

    The YAML becomes arguments ahead of the command line's own, so that both go through one parser,
    as strictly.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    location, argv = take_config(argv)
    has_config = any(field.name == "config" for field in dataclasses.fields(settings_class))
    if location is not None:
        path = fetch_config(location)
        values = read_settings(path, set(map(_name, argv)), location)
        if "config" in values:
            raise UserError(f"{location}: a configuration cannot name another one")
        for name in (
            name
            for name, value in values.items()
            if isinstance(value, list) and not _takes_list(settings_class, name)
        ):
            raise UserError(f"{location}: {name} must be one value, not a list")
        argv = as_arguments(values) + argv + ([f"--config={path}"] if has_config else [])
    if any(word == "--" or word.endswith("=--") for word in argv):
        raise UserError(
            "-- is no value of a setting (--help lists the settings)"
        )  # argparse takes it for an end of the settings
    epilog = None if has_config else "--config FILE: defaults from YAML"
    parser = _Parser(
        settings_class, description=settings_class.__doc__, allow_abbrev=False, epilog=epilog
    )
    settings, unknown = parser.parse_args_into_dataclasses(
        args=argv, look_for_args_file=False, return_remaining_strings=True
    )
    if unknown:  # without what stands behind its =, which may be a secret
        raise UserError(
            f"no such setting: {shown(unknown[0].partition('=')[0])} (--help lists the settings)"
        )
    check_repository_names(settings)
    settings.validate()
    return settings


def read_settings(path: str | Path, given: Iterable[str], location: str | None = None) -> dict:
    """A YAML file of settings; of one that others have published, which is called `location`, what
    it may set beside the names `given`. Raises `UserError`.
    """
    values = read_yaml(path)
    if is_fetched(path) or (location or "").startswith("hf://"):
        return check_fetched(values, given, location or str(path))
    return with_card_beside(values, Path(path).parent)


def with_card_beside(values: dict, folder: Path) -> dict:
    """The values; a card that a YAML file names and that lies beside it is found there, wherever
    the program is started.
    """
    card = values.get("card")
    beside = isinstance(card, str) and not os.path.exists(card) and os.path.isfile(folder / card)
    return values | {"card": str(folder / card)} if beside else values


def check_repository_names(settings: Settings) -> None:
    """Raises `UserError` on a repository to push to that the Hub could not have."""
    given = [
        name
        for name in (
            getattr(settings, setting, None) for setting in ("hub_dataset_id", "hub_model_id")
        )
        if name is not None
    ]
    if given:
        from sgdmix_hub.hub.client import (
            check_name,
        )  # seconds of the start of a program that pushes nothing

        for name in given:
            check_name(name)


def _name(word: str) -> str:
    """The setting that a word of the command line begins, as it is spelled here."""
    return (
        word.partition("=")[0].removeprefix("--").replace("-", "_") if word.startswith("--") else ""
    )


def _takes_list(settings_class: type[Settings], name: str) -> bool:
    return "list[" in str(hints_of(settings_class).get(name, ""))


def take_config(argv: list[str]) -> tuple[str | None, list[str]]:
    """Takes `--config FILE` or `--config=FILE` out of the arguments."""
    rest, location = [], None
    words = iter(argv)
    for word in words:
        if word == "--config":
            location = next(words, None)
            if location is None:
                raise UserError("--config needs a file")
        elif word.startswith("--config="):
            location = word.removeprefix("--config=")
        else:
            rest.append(word)
    return location, rest


def as_arguments(values: dict) -> list[str]:
    """Settings as the words of a command line."""
    words = []
    for name, value in values.items():
        words += (
            [f"--{name}", *map(_text, value)]
            if isinstance(value, list)
            else [f"--{name}={_text(value)}"]
        )
    return words


def _text(value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
