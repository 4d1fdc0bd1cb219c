"""Preprocessing for third-party classifiers: as their image processor does, or they are refused."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
import transformers as hf
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_classifiers import ALL, NAMES, SIDE, SQUARE, save_tiny

from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.classifier import Classifier, build_for_training
from sgdmix_hub.models.preprocessing import (
    Preprocessing,
    measured_preprocessing,
    recorded_preprocessing,
    stock_processor,
)

CPU = torch.device("cpu")
SIZES = [(90, 60), (50, 110), (64, 64), (300, 200)]


def pictures(sizes=SIZES):
    """Smooth random images: a resize that rounds in another way moves them by little, another crop
    or value by much.
    """
    rng = np.random.default_rng(0)
    small = [Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)) for _ in sizes]
    return [
        image.resize(size, Image.Resampling.BICUBIC)
        for image, size in zip(small, sizes, strict=True)
    ]


@pytest.fixture(scope="module", params=ALL)
def foreign(request, tmp_path_factory):
    """The folder of a classifier that was trained elsewhere."""
    return save_tiny(request.param, tmp_path_factory.mktemp("foreign") / "classifier")


@pytest.mark.slow
def test_a_classifier_from_elsewhere_scores_as_through_its_own_image_processor(foreign):
    """Also without normalisation, in BGR, cropped, normalised twice; images of any shape, alone or
    among others.
    """
    classifier = Classifier(resolve(str(foreign)), CPU)
    processor = hf.AutoImageProcessor.from_pretrained(foreign)
    model = hf.AutoModelForImageClassification.from_pretrained(foreign).eval()
    with torch.no_grad():
        stock = torch.cat(
            [model(**processor(images=image, return_tensors="pt")).logits for image in pictures()]
        )
    ours = torch.cat([classifier.logits(classifier.transform(image)[None]) for image in pictures()])
    assert stock.max() - stock.min() > 0.01
    torch.testing.assert_close(ours, stock, atol=1e-5, rtol=1e-5)
    assert np.array_equal(classifier.predict(pictures()), stock.argmax(-1).numpy())
    alone = np.concatenate([classifier.probabilities([image]) for image in pictures()])
    np.testing.assert_allclose(alone, classifier.probabilities(pictures()), atol=1e-3)


def test_a_whole_image_has_the_values_and_the_scale_that_the_processor_gives_its_middle(foreign):
    """What a CAM sees: the processor's input, and what lies around it."""
    classifier = Classifier(resolve(str(foreign)), CPU)
    found = classifier.preprocessing
    assert found.size == SIDE <= found.resize_size
    (image,) = pictures([(found.resize_size,) * 2])
    before = (found.resize_size - SIDE) // 2
    cut = slice(before, before + SIDE)
    middle = found.whole(image, found.resize_size, "stretch")[:, cut, cut]
    seen = classifier.transform(image)
    one_level = 1 / 255 / min(found.std)
    assert (middle - seen).abs().mean() < 2 * one_level  # a crop may be one pixel further
    assert torch.equal(found.evaluation()(image), middle)
    mask = np.zeros((found.resize_size,) * 2, bool)
    mask[:, : found.resize_size // 2] = True
    assert found.seen(mask).shape == (SIDE, SIDE) and abs(found.seen(mask).mean() - 0.5) <= 1 / SIDE


# ---- what cannot be used ----

UNUSABLE = {
    "patches": (hf.Siglip2ImageProcessor(), "Siglip2ImageProcessor.*shape"),
    "several sizes": (hf.DetrImageProcessor(), "DetrImageProcessor"),
    "no crop": (hf.BitImageProcessor(do_center_crop=False), r"\(1, 3, 224, 336\)"),
    "no resize": (hf.BitImageProcessor(do_resize=False, crop_size=SQUARE), "scale"),
    "padding": (hf.BitImageProcessor(do_resize=False), "pads"),
    "nothing": (hf.ViTImageProcessor(do_resize=False), r"\(1, 3, 64, 96\)"),
    "broken": (
        hf.ViTImageProcessor(size={"height": 64, "width": 64}, image_mean=[0.5, 0.5]),
        "fails",
    ),
    "no spread": (
        hf.ViTImageProcessor(size=SQUARE, image_std=[float("inf")] * 3),
        "white brighter than black",
    ),
    "gigantic": (
        hf.ViTImageProcessor(size={"height": 10**5, "width": 10**5}),
        "has a size of 100000: 8192 is the largest",
    ),
    "cropped from gigantic": (
        hf.ConvNextImageProcessor(size={"shortest_edge": 10**5}),
        "has a size of 100000",
    ),
    "a gigantic crop": (
        hf.BitImageProcessor(crop_size={"height": 10**5, "width": 64}),
        "has a crop_size of 100000",
    ),
    "infinite": (
        hf.ViTImageProcessor(size=SQUARE, image_std=[1e-45] * 3),
        "white brighter than black|fails",
    ),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_processor_that_gives_no_square_images_of_one_scale_is_refused_by_its_name(name):
    processor, told = UNUSABLE[name]
    with pytest.raises(UserError, match=told) as error:
        measured_preprocessing(processor)
    assert "\n" not in str(error.value) and type(processor).__name__ in str(error.value)


def test_a_classifier_whose_weights_are_not_all_there_is_refused(classifier, tmp_path):
    """Its head would be drawn at random, in every process another one; only a training may draw
    one.
    """
    folder = shutil.copytree(classifier, tmp_path / "headless")
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("classifier.")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        UserError, match=r"lack classifier\.1\.bias and others, which would be drawn at random"
    ):
        Classifier(resolve(str(folder)), CPU)
    network, _ = build_for_training(resolve(str(folder)), ["heron", "kite"], SIDE, None, False)
    assert network.config.num_labels == 2


def test_a_folder_that_names_another_model_for_its_weights_is_refused(classifier, tmp_path):
    """Transformers would take them from there, at no pin."""
    folder = shutil.copytree(classifier, tmp_path / "pointer")
    (folder / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "eve/other", "peft_type": "LORA"})
    )
    with pytest.raises(UserError, match="adapter_config.json makes it an adapter of another model"):
        Classifier(resolve(str(folder)), CPU)


