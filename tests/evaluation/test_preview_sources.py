"""The preview's columns of every source of masks, and its answers to mistakes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from datasets import Image as ImageFeature
from generations import arguments, one_line, png, run_script, write_dataset
from PIL import Image
from previews import PREVIEW, generation, preview

from sgdmix_hub.data.splits import decode_image, load_split
from sgdmix_hub.errors import UserError
from sgdmix_hub.evaluation.drawn_split import KEPT_SIDE, draw_split
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.method.mixer import Mixer
from sgdmix_hub.settings.programs import PreviewSettings

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
