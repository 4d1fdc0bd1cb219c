"""Generations on masks of segmentation models, boxes and functions: stores, confidence, published
columns.
"""

import dataclasses
import gc
import json
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value, load_dataset
from datasets import Image as ImageFeature
from generations import ROWS, arguments, manifest_of, pixels_of, published_rows, run_script
from PIL import Image
from rowstores import many_rows
from segmented import SEGMENTED, settings_of
from support.tiny_segmenters import (
    clipseg,
    eomt,
    grounding_dino,
    mask2former,
    sam2,
    sam3,
    saved_segmenter,
    segformer,
)

from sgdmix_hub.data.images import square
from sgdmix_hub.data.splits import load_split
from sgdmix_hub.errors import Preempted, TooManySkipped, Unusable, UnusableRow, UserError
from sgdmix_hub.generation import row_blocks, saliency_maps
from sgdmix_hub.generation.inputs import Inputs, resolve_inputs
from sgdmix_hub.generation.plan import make_plan
from sgdmix_hub.generation.row_maker import RowMaker
from sgdmix_hub.generation.saliency_maps import compute_maps, saliency_root, store_key
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.mapped import MappedSplit
from sgdmix_hub.method.saliency.segmentation import MaskFunctionSource
from sgdmix_hub.models.loading import SegmenterPins
from sgdmix_hub.pipeline import SGDMixPipeline
from sgdmix_hub.publishing.layout import check_share_skipped
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.parsing import as_arguments, parse_settings, read_yaml
from sgdmix_hub.settings.reasons import NO_BACKGROUND, kind_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    """Folder of a tiny EoMT with random weights, which knows a class `bird`."""
    return saved_segmenter(eomt, tmp_path_factory.mktemp("segmenter") / "eomt")


def split_of(asked):
    return load_split(asked, resolve(asked.dataset_name, repo_type="dataset"))


def made_by(processes, asked, pins):
    """Maps made by this many processes of a launch, here threads that share the folder alone."""
    results = {}

    def work(rank):
        results[rank] = compute_maps(asked, split_of(asked), None, rank, processes, CPU, pins)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(1, processes)]
    for thread in threads:
        thread.start()
    work(0)
    for thread in threads:
        thread.join(timeout=120)
    assert len(results) == processes
    return results[0]


FAMILIES = {
    "SAM 3": (sam3, None, {}),
    "Grounding DINO and SAM 2.1": (sam2, grounding_dino, {}),
    "SAM 2.1 on boxes": (sam2, None, {"bbox_column": "box", "bbox_format": "xyxy"}),
    "CLIPSeg": (clipseg, None, {}),
    "Mask2Former": (mask2former, None, {}),
}