RECORD = Preprocessing(64, 72, "bilinear", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bgr").record()
WRONG = st.one_of(
    st.none(),
    st.booleans(),
    st.text(),
    st.floats(),
    st.integers(max_value=0),
    st.integers(min_value=10**4),
    st.lists(st.floats()),
    st.just({}),
)


def test_a_record_is_read_as_it_was_written():
    assert recorded_preprocessing(json.loads(json.dumps(RECORD)), "it").record() == RECORD


@pytest.mark.slow
@given(name=st.sampled_from(sorted(RECORD)), value=WRONG)
def test_a_record_that_no_training_wrote_is_refused_in_one_line(name, value):
    if name in ("mean", "std") and isinstance(value, list) and len(value) == 3:
        return
    for record in (
        RECORD | {name: value},
        {key: of for key, of in RECORD.items() if key != name},
        RECORD | {"more": value},
        value,
    ):
        with pytest.raises(UserError, match="classifier.json of it") as error:
            recorded_preprocessing(record, "it")
        assert str(error.value).isprintable() and len(str(error.value)) <= 300


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"preprocessing": 3}'])
def test_a_damaged_classifier_json_is_told_in_one_line(text, classifier, tmp_path):
    folder = shutil.copytree(classifier, tmp_path / "torn")
    (folder / "classifier.json").write_text(text)
    with pytest.raises(UserError, match="classifier.json"):
        Classifier(resolve(str(folder)), CPU)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
def test_code_of_a_classifiers_own_is_neither_run_nor_asked_about(
    known, file, classifier, tmp_path, monkeypatch
):
    """transformers' own code runs if it knows the architecture; else one line gives the reason."""
    folder = shutil.copytree(classifier, tmp_path / "custom")
    (folder / "custom.py").write_text("raise SystemExit('run')")
    values = json.loads((folder / file).read_text())
    names = {
        "AutoConfig": "custom.C",
        "AutoModelForImageClassification": "custom.M",
        "AutoImageProcessor": "custom.P",
    }
    values["auto_map"] = names
    if not known:
        values |= (
            {"model_type": "custom"}
            if file == "config.json"
            else {"image_processor_type": "CustomProcessor"}
        )
    (folder / file).write_text(json.dumps(values))
    monkeypatch.setattr(sys, "stdin", None)  # whoever asks finds nobody
    if known:
        assert Classifier(resolve(str(folder)), CPU).size == SIDE
        return
    with pytest.raises(UserError, match="classifier custom.*auto_map.*never run"):
        Classifier(resolve(str(folder)), CPU)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("channels", ["rgb", "bgr"])
@pytest.mark.parametrize(("size", "resize_size"), [(64, 64), (48, 64), (47, 64)])
def test_the_stock_processor_does_the_same(interpolation, channels, size, resize_size):
    """To the bit where nothing is resized; else to the rounding of the resize."""
    values = (
        ((0.0,) * 3, (1.0,) * 3)
        if channels == "bgr"
        else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    preprocessing = Preprocessing(size, resize_size, interpolation, *values, channels)
    processor, transform = stock_processor(preprocessing), preprocessing.evaluation()
    for image in pictures():
        difference = (
            processor(images=image, return_tensors="pt")["pixel_values"][0] - transform(image)
        ).abs()
        level = 1 / 255 / min(preprocessing.std)
        assert difference.max() < (1e-5 if image.size == (resize_size,) * 2 else 3 * level)
        assert difference.mean() < level
    assert measured_preprocessing(processor) == preprocessing


def test_normalised_bgr_which_no_stock_processor_makes_is_refused_before_the_training():
    with pytest.raises(UserError, match="BGR"):
        stock_processor(Preprocessing(64, 64, "bilinear", (0.5,) * 3, (0.5,) * 3, "bgr"))


def test_names_of_classes_are_those_of_the_head(foreign):
    assert Classifier(resolve(str(foreign)), CPU).class_names == list(NAMES)


def test_a_checkpoint_as_timm_itself_saves_it_is_taken(tmp_path):
    """Its config.json repeats the number of classes among the model's arguments, which transformers
    alone does not survive.
    """
    import timm
    from timm.models import save_for_hf

    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=len(NAMES)).eval()
    save_for_hf(
        model,
        str(tmp_path),
        model_config={"label_names": list(NAMES)},
        model_args={"num_classes": len(NAMES), "drop_rate": 0.1},
        safe_serialization=True,
    )
    classifier = Classifier(resolve(str(tmp_path)), CPU)
    assert classifier.class_names == list(NAMES)
    inputs = torch.stack([classifier.transform(image) for image in pictures()])
    with torch.no_grad():
        torch.testing.assert_close(classifier.logits(inputs), model(inputs))
