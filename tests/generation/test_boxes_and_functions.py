"""Masks of bounding boxes, of a function of the user's, and of rembg."""

import sys
import types

import cv2
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image
from segmented import settings_of

from sgdmix_hub.data.images import square
from sgdmix_hub.errors import Unusable, UnusableRow, UserError
from sgdmix_hub.generation.inputs import resolve_inputs
from sgdmix_hub.generation.plan import make_plan
from sgdmix_hub.generation.row_maker import RowMaker
from sgdmix_hub.generation.saliency_maps import compute_maps
from sgdmix_hub.method.saliency.segmentation import (
    BoxSource,
    MaskFunctionSource,
    PredictedColumnSource,
    box_of,
)
from sgdmix_hub.method.saliency.sources import load_source
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.presets import apply_preset
from sgdmix_hub.settings.reasons import kind_of
from sgdmix_hub.settings.saliency import PREDICTED_FROM

CPU = torch.device("cpu")


EDGE = np.ones((64, 64))
EDGE[8:56, 8:56] = 0
PIXEL = np.zeros((256, 256))
PIXEL[100:105, 100:105] = 1


@pytest.mark.parametrize(
    "mask, fault",
    [
        (np.ones((8, 8)), "the foreground covers more than 95% of the image"),
        (EDGE, "covers more than 90% of the image's border, as a background does"),
        (PIXEL, "no foreground found"),
    ],
)
def test_a_mask_that_can_show_no_object_has_the_confidence_zero(mask, fault):
    source = MaskFunctionSource(lambda image: mask, "stretch")
    (found,) = source.found([Image.new("RGB", (20, 10))], None, None)
    assert isinstance(found, Unusable) and found.reason.startswith("mask confidence 0.00: ")
    assert fault in found.reason and kind_of(found.reason) == "mask confidence too low"
    (whole,) = MaskFunctionSource(lambda image: 1 - EDGE, "stretch").found(
        [Image.new("RGB", (20, 10))], None, None
    )
    assert whole.confidence > 0.9


@pytest.mark.parametrize(
    "mask, reason",
    [
        (np.zeros((4, 4, 3)), "shape"),
        (np.full((4, 4), 2.0), "values in"),
        (np.full((4, 4), np.nan), "values in"),
    ],
)
def test_a_function_that_gives_no_mask_makes_its_row_unusable(mask, reason):
    source = MaskFunctionSource(lambda image: mask, "stretch")
    (found,) = source.found([Image.new("RGB", (20, 10))], None, None)
    assert isinstance(found, Unusable) and reason in found.reason


BOXED = Image.new("RGB", (120, 80), (30, 90, 40))
BOXED.paste((200, 40, 30), (40, 20, 80, 60))


def of_function(mask):
    (found,) = MaskFunctionSource(lambda image: mask, "stretch").found([BOXED], None, None)
    return found


TRUE = (np.asarray(BOXED)[..., 0] > 120).astype(np.float32)
SOFT = cv2.GaussianBlur(TRUE, (0, 0), 1.5)
VAGUE = cv2.GaussianBlur(TRUE, (0, 0), 12) / cv2.GaussianBlur(TRUE, (0, 0), 12).max()


def test_the_confidence_of_a_soft_mask_falls_where_it_is_vague_or_runs_along_the_border():
    along = np.zeros_like(SOFT)
    along[:, :50] = along[:30] = 1
    along = cv2.GaussianBlur(along, (0, 0), 1.5)
    assert of_function(SOFT).confidence > PREDICTED_FROM
    assert of_function(VAGUE).confidence < PREDICTED_FROM
    assert of_function(along).confidence < of_function(SOFT).confidence
    assert (of_function(SOFT).mask == of_function(TRUE).mask).mean() > 0.99


@pytest.mark.parametrize("mask", [TRUE > 0, TRUE, (255 * TRUE).astype(np.uint8)])
def test_a_hard_mask_of_a_function_is_taken_at_its_word(mask):
    found, inside = of_function(mask), of_function(mask).mask
    shown = np.asarray(Image.fromarray(TRUE).resize((256, 256), Image.Resampling.BILINEAR))
    assert found.confidence == pytest.approx(float(shown[inside].mean()), abs=1e-6)
    assert found.confidence >= 0.5 >= PREDICTED_FROM