def boxed_rows(folder, source_rows, number, damaged):
    """Folder dataset of `number` rows with boxes; the images in `damaged` do not decode."""
    boxes = [[2.0 + row % 7, 3.0, 20.0 + row % 9, 28.0] for row in range(number)]
    cells = [source_rows[row % len(source_rows)]["image"] for row in range(number)]
    for row in damaged:
        cells[row] = {"bytes": b"no image", "path": None}
    features = Features(
        image=ImageFeature(), label=ClassLabel(names=["a", "b"]), box=List(Value("float32"))
    )
    rows = {"image": cells, "label": [row % 2 for row in range(number)], "box": boxes}
    folder.mkdir()
    Dataset.from_dict(rows, features=features).to_parquet(folder / "train.parquet")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_any_number_of_processes_gives_the_same_store(family, source_rows, tmp_path, monkeypatch):
    """A few rows a block, one image that cannot be decoded, and a run that is stopped and resumed
    with another number of processes.
    """
    make, make_detector, values = FAMILIES[family]
    monkeypatch.setattr(row_blocks, "BLOCK_ROWS", 4)
    data = boxed_rows(tmp_path / "data", source_rows, 12, damaged=[3])
    pins = SegmenterPins(
        resolve(str(saved_segmenter(make, tmp_path / "segmenter"))),
        make_detector and resolve(str(saved_segmenter(make_detector, tmp_path / "detector"))),
        () if values else ("bird",),
    )
    stores, maps = {}, None
    for processes in (1, 3):
        asked = settings_of(data, tmp_path / str(processes), **values)
        maps = made_by(processes, asked, pins)
        folder = saliency_root(asked) / maps.key
        stores[processes] = [
            (folder / name).read_bytes() for name in ("values.npy", "unusable.json")
        ]
        assert "corrupt" in maps.unusable[3] and len(maps.unusable) < 8
    assert stores[1] == stores[3]
    found = [row for row in range(12) if row not in maps.unusable]
    assert len({maps.mask(row).tobytes() for row in found}) > 1
    assert all(0 < maps.confidence(row) <= 1 for row in found)
    assert maps[0].shape == (64, 64) and maps[np.arange(3)].shape == (3, 64, 64)
    assert not maps.mask(3).any() and maps.confidence(3) == 0

    asked = settings_of(data, tmp_path / "killed", **values)
    stops = iter([None, Preempted("stopped")])

    def stop_after_a_block():
        if (reason := next(stops, None)) is not None:
            raise reason

    with monkeypatch.context() as patch:
        patch.setattr(row_blocks, "stop_if_requested", stop_after_a_block)
        with pytest.raises(Preempted):
            made_by(1, asked, pins)
    folder = saliency_root(asked) / maps.key
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("block-*.npy")}
    assert len(kept) == 1 and not (folder / "values.npy").exists()
    made = compute_calls(monkeypatch)
    made_by(2, asked, pins)
    assert sorted(made) == [4, 8]  # the first rows of the blocks that were left
    assert [(folder / name).read_bytes() for name in ("values.npy", "unusable.json")] == stores[1]


def compute_calls(monkeypatch):
    """The first row of every block that is computed from here on."""
    first_rows, block_maps = [], saliency_maps.block_maps

    def recorded(settings, split, rows, source):
        first_rows.append(int(rows[0]))
        return block_maps(settings, split, rows, source)

    monkeypatch.setattr(saliency_maps, "block_maps", recorded)
    return first_rows


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_anonymous_memory_does_not_grow_with_the_rows(source_rows, tmp_path, monkeypatch):
    """A store of 10 MB, made in blocks of 0.3 MB after a warm-up."""
    monkeypatch.setattr(row_blocks, "BLOCK_ROWS", 16)
    pins = SegmenterPins(
        resolve(str(saved_segmenter(segformer, tmp_path / "model"))), None, ("bird",)
    )
    grown = {}
    for number in (64, 600):
        asked = settings_of(
            many_rows(tmp_path / f"data {number}", source_rows, number), tmp_path / f"run {number}"
        )
        split = split_of(asked)
        before = anonymous_memory()
        maps = compute_maps(asked, split, None, 0, 1, CPU, pins)
        grown[number] = anonymous_memory() - before
        size = (saliency_root(asked) / maps.key / "values.npy").stat().st_size
    assert size > 9e6 and grown[600] < 3e6, grown


def anonymous_memory() -> int:
    """Bytes of this process that no file backs."""
    gc.collect()
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"RssAnon:\s+(\d+)", status)[1])


def test_what_the_masks_depend_on_is_in_the_name_of_the_store(segmenter, birds, tmp_path):
    asked = settings_of(birds, tmp_path)
    split, pin = split_of(asked), resolve(str(segmenter))

    def key(pins=None, **values):
        return store_key(
            dataclasses.replace(asked, **values),
            split,
            None,
            pins or SegmenterPins(pin, None, ("bird",)),
        )

    other = dataclasses.replace(pin, revision="sha256-" + "0" * 64)
    keys = [
        key(),
        key(SegmenterPins(other, None, ("bird",))),
        key(SegmenterPins(pin, other, ("bird",))),
        key(SegmenterPins(pin, None, ("bird", "finch"))),
        key(segmenter_instances="largest"),
        key(resize="center-crop"),
        key(bbox_column="box", bbox_format="xywh"),
    ]
    assert len(set(keys)) == len(keys) and key() == key(min_mask_confidence=0.9)


