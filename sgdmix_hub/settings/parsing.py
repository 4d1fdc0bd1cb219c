"""Settings from a YAML file and the command line, which wins: one strict parser for both."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

from transformers import HfArgumentParser

from sgdmix_hub.errors import UserError, shown

from .fetched import check_fetched, fetch_config, is_fetched
from .fields import AUTO, INFO, Checked, CountOrAuto, NumberOrAuto, hints_of
from .yaml_files import read_yaml

Settings = TypeVar("Settings", bound=Checked)


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows every setting under one name, with its default if it has one."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=30, width=100)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{action.option_strings[0]} {value}"  # without the spelling with hyphens

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.required:
            return f"{action.help} (required)"
        return action.help if action.default is None else super()._get_help_string(action)


class _Parser(HfArgumentParser):
    """Refuses what argparse would accept loosely; its errors are `UserError`s."""

    def add_argument(self, *names, **options):
        """Drops the metadata that argparse does not know, and reads numbers strictly."""
        options.pop(INFO, None)
        options["help"] = options.get("help", "").replace("%", "%%")  # it is no format
        if options.get("action") == "store_false":
            options |= {"help": f"same as --{options['dest']} false", "default": argparse.SUPPRESS}
        if "type" in options:
            options["type"] = NUMBERS.get(options["type"], options["type"])
        return super().add_argument(*names, **options)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists the settings)")


def plain_int(text: str) -> int:
    """A whole number in decimal digits; Python's own reading would accept 1_000 too. Raises
    `ValueError`.
    """
    if not re.fullmatch(r"[-+]?[0-9]{1,30}", text):
        raise ValueError(text)
    return int(text)


def plain_float(text: str) -> float:
    """A number in decimal digits, with or without an exponent. Raises `ValueError`.

    Accepts inf and nan too: the settings refuse them, with a better message.
    """
    if not re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?inf|nan", text):
        raise ValueError(text)
    return float(text)


def plain_int_or_auto(text: str) -> int | str:
    """`auto`, or a whole number as of `plain_int`. Raises `ValueError`."""
    return AUTO if text == AUTO else plain_int(text)


def plain_float_or_auto(text: str) -> float | str:
    """`auto`, or a number as of `plain_float`. Raises `ValueError`."""
    return AUTO if text == AUTO else plain_float(text)


# argparse quotes these names: "invalid number value"
plain_int.__name__, plain_float.__name__ = "whole number", "number"
plain_int_or_auto.__name__ = "whole number or auto"
plain_float_or_auto.__name__ = "number"
NUMBERS = {
    int: plain_int,
    float: plain_float,
    CountOrAuto: plain_int_or_auto,
    NumberOrAuto: plain_float_or_auto,
}


def parse_settings(settings_class: type[Settings], argv: list[str] | None = None) -> Settings:
    """Settings from `--config` and the command line, which wins. Raises `UserError`; `--help`
    exits.

    The YAML becomes arguments in front of the command line's, so that one parser checks both.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    location, argv = take_config(argv)
    has_config = any(field.name == "config" for field in dataclasses.fields(settings_class))
    if location is not None:
        path = fetch_config(location)
        given = {_setting_name(word) for word in argv}
        argv = _config_arguments(settings_class, path, given, location) + argv
        argv += [f"--config={path}"] if has_config else []
    # argparse would end the settings here
    if any(word == "--" or word.endswith("=--") for word in argv):
        raise UserError("-- cannot be the value of a setting (--help lists the settings)")
    parser = _Parser(
        cast(Any, settings_class),  # transformers' type for it is a NewType of Any
        description=settings_class.__doc__,
        usage="%(prog)s [--config FILE] [--setting value ...]",
        formatter_class=_Help,
        allow_abbrev=False,
        epilog=None
        if has_config
        else "--config FILE: YAML file of settings; the command line wins",
    )
    parsed: Any = parser.parse_args_into_dataclasses(
        args=argv, look_for_args_file=False, return_remaining_strings=True
    )
    settings, unknown = parsed
    if unknown:  # quoted without its value, which may be a secret
        name = shown(unknown[0].partition("=")[0])
        raise UserError(f"no such setting: {name} (--help lists the settings)")
    check_repository_names(settings)
    settings.validate()
    return settings


def _config_arguments(
    settings_class: type[Checked], path: str, given: set[str], location: str
) -> list[str]:
    values = read_settings(path, given, location)
    if "config" in values:
        raise UserError(f"{location}: a configuration cannot name another one")
    for name, value in values.items():
        if isinstance(value, list):
            _check_list(settings_class, name, value, location)
    return as_arguments(values)


def read_settings(
    path: str | Path, given: Iterable[str], location: str | None = None
) -> dict[str, Any]:
    """The values of a YAML file. Raises `UserError`.

    Of a published file, which messages call `location`: only what it may set, without the names
    `given`.
    """
    values = read_yaml(path)
    if is_fetched(path) or (location or "").startswith("hf://"):
        return check_fetched(values, given, location or str(path))
    return with_card_beside(values, Path(path).parent)


def with_card_beside(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The values, with `card` resolved against the YAML file's folder if it lies there."""
    card = values.get("card")
    if isinstance(card, str) and not os.path.exists(card) and os.path.isfile(folder / card):
        return values | {"card": str(folder / card)}
    return values


def check_repository_names(settings: Checked) -> None:
    """Raises `UserError` if the Hub cannot have the repository to push to."""
    names = [getattr(settings, name, None) for name in ("hub_dataset_id", "hub_model_id")]
    given = [name for name in names if name is not None]
    if given:
        # takes seconds to import, and few programs push
        from sgdmix_hub.hub.client import check_name

        for name in given:
            check_name(name)


def _setting_name(word: str) -> str:
    """The setting that a word of the command line starts; empty for other words."""
    if not word.startswith("--"):
        return ""
    return word.partition("=")[0].removeprefix("--").replace("-", "_")


def _check_list(settings_class: type[Checked], name: str, values: list, location: str) -> None:
    """Raises `UserError` if a setting takes no list, or one of other values."""
    hint = str(hints_of(settings_class).get(name, ""))
    if "list[" not in hint:
        raise UserError(f"{location}: {name} must be one value, not a list")
    if ("list[str]" in hint) != all(isinstance(value, str) for value in values):
        kind = "texts" if "list[str]" in hint else "numbers"
        raise UserError(f"{location}: {name} must be one value or a list of {kind}")


def take_config(argv: list[str]) -> tuple[str | None, list[str]]:
    """Takes `--config FILE` or `--config=FILE` out of the arguments. Raises `UserError`."""
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


def as_arguments(values: dict[str, Any]) -> list[str]:
    """Settings as the words of a command line."""
    words = []
    for name, value in values.items():
        if isinstance(value, list):
            words += [f"--{name}", *map(_text, value)]
        else:
            words.append(f"--{name}={_text(value)}")
    return words


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
