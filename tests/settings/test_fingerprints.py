"""Which settings are part of a fingerprint, which are published, and that both read back."""

import dataclasses
import itertools
import typing
from pathlib import Path
from typing import get_args

import pytest
import yaml
from parsed import FIELDS, augment_settings, parse, parse_yaml

from sgdmix_hub.settings.fields import INFO, Changes, names_where
from sgdmix_hub.settings.generation import (
    MAY_MOVE_LAST_BITS,
    PINNED_INPUTS,
    PLACE_AND_SPEED,
    AugmentSettings,
    fingerprint,
    groups_table,
    published_settings,
)
from sgdmix_hub.settings.parsing import parse_settings
from sgdmix_hub.settings.presets import apply_preset

ROOT = Path(__file__).parents[2]
PINS = {name: f"org/{name}@{'0' * 40}" for name in PINNED_INPUTS}
# than the golden fingerprints
NEWER_INPUTS = ("background_dataset_name", "few_step_lora", "judge", "pilot_classifier")


def test_every_setting_is_in_one_group_and_the_documentation_has_the_table():
    groups = [names_where(AugmentSettings, changes=changes) for changes in get_args(Changes)]
    assert sorted(itertools.chain(*groups)) == sorted(FIELDS)
    assert groups[1:] == [MAY_MOVE_LAST_BITS, PLACE_AND_SPEED]
    assert groups_table() in (ROOT / "docs" / "running.md").read_text(), groups_table()


GOLDEN = [
    ({}, "28633ac4fc602df1c5c0c670943187c6a8ce7563a53f6eac2cd685aef5128880"),
    (
        {"preset": "recommended", "strength": [0.5, 0.9], "seed": 3},
        "a60bd4b4f094120be79a974519e7332e4ff2fc2ae4758f1d8ccbe9e3f7f376fb",
    ),
    (
        {
            "strength": 0.0,
            "saliency_method": "mask-column",
            "mask_column": "m",
            "num_variants": 4,
            "image_format": "webp",
            "batch_size": 2,
            "num_threads": 8,
            "config_name": "x",
            "mask_dilation": 0.1,
            "max_image_pixels": 10**6,
            "imbalance_factor": 0.1,
        },
        "b3f10188e88a023cdd77948a1177d6cc76ed5bed1918ce2cc802e07064026e6f",
    ),
]


@pytest.mark.parametrize(("values", "expected"), GOLDEN)
def test_the_fingerprint_of_an_existing_configuration_stays_the_same(values, expected):
    """A run that was begun with an earlier version is resumed."""
    earlier = {name: pin for name, pin in PINS.items() if name not in NEWER_INPUTS}
    assert fingerprint(augment_settings(**values), earlier) == expected


def other_value(name):
    """A value of the field's type that is not its default."""
    values = typing.get_args(FIELDS[name].type) or typing.get_args(
        typing.get_type_hints(AugmentSettings)[name]
    )
    choices = [
        choice
        for value in values
        for choice in (typing.get_args(value) or [value])
        if isinstance(choice, str)
    ]
    base = getattr(augment_settings(), name)
    if isinstance(base, list):
        return [*base, 0.875]
    if choices:
        return next(choice for choice in choices if choice != base)
    kind = typing.get_type_hints(AugmentSettings)[name]
    kinds = typing.get_args(kind) or (kind,)
    if bool in kinds:
        return not base
    if list[int] in kinds:
        return [3]
    if int in kinds:
        return (base or 0) + 8
    if float not in kinds:
        return f"{base}-other"
    return (base or FIELDS[name].metadata[INFO].bounds.at_least or 0.0) + 0.125


@pytest.mark.parametrize("name", FIELDS)
def test_the_fingerprint_covers_what_changes_images_and_nothing_else(name):
    base = augment_settings()
    other = dataclasses.replace(base, **{name: other_value(name)})
    assert getattr(other, name) != getattr(base, name)
    same = fingerprint(base, PINS) == fingerprint(other, PINS)
    # An input counts by its pin: the same content elsewhere is the same input.
    assert same == (name in (*MAY_MOVE_LAST_BITS, *PLACE_AND_SPEED, *PINNED_INPUTS))


