"""Settings from a YAML file and the command line, which wins: one strict parser for both."""

from __future__ import annotations

import dataclasses
import glob
import re
import sys
from pathlib import Path, PurePosixPath
from typing import TypeVar
from urllib.parse import unquote

from transformers import HfArgumentParser

from .errors import UserError, first_line, shown
from .fields import Checked, hints_of
from .yaml_files import read_yaml

Settings = TypeVar("Settings", bound=Checked)
PUBLISHED_BESIDE = ("plan.parquet", "manifest.json")


def fetch_config(location: str) -> str:
    """The local path of a configuration: a file, or `hf://datasets/org/name@revision/path/in/repository`. Of a published generation's the
    plan and the manifest, which lie beside it, come too. Raises `UserError`."""
    if not location.startswith("hf://"):
        return location
    from huggingface_hub import snapshot_download

    match = re.fullmatch(r"hf://(datasets/)?([^/@]+/[^/@]+)(?:@(refs/pr/\d+|[^/]+))?/(.+)", location)
    if match is None:
        raise UserError(f"{location}: give it as hf://datasets/org/name@revision/path/of/file.yaml")
    is_dataset, repo_id, revision, path = match.groups()
    beside = [(PurePosixPath(path).parent / name).as_posix() for name in PUBLISHED_BESIDE]
    try:
        folder = snapshot_download(
            repo_id,
            repo_type="dataset" if is_dataset else "model",
            revision=revision and unquote(revision),
            allow_patterns=[glob.escape(name) for name in (path, *beside)],
        )
    except Exception as error:  # the client's own errors, and those of whatever HTTP library is below it
        raise UserError(f"cannot fetch {location}: {first_line(error)}") from None
    if not (Path(folder) / path).is_file():
        raise UserError(f"cannot fetch {location}: there is no such file at that revision")
    return str(Path(folder) / path)


class _Parser(HfArgumentParser):
    def add_argument(self, *names, bounds=None, **options):
        """Fields hand over all their metadata, of which `bounds` is for the settings themselves; numbers are read plainly."""
        if "type" in options:
            options["type"] = NUMBERS.get(options["type"], options["type"])
        return super().add_argument(*names, **options)

    def error(self, message):
        raise UserError(f"{message} (--help lists the settings)")


def plain_int(text: str) -> int:
    """A whole number in decimal digits: Python's own reading would take 1_000 too. Raises `ValueError`."""
    if not re.fullmatch(r"[-+]?[0-9]{1,30}", text):
        raise ValueError(text)
    return int(text)


def plain_float(text: str) -> float:
    """A number in decimal digits, with or without an exponent, or inf or nan, which settings refuse by name. Raises `ValueError`."""
    if not re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?inf|nan", text):
        raise ValueError(text)
    return float(text)


NUMBERS = {int: plain_int, float: plain_float}


def parse_settings(settings_class: type[Settings], argv: list[str] | None = None) -> Settings:
    """Settings from `--config` and the command line, which wins. Raises `UserError`; `--help` exits.

    The YAML becomes arguments ahead of the command line's own, so that both go through one parser, as strictly.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    location, argv = take_config(argv)
    has_config = any(field.name == "config" for field in dataclasses.fields(settings_class))
    if location is not None:
        path = fetch_config(location)
        values = read_yaml(path)
        if "config" in values:
            raise UserError(f"{location}: a configuration cannot name another one")
        for name in (name for name, value in values.items() if isinstance(value, list) and not _takes_list(settings_class, name)):
            raise UserError(f"{location}: {name} must be one value, not a list")
        argv = as_arguments(values) + argv + ([f"--config={path}"] if has_config else [])
    if any(word == "--" or word.endswith("=--") for word in argv):
        raise UserError("-- is no value of a setting (--help lists the settings)")  # argparse takes it for an end of the settings
    epilog = None if has_config else "--config FILE: defaults from YAML"
    parser = _Parser(settings_class, description=settings_class.__doc__, allow_abbrev=False, epilog=epilog)
    settings, unknown = parser.parse_args_into_dataclasses(args=argv, look_for_args_file=False, return_remaining_strings=True)
    if unknown:  # without what stands behind its =, which may be a secret
        raise UserError(f"no such setting: {shown(unknown[0].partition('=')[0])} (--help lists the settings)")
    settings.validate()
    return settings


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
        words += [f"--{name}", *map(_text, value)] if isinstance(value, list) else [f"--{name}={_text(value)}"]
    return words


def _text(value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
