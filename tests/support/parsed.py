"""Helpers for tests of settings: a generation's, from words, from YAML and from values."""

import dataclasses

from sgdmix_hub.settings.generation import (
    AugmentSettings,
)
from sgdmix_hub.settings.parsing import parse_settings

REQUIRED = [
    "--dataset_name",
    "org/birds",
    "--output_dir",
    "out",
    "--adapter",
    "org/adapter",
    "--classifier",
    "org/classifier",
]
FIELDS = {field.name: field for field in dataclasses.fields(AugmentSettings)}


def parse(*words, settings_class=AugmentSettings):
    return parse_settings(settings_class, [*REQUIRED, *map(str, words)])


def parse_yaml(folder, text, *words):
    path = folder / "generate.yaml"
    path.write_text(text)
    return parse_settings(AugmentSettings, [*REQUIRED, "--config", str(path), *words])


def augment_settings(**values):
    defaults = {
        "dataset_name": "org/birds",
        "output_dir": "out",
        "adapter": "org/adapter",
        "classifier": "org/classifier",
    }
    return AugmentSettings(**(defaults | values))
