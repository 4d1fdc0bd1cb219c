"""Settings from a YAML file and the command line, which wins: one strict parser for both."""

from __future__ import annotations

import dataclasses
import glob
import re
import sys
from pathlib import Path, PurePosixPath
from typing import TypeVar, get_type_hints
from urllib.parse import unquote

import yaml
from transformers import HfArgumentParser

from .config import DataSettings
from .errors import UserError, first_line
from .program_settings import PublishSettings
from .shipped import shipped_recipe_file

Settings = TypeVar("Settings", bound="DataSettings | PublishSettings")
PUBLISHED_BESIDE = ("plan.parquet", "manifest.json")


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


def fetch_config(location: str) -> str:
    """The local path of a configuration: a file, a shipped recipe's (`cub-sgdmix/generate.yaml`), or
    `hf://datasets/org/name@revision/path/in/repository`. Of a published generation's the plan and the manifest, which lie beside it, come
    too. Raises `UserError`."""
    if not location.startswith("hf://"):
        shipped = None if Path(location).exists() else shipped_recipe_file(location)
        return location if shipped is None else str(shipped)
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
    def error(self, message):
        raise UserError(f"{message} (--help lists the settings)")


def parse_settings(settings_class: type[Settings], argv: list[str] | None = None) -> Settings:
    """Settings from `--config` and the command line, which wins. Raises `UserError`; `--help` exits.

    The YAML becomes arguments ahead of the command line's own, so that both go through one parser, as strictly.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    location, argv = take_config(argv)
    has_config = any(field.name == "config" for field in dataclasses.fields(settings_class))
    if location is not None:
        path = fetch_config(location)
        values = with_card_beside(read_yaml(path), Path(path).parent)
        if "config" in values:
            raise UserError(f"{location}: a configuration cannot name another one")
        for name in (name for name, value in values.items() if isinstance(value, list) and not _takes_list(settings_class, name)):
            raise UserError(f"{location}: {name} must be one value, not a list")
        argv = as_arguments(values) + argv + ([f"--config={path}"] if has_config else [])
    epilog = None if has_config else "--config FILE: defaults from YAML"
    parser = _Parser(settings_class, description=settings_class.__doc__, allow_abbrev=False, epilog=epilog)
    settings, unknown = parser.parse_args_into_dataclasses(args=argv, look_for_args_file=False, return_remaining_strings=True)
    if unknown:
        raise UserError(f"no such setting: {unknown[0]} (--help lists the settings)")
    settings.validate()
    return settings


def with_card_beside(values: dict, folder: Path) -> dict:
    """The values; a card that a YAML file names and that lies beside it is found there, wherever the program is started."""
    card = values.get("card")
    beside = isinstance(card, str) and not Path(card).exists() and (folder / card).is_file()
    return values | {"card": str(folder / card)} if beside else values


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