def test_a_column_of_predicted_masks_is_judged_as_the_function_that_makes_them_is():
    for share in (SOFT, VAGUE):
        stored = Image.fromarray(np.rint(255 * share).astype(np.uint8))
        (found,) = PredictedColumnSource("stretch").found([BOXED], None, [stored])
        by_function = of_function(np.asarray(stored))
        assert found.confidence == by_function.confidence
        assert found.mask is None and np.array_equal(found.map, by_function.map)


def test_a_prediction_that_is_nowhere_above_1_of_255_is_no_mask():
    """A model that finds nothing leaves zeros and ones: as a true mask they would be whole."""
    faint, *whole = (Image.fromarray((value * TRUE).astype(np.uint8)) for value in (1, 200, 255))
    nothing, *hard = PredictedColumnSource("stretch").found([BOXED] * 3, None, [faint, *whole])
    assert nothing == Unusable("mask confidence 0.00: the mask has no value above 1 of 255")
    for refused in hard:
        assert refused.reason.startswith("mask: it is not soft") and "mask-column" in refused.reason


def test_a_function_whose_mask_has_two_levels_is_taken_at_its_word():
    (least, most) = (of_function(level * TRUE).confidence for level in (0.6, 0.9))
    assert 0.6 < least < most < of_function(TRUE).confidence


def test_a_cut_out_is_no_predicted_mask_and_its_alpha_is():
    cut_out, alpha = BOXED.copy(), Image.fromarray(np.rint(255 * SOFT).astype(np.uint8))
    cut_out.putalpha(alpha)
    refused, found = PredictedColumnSource("stretch").found([BOXED] * 2, None, [cut_out, alpha])
    assert refused == Unusable("mask: it is a transparent image: give its alpha alone")
    assert found.confidence > PREDICTED_FROM
    (by_function,) = MaskFunctionSource(lambda image: cut_out, "stretch").found([BOXED], None, None)
    assert by_function == refused


@pytest.mark.slow
def test_of_predicted_masks_only_the_trusted_are_mixed_and_true_ones_have_no_confidence(
    tmp_path, source_rows
):
    rng = np.random.default_rng(0)
    rows: dict = {"image": [], "label": [0, 1] * 4, "alpha": []}
    for number in range(8):
        noise = rng.integers(0, 60, (80, 120, 3), np.uint8)
        pixels = np.where(TRUE[..., None] > 0, np.array([200, 40, 30], np.uint8), noise)
        share = VAGUE if number == 3 else SOFT
        rows["image"].append(Image.fromarray(pixels))
        rows["alpha"].append(Image.fromarray(np.rint(255 * share).astype(np.uint8)))
    features = Features(
        image=ImageFeature(), label=ClassLabel(names=["a", "b"]), alpha=ImageFeature()
    )
    (tmp_path / "data").mkdir()
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "data" / "train.parquet")

    def planned(method):
        values = {"saliency_method": method, "mask_column": "alpha", "preset": "recommended"}
        asked = apply_preset(
            AugmentSettings(
                dataset_name=str(tmp_path / "data"),
                output_dir=str(tmp_path / method),
                strength=0.0,
                resolution=64,
                **values,
            )
        )
        inputs = resolve_inputs(asked, tmp_path / method / "state")
        maps = compute_maps(asked, inputs.split, None, 0, 1, CPU)
        return asked, inputs, maps, list(make_plan(asked, inputs.split, maps))

    asked, inputs, maps, plan = planned("predicted-column")
    (left_out,) = (row for row in plan if row.skip is not None)
    assert left_out.source_index == 3 and kind_of(left_out.skip) == "mask confidence too low"
    assert not any(row.target_index == 3 for row in plan if row.skip is None)
    maker = RowMaker(asked, inputs, maps)
    row = next(row for row in plan if row.skip is None)
    mixture = maker.mixture(row)
    assert maker.columns(row, mixture)["mask_confidence"] == maps.confidence(row.source_index)
    assert maps.mask(0) is None and maps.confidence(0) >= PREDICTED_FROM > maps.confidence(3)
    _, _, true_maps, true_plan = planned("mask-column")
    assert true_maps.confidence(3) is None
    assert all(row.skip is None for row in true_plan)


