"""The table of saliency sources: every method has a row, and every row says what it needs."""

import dataclasses
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from sgdmix_hub.errors import Unusable, UnusableRow, among_usable, attempt
from sgdmix_hub.method.saliency.sources import LOADERS, load_source
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.method import MethodSettings
from sgdmix_hub.settings.saliency import (
    CAM_METHODS,
    FALL_BACK,
    NEEDED_SETTINGS,
    PREVIEW_FALL_BACK,
    SALIENCY_SOURCES,
    SaliencyMethod,
)

METHOD_ALONE = """
import sys
from sgdmix_hub.method import backgrounds, masks, mixer, mixing, strength, targets
from sgdmix_hub.method.saliency import sources, trust

heavy = {"datasets", "diffusers", "huggingface_hub", "pytorch_grad_cam", "transformers"}
print(*sorted(heavy & set(sys.modules)))
"""


def settings(method, **values):
    return MethodSettings(strength=0.0, saliency_method=method, **values)


def test_every_word_of_the_setting_has_a_row_in_both_halves_of_the_table():
    assert set(SALIENCY_SOURCES) == set(LOADERS) == set(get_args(SaliencyMethod))
    assert {name for name in LOADERS if SALIENCY_SOURCES[name].needs == "classifier"} == set(
        CAM_METHODS
    )


def test_what_a_row_names_are_settings():
    names = {field.name for field in dataclasses.fields(AugmentSettings)}
    for source in SALIENCY_SOURCES.values():
        assert set(source.key_settings.values()) <= names
        without = ("nothing", "rembg", "function")
        assert source.needs in without or NEEDED_SETTINGS[source.needs][0] in names


def test_what_a_run_falls_back_to_needs_nothing():
    assert {SALIENCY_SOURCES[name].needs for name in (FALL_BACK, PREVIEW_FALL_BACK)} == {"nothing"}


@pytest.mark.parametrize(
    "method",
    [name for name, source in SALIENCY_SOURCES.items() if source.needs in ("nothing", "column")],
)
def test_a_source_gives_a_map_of_its_settings_preset_or_not_or_says_why_there_is_none(method):
    rng = np.random.default_rng(0)
    bright = np.zeros((40, 30, 3), np.uint8)
    bright[10:25, 8:20] = rng.integers(200, 256, (15, 12, 3))
    images = [Image.fromarray(bright), Image.new("RGB", (40, 30), "grey")]
    masks = [image.convert("L") for image in images]
    found, blank = load_source(settings(method)).found(images, None, masks)
    assert found.map.shape == (64, 64) and found.map.dtype == np.float16
    assert 0 <= found.map.min() < found.map.max() <= 1
    source = SALIENCY_SOURCES[method]
    assert (found.mask is not None) == source.has_mask
    assert (found.confidence is not None) == source.has_confidence
    causes = {
        "predicted-column": "the foreground covers more than 95% of the image",
        "consensus": "the image has no colours",
    }
    blank_reason = "blank saliency map"
    if method in causes:
        blank_reason = f"mask confidence 0.00: {causes[method]}"
    assert blank == Unusable(blank_reason)


def test_a_source_without_what_it_needs_says_so():
    image = Image.new("RGB", (8, 8))
    with pytest.raises(ValueError, match="masks"):
        load_source(settings("mask-column")).found([image], None, None)
    with pytest.raises(ValueError, match="masks"):
        load_source(settings("predicted-column")).found([image], None, None)
    with pytest.raises(ValueError, match="grad-cam needs a classifier"):
        load_source(settings("grad-cam"))


@pytest.mark.slow
def test_the_method_loads_no_library_of_data_sets_models_or_the_hub():
    ended = subprocess.run([sys.executable, "-c", METHOD_ALONE], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout.strip()) == (0, ""), ended.stderr


# ---- reasons as values ----


def test_an_unusable_row_is_a_value_among_the_others():
    def half(value):
        if value % 2:
            raise UnusableRow(f"{value} is odd")
        return value // 2

    assert attempt(half, 4) == 2 and attempt(half, 3) == Unusable("3 is odd")
    with pytest.raises(TypeError):
        attempt(half, None)


@pytest.mark.parametrize("batch_size", [None, 1, 2, 5])
def test_usable_values_go_through_in_batches_and_keep_their_places(batch_size):
    values = [1, Unusable("a"), 2, 3, Unusable("b"), 4]
    seen = []

    def function(rows, batch):
        seen.append(len(batch))
        assert [values[row] for row in rows] == batch
        return [Unusable("three") if value == 3 else value * 10 for value in batch]

    expected = [10, Unusable("a"), 20, Unusable("three"), Unusable("b"), 40]
    assert among_usable(values, function, batch_size) == expected
    assert sum(seen) == 4 and max(seen) <= (batch_size or 4)


def test_nothing_is_called_without_a_usable_value():
    never = lambda rows, batch: pytest.fail("called")  # noqa: E731
    assert among_usable([], never) == [] and among_usable([Unusable("a")], never) == [Unusable("a")]