def test_the_mask_that_cuts_is_as_fine_as_what_the_source_gave(birds, tmp_path):
    """A line of one cell of 256 survives at 256 pixels; it would not in a 64x64 map."""

    def make_mask(image):
        mask = np.zeros((256, 256), bool)
        mask[64:192, 64:192] = mask[20:64, 128] = True
        return mask

    dataset = load_dataset(str(birds), split="train")
    pipeline = SGDMixPipeline.from_pretrained(
        mask_function=make_mask, strength=0, resolution=256, preset="recommended"
    )
    mapped = MappedSplit(pipeline, dataset)
    mask = mapped.maker.masked_image(0).mask
    assert np.array_equal(mask, make_mask(None))
    assert mapped.maker.maps.confidence(0) == 1.0
    again = MappedSplit(pipeline, dataset)
    assert mapped.options["new_fingerprint"] == again.options["new_fingerprint"]
    (made,) = pipeline(dataset[0]["image"], dataset[7]["image"]).images
    source = np.asarray(square(dataset[0]["image"], 256, "stretch"))
    assert np.array_equal(np.asarray(made)[100:150, 100:150], source[100:150, 100:150])


@pytest.fixture(scope="module")
def generated(segmenter, birds, tmp_path_factory):
    """A run in which the less trusted half of the images stays unmixed."""
    output = tmp_path_factory.mktemp("run")
    asked = settings_of(birds, output)
    pins = SegmenterPins(resolve(str(segmenter)), None, ("bird",))
    maps = compute_maps(asked, split_of(asked), None, 0, 1, CPU, pins)
    assert not maps.unusable
    floor = round(float(np.median([maps.confidence(row) for row in range(ROWS)])), 4)
    values = SEGMENTED | {
        "dataset_name": birds,
        "segmenter": segmenter,
        "output_dir": output,
        "min_mask_confidence": floor,
        "low_confidence": "keep-unmixed",
        "image_format": "png",
    }
    ended = run_script(arguments(values), output / "logs")
    assert ended.returncode == 0, ended.stderr
    return values, maps, floor


@pytest.mark.slow
def test_rows_below_the_floor_are_their_source(generated, birds):
    values, maps, floor = generated
    rows = published_rows(values["output_dir"])
    assert len(rows) == ROWS
    split = split_of(settings_of(birds, values["output_dir"]))
    low = {row for row in range(ROWS) if maps.confidence(row) < floor}
    assert 0 < len(low) < ROWS
    for row in rows:
        source = row["source_index"]
        assert row["mask_confidence"] == pytest.approx(maps.confidence(source))
        assert row["target_index"] not in low - {source}
        assert (source in low) == (row["target_index"] == source)
        if source in low:
            assert row["strength"] == 0 and row["foreground_area"] == 1
            assert np.array_equal(
                pixels_of(row), np.asarray(square(split.image(source), 64, "stretch"))
            )


@pytest.mark.slow
def test_what_made_the_masks_is_published(generated, segmenter):
    values, maps, floor = generated
    output = values["output_dir"]
    manifest, pin = manifest_of(output), str(resolve(str(segmenter)))
    unmixed = sum(maps.confidence(row) < floor for row in range(ROWS))
    assert manifest["pins"]["segmenter"] == pin
    assert manifest["saliency"]["sought"] == ["bird"]
    assert manifest["saliency"]["unmixed"] == unmixed
    config = read_yaml(output / "repo" / "sgdmix" / "default" / "config.yaml")
    assert config["segmenter"] == pin and config["min_mask_confidence"] == floor
    card = (output / "repo" / "README.md").read_text()
    assert f"| segmenter | {pin} |" in card and "| the segmenter looked for | bird |" in card
    assert f"{unmixed} rows keep their source as it is" in card
    assert str(segmenter) not in card + json.dumps(manifest)