@pytest.mark.parametrize("resize", ["stretch", "center-crop"])
def test_grabcut_finds_the_object_in_its_box(resize):
    (found,) = BoxSource(resize).found([BOXED], None, [box_of([30, 10, 60, 60], "xywh")])
    true = np.asarray(square(BOXED, 256, resize))[..., 0] > 120
    assert (found.mask & true).sum() / (found.mask | true).sum() > 0.9
    assert found.confidence is None and found.map.dtype == np.float16


@pytest.mark.parametrize(
    "cell, bbox_format, reason",
    [
        ([1, 2, 3], "xyxy", "not four numbers"),
        (None, "xyxy", "not four numbers"),
        ([[1, 2, 3, 4]] * 4, "xyxy", "not four numbers"),
        ([30, 10, 20, 60], "xyxy", "is bbox_format right"),
        ([30, 10, 0, 60], "xywh", "is bbox_format right"),
        ([1, 2, float("nan"), 4], "xywh", "is bbox_format right"),
    ],
)
def test_a_cell_that_is_no_box_names_what_is_wrong(cell, bbox_format, reason):
    with pytest.raises(UnusableRow, match=reason):
        box_of(cell, bbox_format)


@pytest.mark.slow
def test_a_column_of_boxes_makes_a_generation(tmp_path, source_rows):
    boxes = [[4.0, 4.0, 26.0, 26.0]] * 7 + [[0.0, 0.0, 32.0, 32.0]]
    features = Features(
        image=ImageFeature(), label=ClassLabel(names=["a", "b"]), box=List(Value("float32"))
    )
    rows = {
        "image": [row["image"] for row in source_rows[:8]],
        "label": [0, 1] * 4,
        "box": boxes,
    }
    (tmp_path / "data").mkdir()
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "data" / "train.parquet")
    values = {"saliency_method": "box-column", "bbox_column": "box", "bbox_format": "xyxy"}
    asked = settings_of(tmp_path / "data", tmp_path / "run", **values)
    inputs = resolve_inputs(asked, tmp_path / "run" / "state")
    maps = compute_maps(asked, inputs.split, None, 0, 1, CPU)
    assert maps.mask(0).any() and maps.confidence(0) is None
    assert not maps.mask(0)[:30].any() and "no background" in maps.unusable[7]
    maker = RowMaker(asked, inputs, maps)
    row = next(row for row in make_plan(asked, inputs.split, maps) if row.skip is None)
    mixture = maker.mixture(row)
    assert mixture.foreground_area > 0
    columns = maker.columns(row, mixture)
    assert columns["mask_confidence"] is None
    size = inputs.split.image(row.source_index).size
    assert (columns["source_width"], columns["source_height"]) == size


def test_rembg_is_asked_for_the_mask_alone(monkeypatch):
    asked = apply_preset(
        AugmentSettings(dataset_name="d", output_dir="o", strength=0, saliency_method="rembg")
    )
    monkeypatch.setitem(sys.modules, "rembg", None)
    with pytest.raises(UserError, match=r"pip install 'sgdmix_hub\[rembg\]'"):
        load_source(asked)
    alpha = np.zeros((80, 120), np.uint8)
    alpha[20:60, 40:80] = 200

    def remove(image, session, only_mask):
        assert only_mask and session == "session of isnet-general-use"
        return Image.fromarray(alpha)

    package = types.SimpleNamespace(new_session=lambda name: f"session of {name}", remove=remove)
    monkeypatch.setitem(sys.modules, "rembg", package)
    (found,) = load_source(asked).found([BOXED], None, None)
    assert PREDICTED_FROM < found.confidence < 1
    assert found.mask.mean() == pytest.approx(1600 / 9600, abs=0.01)
