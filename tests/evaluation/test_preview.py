"""The preview: one page and its figures, which are those of a generation's own functions on the
drawn images.
"""

import json

import numpy as np
import pytest
import torch
from generations import png, write_dataset
from PIL import Image
from previews import generation, preview

from sgdmix_hub import preview as program
from sgdmix_hub.data.images import square
from sgdmix_hub.data.splits import decode_image
from sgdmix_hub.evaluation import drawn_split
from sgdmix_hub.evaluation.choices import Comparison
from sgdmix_hub.evaluation.drawn_split import draw_split
from sgdmix_hub.generation.row_maker import RowMaker
from sgdmix_hub.method.mixer import Mixer
from sgdmix_hub.method.saliency.sources import load_cam
from sgdmix_hub.method.saliency.trust import trust_test
from sgdmix_hub.metrics.mask_quality import MaskQuality
from sgdmix_hub.metrics.mixture_quality import MixtureQuality
from sgdmix_hub.models.loading import load_classifier
from sgdmix_hub.settings.programs import PreviewSettings

CPU = torch.device("cpu")


def true_mask(split, row):
    return np.asarray(square(split.image(row, "mask"), 32, "stretch", Image.Resampling.NEAREST)) > 0


@pytest.fixture(scope="module")
def whole(birds, classifier, tmp_path_factory):
    """A preview with everything: how it ended, its figures, its page."""
    folder = tmp_path_factory.mktemp("whole")
    settings = {
        "dataset_name": birds,
        "classifier": classifier,
        "mask_column": "mask",
        "resolution": 32,
        "num_images": 2,
        "num_candidates": 5,
        "examples_per_class": 1,
    }
    return preview(folder, **settings, output_dir=folder / "preview")


@pytest.mark.slow
def test_mask_figures_are_those_of_the_generations_masks(whole, birds, classifier, tmp_path):
    _, facts, _ = whole
    recipes = [
        (recipe["saliency_method"], recipe["mask_refinement"], recipe["presets"])
        for recipe in facts["masks"]
    ]
    assert recipes == [
        ("grad-cam", "none", ["paper"]),
        ("grad-cam", "grabcut", []),
        ("consensus", None, ["recommended"]),
        ("minimum-barrier", "none", []),
        ("minimum-barrier", "grabcut", []),
        ("spectral-residual", "none", []),
        ("spectral-residual", "grabcut", []),
    ]
    for number, of_recipe in enumerate(facts["masks"]):
        choices = {name: of_recipe[name] for name in ("saliency_method", "mask_refinement")}
        settings, inputs, maps, _ = generation(
            birds,
            tmp_path / str(number),
            classifier=str(classifier),
            trust_test="warn",
            examples_per_class=1,
            **choices,
        )
        split, mixer = inputs.split, Mixer(settings)
        masks = np.stack(
            [
                mixer.mask(split.image(row), maps[row], found_mask=maps.mask(row)).mask
                for row in split.subset
            ]
        )
        assert of_recipe["foreground_area"] == masks.mean()
        assert of_recipe["empty"] == np.mean([not mask.any() for mask in masks])
        true = np.stack([true_mask(split, row) for row in split.subset])
        quality = MaskQuality().compute(
            predictions=masks.astype(np.uint8), references=true.astype(np.uint8)
        )
        assert facts["best_fixed_iou"] == pytest.approx(quality.pop("best_fixed_iou"))
        assert {name: of_recipe[name] for name in quality} == pytest.approx(quality)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, choices",
    [
        ("paper", {"preset": "paper"}),
        ("recommended", {"preset": "recommended"}),
        ("union", {"preset": "recommended", "mixing_method": "union", "feather": 0.0}),
    ],
)
def test_mixture_figures_are_those_of_the_generations_mixtures(
    whole, birds, classifier, tmp_path, name, choices
):
    _, facts, _ = whole
    settings, inputs, maps, plan = generation(
        birds,
        tmp_path,
        classifier=str(classifier),
        num_candidates=5,
        examples_per_class=1,
        **choices,
    )
    maker, split = RowMaker(settings, inputs, maps), inputs.split
    rows = [row for row in plan if row.skip is None]
    mixtures = [maker.mixture(row) for row in rows]
    quality = MixtureQuality().compute(
        kept=np.stack([mixture.kept for mixture in mixtures]).astype(np.uint8),
        shown=np.stack([mixture.shown for mixture in mixtures]).astype(np.uint8),
        source_mask=np.stack([true_mask(split, row.source_index) for row in rows]).astype(np.uint8),
        target_mask=np.stack([true_mask(split, row.target_index) for row in rows]).astype(np.uint8),
        source_label=split.labels[[row.source_index for row in rows]],
        target_label=split.labels[[row.target_index for row in rows]],
        target_index=[row.target_index for row in rows],
    )
    (of_recipe,) = [of for of in facts["mixtures"] if of["name"] == name]
    assert of_recipe["mixtures"] == len(rows)
    assert {figure: of_recipe[figure] for figure in quality} == pytest.approx(quality)


