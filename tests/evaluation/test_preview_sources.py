"""The preview's columns of every source of masks, and its answers to mistakes."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from datasets import Image as ImageFeature
from generations import arguments, one_line, png, run_script, write_dataset
from PIL import Image
from previews import PREVIEW, generation, preview
from skimage.filters import threshold_otsu

from sgdmix_hub.data.splits import decode_image, load_split
from sgdmix_hub.errors import UserError
from sgdmix_hub.evaluation.drawn_split import KEPT_SIDE, draw_split
from sgdmix_hub.generation.saliency_maps import stored_mask
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.method.mixer import Mixer
from sgdmix_hub.settings.programs import PreviewSettings
from sgdmix_hub.settings.saliency import PREDICTED_FROM

CPU = torch.device("cpu")
TINY_SEGMENTER = Path(__file__).parents[2] / "sgdmix_hub" / "demo" / "tiny_segmenter"


# ---- sources of masks ----


@pytest.fixture(scope="module")
def boxed(source_rows, tmp_path_factory):
    """Folder dataset of eight birds with their true boxes, xywh, and masks."""
    rows = source_rows[::3]
    boxes = []
    for row in rows:
        y, x = np.nonzero(np.asarray(decode_image(row["mask"])) > 0)
        boxes.append([float(v) for v in (x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1)])
    features = Features(
        image=ImageFeature(),
        mask=ImageFeature(),
        label=ClassLabel(names=["a", "b"]),
        box=List(Value("float32")),
    )
    columns = {name: [row[name] for row in rows] for name in ("image", "mask")}
    columns |= {"label": [0, 1] * (len(rows) // 2), "box": boxes}
    folder = tmp_path_factory.mktemp("boxed")
    Dataset.from_dict(columns, features=features).to_parquet(folder / "train.parquet")
    return folder


@pytest.mark.slow
def test_every_source_at_hand_has_a_column_and_its_confidence(boxed, tmp_path):
    """The masks of the segmenter and of the boxes, as a generation makes them."""
    chosen = {"segmenter": TINY_SEGMENTER, "bbox_column": "box", "bbox_format": "xywh"}
    ended, facts, _ = preview(
        tmp_path,
        **chosen,
        dataset_name=boxed,
        metaclass="bird",
        mask_column="mask",
        min_mask_confidence=0.97,
        resolution=32,
        num_images=2,
        num_candidates=5,
        output_dir=tmp_path / "preview",
    )
    columns = {of["saliency_method"]: of for of in facts["masks"]}
    assert columns["segmentation"]["presets"] == ["recommended"]
    assert columns["box-column"]["untrusted"] is None
    for method, choices in {
        "segmentation": {"segmenter_prompt": "bird", "min_mask_confidence": 0.97},
        "box-column": {},
    }.items():
        settings, inputs, maps, plan = generation(
            boxed, tmp_path / method, saliency_method=method, **chosen, **choices
        )
        mixer = Mixer(settings)
        masks = [
            mixer.mask(inputs.split.image(row), maps[row], found_mask=maps.mask(row)).mask
            for row in inputs.split.subset
        ]
        assert columns[method]["foreground_area"] == np.mean(masks)
        if method == "segmentation":
            untrusted = {str(row.source_index) for row in plan if "confidence" in (row.skip or "")}
            assert set(columns[method]["untrusted_rows"]) == untrusted
            assert columns[method]["untrusted"] == len(untrusted) / 8
            assert 0 < len(untrusted) < 8
    assert (
        f"segmentation by {TINY_SEGMENTER} with the boxes of column box, looking for bird"
        in facts["recommended"]
    )
    assert f"{len(untrusted)} of 8 images" in ended.stdout


@pytest.fixture(scope="module")
def predicted(boxed, tmp_path_factory):
    """The same birds with masks as a model predicts them: soft ones in `alpha`, of which the fourth
    is vague, and the true ones in `hard`.
    """
    rows = Dataset.from_parquet(str(boxed / "train.parquet"))
    folder = tmp_path_factory.mktemp("predicted")

    def alpha(number):
        true = np.asarray(rows[number]["mask"].convert("L"), np.float32)
        soft = cv2.GaussianBlur(true, (0, 0), 12 if number == 3 else 0.6)
        return Image.fromarray(np.rint(soft * 200 / soft.max()).astype(np.uint8))

    columns = {"image": rows["image"], "hard": rows["mask"], "label": rows["label"]}
    columns["alpha"] = [alpha(number) for number in range(len(rows))]
    features = Features(
        image=ImageFeature(),
        hard=ImageFeature(),
        label=ClassLabel(names=["a", "b"]),
        alpha=ImageFeature(),
    )
    Dataset.from_dict(columns, features=features).to_parquet(str(folder / "train.parquet"))
    return folder


@pytest.mark.slow
def test_predicted_masks_are_shown_with_their_confidence_as_a_generation_cuts_them(
    predicted, tmp_path
):
    chosen = {"saliency_method": "predicted-column", "mask_column": "alpha"}
    ended, facts, _ = preview(
        tmp_path,
        **chosen,
        dataset_name=predicted,
        resolution=32,
        num_candidates=5,
        output_dir=tmp_path / "preview",
    )
    first, *others = facts["masks"][2:]  # after spectral-residual, for the preset paper
    assert (first["name"], first["presets"]) == ("predicted-column + own mask", ["recommended"])
    assert {of["saliency_method"] for of in others} == {"consensus", "minimum-barrier"}
    assert facts["best_fixed_iou"] is None and "iou" not in first
    settings, inputs, maps, plan = generation(predicted, tmp_path / "run", **chosen)
    assert first["min_mask_confidence"] == settings.min_mask_confidence == PREDICTED_FROM
    rows = inputs.split.subset.tolist()
    assert first["confidence"] == pytest.approx(np.mean([maps.confidence(row) for row in rows]))
    masks = [
        Mixer(settings)
        .mask(inputs.split.image(row), maps[row], None, stored_mask(settings, inputs.split, row))
        .mask
        for row in rows
    ]
    assert first["foreground_area"] == np.mean(masks)
    shares = [np.asarray(decode_image(inputs.split.cell(row, "alpha"))) / 255.0 for row in rows]
    cut = [share > threshold_otsu(share) for share in shares]
    assert np.mean(masks) == pytest.approx(np.mean(cut), rel=0.01)
    assert np.mean(cut) > 1.03 * np.mean([share > 0.5 for share in shares])
    untrusted = {str(row.source_index) for row in plan if row.skip is not None}
    assert set(first["untrusted_rows"]) == untrusted == {"3"}
    assert "predicted masks in column alpha of the dataset" in ended.stdout
    assert "1 of 8 images" in ended.stdout


@pytest.mark.slow
def test_backgrounds_without_foregrounds_are_not_asked_for_their_masks(predicted, tmp_path):
    """As a generation does not ask: with such a column or without, they stay as they are."""
    pages = []
    for name, left_out in {"with": [], "without": ["alpha"]}.items():
        rows = Dataset.from_parquet(str(predicted / "train.parquet"))
        bank = tmp_path / name / "bank"
        bank.mkdir(parents=True)
        rows.remove_columns(left_out).to_parquet(str(bank / "train.parquet"))
        *_, page = preview(
            tmp_path,
            saliency_method="predicted-column",
            mask_column="alpha",
            dataset_name=predicted,
            background_dataset_name=bank,
            resolution=32,
            num_images=2,
            output_dir=tmp_path / name / "preview",
        )
        pages.append(np.asarray(Image.open(io.BytesIO(page))))
    assert np.array_equal(*pages)


@pytest.mark.slow
def test_a_segmenter_at_hand_is_shown_beside_the_source_that_is_named(predicted, tmp_path):
    _, facts, _ = preview(
        tmp_path,
        saliency_method="predicted-column",
        mask_column="alpha",
        segmenter=TINY_SEGMENTER,
        segmenter_prompt="bird",
        dataset_name=predicted,
        resolution=32,
        num_images=2,
        output_dir=tmp_path / "preview",
    )
    columns = {of["saliency_method"]: of for of in facts["masks"]}
    assert columns["predicted-column"]["presets"] == ["recommended"]
    assert columns["segmentation"]["foreground_area"] > 0


@pytest.mark.slow
def test_hard_masks_in_the_place_of_predicted_ones_are_shown_as_the_rows_they_cost(
    predicted, tmp_path
):
    _, facts, _ = preview(
        tmp_path,
        saliency_method="predicted-column",
        mask_column="hard",
        dataset_name=predicted,
        resolution=32,
        output_dir=tmp_path / "preview",
    )
    shown = next(of for of in facts["masks"] if of["saliency_method"] == "predicted-column")
    assert (shown["untrusted"], shown["empty"]) == (1, 1)
    assert all("it is not soft" in reason for reason in shown["untrusted_rows"].values())


@pytest.mark.slow
def test_a_column_that_is_taken_as_true_is_mixed_by_and_measured_against(boxed, tmp_path):
    _, facts, _ = preview(
        tmp_path,
        saliency_method="mask-column",
        mask_column="mask",
        dataset_name=boxed,
        resolution=32,
        output_dir=tmp_path / "preview",
    )
    taken = next(of for of in facts["masks"] if of["saliency_method"] == "mask-column")
    assert taken["presets"] == ["recommended"] and taken["untrusted"] is None
    assert taken["iou"] > 0.9 and facts["best_fixed_iou"] < taken["iou"]
    mixed = next(of for of in facts["mixtures"] if of["name"] == "recommended")
    assert mixed["foreground_kept"] > 0.9 and mixed["mixtures"] == 8


@pytest.mark.slow
def test_rows_that_stay_unmixed_are_shown_and_not_measured(boxed, tmp_path):
    _, facts, _ = preview(
        tmp_path,
        segmenter=TINY_SEGMENTER,
        segmenter_prompt="bird",
        dataset_name=boxed,
        mask_column="mask",
        min_mask_confidence=1.0,
        low_confidence="keep-unmixed",
        resolution=32,
        output_dir=tmp_path / "preview",
    )
    whole = next(of for of in facts["mixtures"] if of["name"] == "recommended")
    assert whole["mixtures"] == 0 and whole["effective_targets"] is None


def test_boxes_shrink_with_their_images(tmp_path):
    image, side = png(Image.new("RGB", (1800, 900), (9, 90, 9))), KEPT_SIDE / 900
    features = Features(
        image=ImageFeature(), label=ClassLabel(names=["a"]), box=List(Value("int32"))
    )
    rows = {"image": [{"bytes": image, "path": None}], "label": [0], "box": [[90, 45, 900, 450]]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    settings = PreviewSettings(dataset_name=str(tmp_path), output_dir=str(tmp_path / "out"))
    split, _ = draw_split(settings, load_split(settings, resolve(str(tmp_path), "dataset")), print)
    assert split.cell(0, "box") == pytest.approx(
        [90 * side, 45 * side, 900 * side, 450 * side], 0.01
    )
    assert split.cell(0, "label") == 0


# ---- mistakes ----


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"mask_column": "label"}, ["no image column 'label'"]),
        ({"dataset_name": "nowhere"}, ["nowhere", "no such folder"]),
        ({"num_images": 0}, ["num_images"]),
        ({"segmenter": "nowhere"}, ["nowhere", "no such folder"]),
        ({"segmenter": TINY_SEGMENTER}, ["give --segmenter_prompt"]),
        ({"bbox_column": "box", "bbox_format": "xywh"}, ["no column 'box'"]),
        ({"bbox_column": "box"}, ["belong together"]),
        ({"saliency_method": "predicted-column"}, ["give --mask_column"]),
        (
            {"saliency_method": "predicted-column", "mask_column": "alpha"},
            ["no image column 'alpha'"],
        ),
        ({"saliency_method": "grad-cam"}, ["give --classifier"]),
        ({"num_image": 3}, ["num_image", "--help"]),
    ],
)
def test_a_mistake_ends_in_one_line(birds, tmp_path, wrong, words):
    chosen = {"dataset_name": birds, "output_dir": tmp_path / "preview", "resolution": 32} | wrong
    one_line(run_script(arguments(chosen), tmp_path, PREVIEW), *words)
    assert not (tmp_path / "preview" / "preview.png").exists()


@pytest.mark.slow
def test_classifier_of_other_classes_is_refused(source_rows, classifier, tmp_path):
    data = write_dataset(
        tmp_path / "data", [row["image"]["bytes"] for row in source_rows[:4]], [0, 0, 1, 1]
    )
    chosen = {"dataset_name": data, "output_dir": tmp_path / "preview", "classifier": classifier}
    one_line(run_script(arguments(chosen), tmp_path, PREVIEW), "classifier's 4 classes")


@pytest.mark.slow
def test_no_usable_image_is_an_error(tmp_path):
    data = write_dataset(tmp_path / "data", [b"none", b""], [0, 1])
    one_line(
        run_script(
            arguments({"dataset_name": data, "output_dir": tmp_path / "preview"}), tmp_path, PREVIEW
        ),
        "can be decoded",
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_candidates": 0},
        {"num_images": 25},
        {"resolution": 30},
        {"saliency_layer": "resnet"},
        {"saliency_input_size": 64},
        {"saliency_input_size": 0, "classifier": "folder"},
        {"num_threads": 0},
    ],
)
def test_impossible_settings(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        PreviewSettings(**{"dataset_name": "data", "output_dir": "out"} | wrong).validate()