@pytest.mark.parametrize("name", PINNED_INPUTS)
def test_the_fingerprint_covers_every_pin(name):
    other = PINS | {name: f"org/{name}@{'1' * 40}"}
    assert fingerprint(augment_settings(), PINS) != fingerprint(augment_settings(), other)
    fewer = {key: pin for key, pin in PINS.items() if key != name}
    assert fingerprint(augment_settings(), PINS) != fingerprint(augment_settings(), fewer)


def test_the_fingerprint_tells_settings_with_swapped_values_apart():
    first, second = (
        augment_settings(num_candidates=3, num_variants=4),
        augment_settings(num_candidates=4, num_variants=3),
    )
    assert fingerprint(first, PINS) != fingerprint(second, PINS)


def test_published_settings_hold_no_places():
    places = {
        "output_dir": "/home/me/out",
        "saliency_dir": "/home/me/maps",
        "card": "/home/me/card.md",
        "dataset_name": "/home/me/birds",
    }
    values = augment_settings(**places)
    published = published_settings(values, PINS)
    assert "/home/me" not in str(published)
    assert not set(published) & set(PLACE_AND_SPEED)
    assert {name: published[name] for name in PINS} == PINS


def test_an_input_that_is_given_and_not_used_is_not_published_either():
    """At strength 0 no adapter is pinned, with another saliency method no classifier: their paths
    must not take the pins' places.
    """
    used = {"dataset_name": PINS["dataset_name"]}
    places = {"adapter": "/home/me/adapter", "classifier": "/home/me/classifier"}
    values = augment_settings(strength=0.0, saliency_method="spectral-residual", **places)
    assert "/home/me" not in str(published_settings(values, used))
    elsewhere = dataclasses.replace(values, adapter="/tmp/adapter", classifier=None)
    assert fingerprint(values, used) == fingerprint(elsewhere, used)


def test_several_strengths_are_one_list_however_they_are_given(tmp_path):
    given = parse("--strength", "0.9", "0.3", "0.5")
    assert (
        given.strength
        == [0.3, 0.5, 0.9]
        == parse_yaml(tmp_path, "strength: [0.5, 0.9, 0.3]").strength
    )
    assert (
        parse_yaml(tmp_path, "strength: [0.5, 0.9]", "--strength", "0.7").strength
        == [0.7]
        == augment_settings(strength=0.7).strength
    )
    assert published_settings(given, PINS)["strength"] == [0.3, 0.5, 0.9]
    assert published_settings(augment_settings(strength=0.7), PINS)["strength"] == 0.7


@pytest.mark.parametrize("strength", [0.5, [0.3, 0.5]])
def test_published_settings_read_back_to_the_same_settings(tmp_path, strength):
    """What is published is a configuration: a rerun from it has the same fingerprint."""
    chosen = {
        "preset": "recommended",
        "strength": strength,
        "feather": 0.05,
        "seed": 7,
        "safety_checker": False,
    }
    chosen |= {
        "crop_target": False,
        "fill_holes": True,
        "mask_dilation": 0.125,
        "saliency_method": "layer-cam",
        "max_target_reuse": 2,
    }
    chosen |= {
        "threshold_method": "quantile",
        "threshold_quantile": 0.7,
        "saliency_sigma": 3.0,
        "inpainting_method": "diffusion",
        "few_step_method": "lightning",
        "few_step_weight_name": "8steps.safetensors",
    }
    values = apply_preset(augment_settings(**chosen))
    path, pins = tmp_path / "config.yaml", PINS.copy()
    del pins["background_dataset_name"]  # not chosen
    path.write_text(yaml.safe_dump(published_settings(values, pins)))
    again = parse_settings(AugmentSettings, ["--config", str(path), "--output_dir", "elsewhere"])
    assert fingerprint(again, pins) == fingerprint(values, pins)