@pytest.mark.slow
def test_trust_test_and_classifier_are_reported(whole, birds, classifier, tmp_path):
    ended, facts, _ = whole
    settings, inputs, _, _ = generation(
        birds, tmp_path, classifier=str(classifier), preset="paper", examples_per_class=1
    )
    cam = load_cam(settings, load_classifier(inputs.classifier, inputs.split.class_names, CPU))
    trust = trust_test(cam.classifier, cam.size, inputs.split, "stretch")
    assert facts["trust"] == {**vars(trust), "reads_background": trust.reads_background}
    assert facts["cam"] == {"layer": cam.layer_name, "input_size": 64, "cells": [8, 8]}
    assert str(trust) in ended.stdout
    assert (facts["classifier"], facts["dataset"]) == (
        str(inputs.classifier),
        str(inputs.split.pin),
    )


@pytest.mark.slow
def test_same_seed_same_page(whole, birds, classifier, tmp_path):
    settings = {
        "dataset_name": birds,
        "classifier": classifier,
        "mask_column": "mask",
        "resolution": 32,
        "num_images": 2,
        "num_candidates": 5,
        "examples_per_class": 1,
    }
    again = preview(tmp_path, **settings, output_dir=tmp_path / "again")
    assert again[1:] == whole[1:]


@pytest.mark.slow
def test_without_classifier_and_masks(birds, tmp_path):
    settings = {"dataset_name": birds, "resolution": 32, "num_images": 3, "num_candidates": 5}
    settings["examples_per_class"] = 2
    ended, facts, page = preview(tmp_path, **settings, output_dir=tmp_path / "preview")
    assert "No classifier was given" in ended.stdout and "recommended" in ended.stdout
    assert (facts["trust"], facts["cam"], facts["best_fixed_iou"], facts["mixtures"]) == (
        None,
        None,
        None,
        [],
    )
    assert [(of["saliency_method"], of["presets"]) for of in facts["masks"]] == [
        ("spectral-residual", ["paper"]),
        ("spectral-residual", []),
        ("consensus", ["recommended"]),
        ("minimum-barrier", []),
        ("minimum-barrier", []),
    ]
    assert "takes its masks from consensus, without a model; below confidence 0.45" in ended.stdout
    assert all("iou" not in of_recipe for of_recipe in facts["masks"])
    rules = [
        (of["selection_method"], of["target_classes"], of["same_class_share"])
        for of in facts["targets"]
    ]
    assert rules[0][:2] == ("l2", "any")
    assert rules[1:] == [
        (rule, "other", 0.0) for rule in ("l2", "dissimilar", "novel-background", "random")
    ]
    assert len(facts["shown"]) == 3 and facts["images"] == 8
    with Image.open(tmp_path / "preview" / "preview.png") as picture:
        assert picture.width < 2400 and picture.format == "PNG"
    assert sorted(path.name for path in (tmp_path / "preview").iterdir()) == [
        "preview.json",
        "preview.png",
    ]
    _, other_facts, other_page = preview(
        tmp_path, **settings, output_dir=tmp_path / "other", seed=1
    )
    assert other_page != page
    assert other_facts["shown"] != facts["shown"]
    assert other_facts["targets"] != facts["targets"]


