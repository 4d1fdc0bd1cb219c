"""Settings from a YAML file and the command line, which wins: one strict parser for both."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar, get_type_hints

import yaml
from transformers import HfArgumentParser

from .config import DataSettings
from .errors import UserError, shown
from .fetched_config import check_fetched, fetch_config, is_fetched
from .program_settings import PublishSettings

Settings = TypeVar("Settings", bound="DataSettings | PublishSettings")


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML's last-one-wins on repeated keys would hide a mistake."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        repeated = sorted({str(key) for key in keys if keys.count(key) > 1})
        if repeated:
            raise UserError(f"{repeated[0]} stands twice in the YAML file: keep one")
        return super().construct_mapping(node, deep=deep)


def read_yaml(path: str | Path) -> dict:
    """A YAML file as a flat dictionary. Raises `UserError` when it is missing, malformed, nested, or holds a null."""
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected lines of `name: value`")
    for name, value in values.items():
        if value is None:
            raise UserError(f"{path}: {name} has no value: give one or leave the line out")
        scalars = value if isinstance(value, list) and value else [value]
        if not all(isinstance(scalar, (str, int, float, bool)) for scalar in scalars):
            raise UserError(f"{path}: {name} must be one value or a list of values, not a {type(value).__name__}")
    return values


class _Parser(HfArgumentParser):
    def error(self, message):
        raise UserError(f"{without_tokens(message)} (--help lists the settings)")


def parse_settings(settings_class: type[Settings], argv: list[str] | None = None) -> Settings:
    """Settings from `--config` and the command line, which wins. Raises `UserError`; `--help` exits.

    The YAML becomes arguments ahead of the command line's own, so that both go through one parser, as strictly.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    location, argv = take_config(argv)
    has_config = any(field.name == "config" for field in dataclasses.fields(settings_class))
    if location is not None:
        path = fetch_config(location)
        values = read_settings(path, set(map(_name, argv)), location)
        if "config" in values:
            raise UserError(f"{location}: a configuration cannot name another one")
        for name in (name for name, value in values.items() if isinstance(value, list) and not _takes_list(settings_class, name)):
            raise UserError(f"{location}: {name} must be one value, not a list")
        argv = as_arguments(values) + argv + ([f"--config={path}"] if has_config else [])
    epilog = None if has_config else "--config FILE: defaults from YAML"
    parser = _Parser(settings_class, description=settings_class.__doc__, allow_abbrev=False, epilog=epilog)
    settings, unknown = parser.parse_args_into_dataclasses(args=argv, look_for_args_file=False, return_remaining_strings=True)
    if unknown:
        raise UserError(f"no such setting: {shown(without_tokens(unknown[0].partition('=')[0]))} (--help lists the settings)")
    check_repository_names(settings)
    settings.validate()
    return settings


def read_settings(path: str | Path, given: Iterable[str], location: str | None = None) -> dict:
    """A YAML file of settings; of one that others have published, which is called `location`, what it may set beside the names `given`.
    Raises `UserError`."""
    values = read_yaml(path)
    if is_fetched(path) or (location or "").startswith("hf://"):
        return check_fetched(values, given, location or str(path))
    return values


def check_repository_names(settings: Settings) -> None:
    """Raises `UserError` on a repository to push to that the Hub could not have."""
    given = [name for name in (getattr(settings, setting, None) for setting in ("hub_dataset_id", "hub_model_id")) if name is not None]
    if given:
        from .hub_client import check_name  # seconds of the start of a program that pushes nothing

        for name in given:
            check_name(name)


def without_tokens(message: str) -> str:
    """The same without what looks like a token of the Hub."""
    return re.sub(r"hf_\w+", "hf_...", message)


def _name(word: str) -> str:
    """The setting that a word of the command line begins, as it is spelled here."""
    return word.partition("=")[0].removeprefix("--").replace("-", "_") if word.startswith("--") else ""


def _takes_list(settings_class: type[Settings], name: str) -> bool:
    return "list[" in str(get_type_hints(settings_class).get(name, ""))


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
        words += [f"--{name}", *map(_text, value)] if isinstance(value, list) else [f"--{name}={_text(value)}"]
    return words


def _text(value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
