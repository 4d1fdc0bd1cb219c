"""The stores of maps: whose they are, the same from any number of processes, and what happens to
rows without a map.
"""

import dataclasses

import numpy as np
import pytest
import torch
from generations import png, snapshot, write_dataset
from PIL import Image
from rowstores import in_two_processes, many_rows

from sgdmix_hub.data.splits import load_split
from sgdmix_hub.errors import Preempted
from sgdmix_hub.generation.row_blocks import BLOCK_ROWS
from sgdmix_hub.generation.row_store import compute_rows
from sgdmix_hub.generation.saliency_maps import compute_maps, saliency_root, store_key
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.method.saliency.model_free import (
    mask_column_map,
    minimum_barrier_map,
    spectral_residual_map,
)
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.presets import apply_preset
from sgdmix_hub.settings.saliency import SALIENCY_SOURCES

CPU = torch.device("cpu")


def store_settings(dataset, output, **values):
    chosen = {"saliency_method": "minimum-barrier", "strength": 0.0, "resolution": 32} | values
    return apply_preset(
        AugmentSettings(dataset_name=str(dataset), output_dir=str(output), **chosen)
    )


def split_of(asked):
    return load_split(asked, resolve(asked.dataset_name, repo_type="dataset"))


@pytest.mark.slow
def maps_made(asked, rank=0, world_size=1):
    return compute_maps(asked, split_of(asked), None, rank, world_size, CPU)


@pytest.mark.parametrize(
    ("values", "map_of"),
    [
        (
            {"saliency_method": "minimum-barrier"},
            lambda image, mask: minimum_barrier_map(image, "stretch"),
        ),
        (
            {"saliency_method": "spectral-residual"},
            lambda image, mask: spectral_residual_map(image, "stretch", 6.0),
        ),
        (
            {"saliency_method": "spectral-residual", "saliency_sigma": 2.5},
            lambda image, mask: spectral_residual_map(image, "stretch", 2.5),
        ),
        (
            {"saliency_method": "mask-column", "mask_column": "mask"},
            lambda image, mask: mask_column_map(mask, "stretch"),
        ),
    ],
)
def test_a_store_holds_the_map_of_every_row(values, map_of, birds, tmp_path):
    asked = store_settings(birds, tmp_path / "run", **values)
    split = split_of(asked)
    maps = compute_maps(asked, split, None, 0, 1, CPU)
    assert (maps.method, maps.trust, maps.unusable) == (asked.saliency_method, None, {})
    stacked = maps[split.subset]
    assert stacked.dtype == np.float16 and stacked.shape == (len(split.subset), 64, 64)
    for row in split.subset[::5]:
        assert np.array_equal(
            maps[row], map_of(split.image(row), split.image(row, "mask")).astype(np.float16)
        )


@pytest.mark.slow
def test_two_processes_make_the_same_store_and_a_third_run_only_reads_it(source_rows, tmp_path):
    data = many_rows(tmp_path / "data", source_rows, 2 * BLOCK_ROWS + 20, damaged=[3, 200])

    def asked(output, shared=None):
        return store_settings(
            data, tmp_path / output, saliency_method="spectral-residual", saliency_dir=shared
        )

    alone = maps_made(asked("one"))
    together = in_two_processes(maps_made, asked("two"))
    folders = [
        saliency_root(store_settings(data, tmp_path / name)) / alone.key for name in ("one", "two")
    ]
    assert (folders[0] / "values.npy").read_bytes() == (folders[1] / "values.npy").read_bytes()
    assert alone.unusable == together.unusable and sorted(alone.unusable) == [3, 200]
    assert all("corrupt" in reason for reason in alone.unusable.values())
    assert not alone[[3, 200]].any()
    before = snapshot(folders[0].parent)
    third = maps_made(asked("three", str(folders[0].parent)))
    assert np.array_equal(third[np.arange(40)], alone[np.arange(40)])
    assert snapshot(folders[0].parent) == before