@pytest.mark.slow
def test_images_of_no_use(source_rows, tmp_path):
    images = [row["image"]["bytes"] for row in source_rows[:8]]
    images[2] = images[2][:40]
    images[5] = png(Image.new("RGB", (32, 32), (90, 90, 90)))
    data = write_dataset(tmp_path / "data", images, [row["label"] for row in source_rows[:8]])
    ended, facts, _ = preview(
        tmp_path, dataset_name=data, output_dir=tmp_path / "preview", resolution=32, num_images=8
    )
    assert facts["images"] == 7 and sorted(facts["shown"]) == [0, 1, 3, 4, 5, 6, 7]
    assert list(facts["left_out"]) == ["2"] and facts["left_out"]["2"].startswith("corrupt image")
    assert "1 image of " in ended.stdout and "cannot be used: row 2: corrupt image" in ended.stdout
    assert [of_recipe["empty"] for of_recipe in facts["masks"]] == [1 / 7] * 5


@pytest.mark.slow
def test_one_image_alone_has_no_target(source_rows, tmp_path):
    data = write_dataset(tmp_path / "data", [source_rows[0]["image"]["bytes"]], [0])
    _, facts, _ = preview(
        tmp_path, dataset_name=data, output_dir=tmp_path / "preview", resolution=32
    )
    assert {of_rule["effective_targets"] for of_rule in facts["targets"]} == {None}


@pytest.mark.slow
def test_large_split_is_drawn_from_and_blank_images_have_empty_masks(tmp_path, monkeypatch):
    monkeypatch.setattr(drawn_split, "MEASURED", 20)
    images = [png(Image.new("RGB", (8, 8), (row, 90, 90))) for row in range(25)]
    data = write_dataset(tmp_path / "data", images, [row % 3 for row in range(len(images))])
    settings = {"dataset_name": str(data), "output_dir": str(tmp_path / "preview")}
    program.main(PreviewSettings(**settings, resolution=8, num_images=3))
    facts = json.loads((tmp_path / "preview" / "preview.json").read_text())
    assert facts["images"] == 20
    assert sorted(row % 3 for row in facts["shown"]) == [0, 1, 2]
    assert {of_recipe["empty"] for of_recipe in facts["masks"]} == {1.0}
    assert {of_rule["effective_targets"] for of_rule in facts["targets"]} == {None}


def test_aspect_buckets_show_the_generations_mixtures(source_rows, tmp_path):
    """Tall and wide birds: each mixture is the generation's, pixel for pixel, in its own shape."""
    images = [decode_image(row["image"]) for row in source_rows[::3]]
    boxes = [(0, 0, 64, 40), (12, 0, 52, 64)]
    cut = [png(image.crop(boxes[place % 2])) for place, image in enumerate(images)]
    dataset = write_dataset(tmp_path / "birds", cut, [place // 2 % 2 for place in range(len(cut))])
    choices = {"resize": "aspect-buckets", "num_candidates": 5}
    settings, inputs, maps, plan = generation(
        dataset, tmp_path / "generation", preset="recommended", **choices
    )
    shown = PreviewSettings(
        dataset_name=str(dataset),
        output_dir=str(tmp_path / "preview"),
        resolution=32,
        num_images=6,
        **choices,
    )
    split, _ = draw_split(shown, inputs.split, lambda rows: None)
    comparison = Comparison(shown, split)
    comparison.make({}, lambda rows: None)
    column = next(one for one in comparison.mixtures if one.name == "recommended")
    maker = RowMaker(settings, inputs, maps)
    rows = [row for row in plan if row.source_index in column.mixtures]
    shapes = set()
    for row in rows:
        made = column.mixtures[row.source_index]
        assert np.array_equal(made.mixed, maker.mixture(row).mixed)
        shapes.add(made.mixed.shape[:2])
    assert len(shapes) == 2
    assert all(height != width for height, width in shapes)