@pytest.mark.slow
def test_a_published_version_is_made_again_from_its_plan(generated, tmp_path):
    values, *_ = generated
    config = values["output_dir"] / "repo" / "sgdmix" / "default" / "config.yaml"
    inputs = {name: values[name] for name in ("dataset_name", "segmenter")}
    again = inputs | {"config": config, "output_dir": tmp_path / "again"}
    ended = run_script(arguments(again), tmp_path / "logs")
    assert ended.returncode == 0, ended.stderr
    assert "the plan is that of" in ended.stdout
    assert published_rows(tmp_path / "again") == published_rows(values["output_dir"])


def test_a_row_below_the_floor_is_skipped_and_says_why(segmenter, birds, tmp_path):
    asked = settings_of(birds, tmp_path, segmenter=str(segmenter), min_mask_confidence=1.0)
    inputs = resolve_inputs(asked, tmp_path / "state")
    assert inputs.pins["segmenter"].startswith("eomt@sha256-")
    maps = compute_maps(asked, inputs.split, None, 0, 1, CPU, inputs.segmenter)
    plan = list(make_plan(asked, inputs.split, maps))
    assert len(plan) == ROWS
    for row in plan:
        confidence = maps.confidence(row.source_index)
        assert row.skip == f"mask confidence {confidence:.2f} is below min_mask_confidence 1"
    with pytest.raises(UnusableRow, match="mask confidence"):
        RowMaker(asked, inputs, maps).mixture(plan[0])
    skipped = [{"reason": row.skip} for row in plan]
    skipped.append({"reason": f"{NO_BACKGROUND}: 83% of it, at most 75% are filled"})
    check_share_skipped({"skipped": skipped, "planned_rows": ROWS}, 0.01, tmp_path)
    assert {kind_of(row["reason"]) for row in skipped} == {
        "mask confidence too low",
        NO_BACKGROUND,
    }
    with pytest.raises(TooManySkipped):
        check_share_skipped({"skipped": [{"reason": "no bird"}], "planned_rows": 1}, 0, tmp_path)


def test_what_shows_no_bird_has_the_confidence_zero(birds, tmp_path):
    def make_mask(image):
        return np.zeros((8, 8))

    (found,) = MaskFunctionSource(make_mask, "stretch").found(
        [Image.new("RGB", (20, 10))], None, None
    )
    assert found == Unusable("mask confidence 0.00: no foreground found")


@pytest.mark.parametrize(
    "values, message",
    [
        ({}, "give --segmenter"),
        ({"detector": "org/dino"}, "detector needs --segmenter"),
        ({"saliency_method": "box-column"}, "give --bbox_column"),
        ({"bbox_column": "box"}, "belong together"),
        ({"segmenter": "org/sam", "segmenter_instances": "nearest-box"}, "needs --bbox_column"),
        (
            {"saliency_method": "minimum-barrier", "min_mask_confidence": 0.5},
            "gives confidences, which minimum-barrier does not",
        ),
        ({"saliency_method": "function"}, "is for Python"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        settings_of("org/data", "run", **values).validate()


def test_a_published_configuration_names_its_segmenter_by_commit(tmp_path):
    config = tmp_path / "sgdmix" / "default"
    config.mkdir(parents=True)
    (config / "config.yaml").write_text("segmenter: org/sam\ndataset_name: org/data@" + "0" * 40)
    for name in ("plan.parquet", "manifest.json"):
        (config / name).touch()
    words = as_arguments({"config": str(config / "config.yaml"), "output_dir": "run"})
    with pytest.raises(UserError, match="segmenter"):
        parse_settings(AugmentSettings, words)


def test_inputs_without_a_segmenter_have_no_pin_of_one(birds, tmp_path):
    asked = settings_of(birds, tmp_path, saliency_method="minimum-barrier")
    assert "segmenter" not in Inputs(split_of(asked), None, None, None, None).pins