def test_blocks_that_are_there_are_not_made_again(source_rows, tmp_path):
    """A run that was stopped after its second block: the third alone is missing."""
    split = split_of(
        store_settings(
            many_rows(tmp_path / "data", source_rows, 2 * BLOCK_ROWS + 5), tmp_path / "run"
        )
    )
    made = []

    def prepare():
        return lambda rows: (
            made.append(len(rows)) or rows[:, None].astype(np.float32),
            {str(rows[0]): "the first of its block"},
        )

    whole = compute_rows(tmp_path / "whole", split, prepare, 0, 1)
    assert made == [BLOCK_ROWS, BLOCK_ROWS, 5]
    assert np.array_equal(whole[split.subset], split.subset[:, None])
    assert list(whole.unusable) == [0, 128, 256]
    stopped = tmp_path / "stopped"

    def two_blocks():
        make = prepare()
        return lambda rows: make(rows) if len(made) < 2 else stop()

    def stop():
        raise Preempted("after two blocks")

    made.clear()
    with pytest.raises(Preempted):
        compute_rows(stopped, split, two_blocks, 0, 1)
    made.clear()
    continued = compute_rows(stopped, split, prepare, 0, 1)
    assert made == [5] and continued.unusable == whole.unusable
    assert (stopped / "values.npy").read_bytes() == (tmp_path / "whole" / "values.npy").read_bytes()
    assert not list(stopped.glob("*.tmp")) and not list(stopped.glob("block-*.npy"))
    compute_rows(stopped, split, lambda: pytest.fail("nothing is left to make"), 0, 1)


def test_a_store_belongs_to_everything_its_maps_depend_on(birds, classifier, tmp_path):
    base = store_settings(birds, tmp_path / "run", classifier=str(classifier), mask_column="mask")
    split, pin = split_of(base), resolve(str(classifier))

    def key(**values):
        return store_key(dataclasses.replace(base, **values), split, pin)

    for method, own in {
        "grad-cam": {"saliency_layer": "resnet.encoder.stages.0", "saliency_input_size": 128},
        "spectral-residual": {"saliency_sigma": 3.0},
        # The image column counts as well: a row whose image is damaged gets no map.
        "mask-column": {"mask_column": "other", "image_column": "other"},
        "minimum-barrier": {"image_column": "other"},
    }.items():
        plain = key(saliency_method=method)
        assert plain.startswith(method + "-")
        for name, value in ({"resize": "center-crop"} | own).items():
            assert key(saliency_method=method, **{name: value}) != plain, name
        for name, value in {
            "seed": 3,
            "threshold_method": "li",
            "feather": 0.1,
            "num_variants": 2,
            "saliency_dir": "elsewhere",
        }.items():
            assert key(saliency_method=method, **{name: value}) == plain, name
    assert (
        key(
            saliency_method="minimum-barrier",
            saliency_sigma=3.0,
            saliency_layer="other",
            mask_column="other",
        )
        == key()
    )
    fewer = dataclasses.replace(split, subset=split.subset[1:])
    assert store_key(base, fewer, pin) != store_key(base, split, pin)


def test_a_store_of_other_confidences_is_not_read(birds, tmp_path, monkeypatch):
    asked = store_settings(birds, tmp_path / "run", saliency_method="consensus")
    split, source = split_of(asked), SALIENCY_SOURCES["consensus"]
    keys = {store_key(asked, split, None)}
    for edition in (source.edition - 1, source.edition + 1):
        other = dataclasses.replace(source, edition=edition)
        monkeypatch.setitem(SALIENCY_SOURCES, "consensus", other)
        keys.add(store_key(asked, split, None))
    assert len(keys) == 3


def test_maps_that_separate_nothing_are_unusable(tmp_path, source_rows):
    images = [source_rows[0]["image"]["bytes"], png(Image.new("RGB", (40, 30), "green")), b""]
    data = write_dataset(tmp_path / "data", images, [0, 1, 1])
    for method in ("minimum-barrier", "spectral-residual"):
        asked = store_settings(data, tmp_path / "run", saliency_method=method)
        maps = compute_maps(asked, split_of(asked), None, 0, 1, CPU)
        assert maps.unusable[1] == "blank saliency map"
        assert maps.unusable[2].startswith("corrupt image")
        assert sorted(maps.unusable) == [1, 2]
