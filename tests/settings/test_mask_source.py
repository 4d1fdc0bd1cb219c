"""The line that says which source the masks of a run come from."""

import pytest

from sgdmix_hub.errors import UserError
from sgdmix_hub.run import all_stages, generation_of
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.mask_source import masks_line
from sgdmix_hub.settings.programs import RunSettings
from sgdmix_hub.settings.saliency import PREDICTED_FROM as FROM

BOXES = {"bbox_column": "bbox", "bbox_format": "xywh"}


@pytest.mark.parametrize(
    "values, line",
    [
        ({}, "consensus, without a model; below confidence 0.45: skip"),
        (
            {"min_mask_confidence": 0.7, "low_confidence": "keep-unmixed"},
            "consensus, without a model; below confidence 0.7: keep-unmixed",
        ),
        ({"preset": "paper", "classifier": "org/cnn"}, "grad-cam of org/cnn"),
        ({"saliency_method": "minimum-barrier"}, "minimum-barrier, without a model"),
        ({"mask_column": "mask", "segmenter": "org/sam"}, "column mask of the dataset"),
        (
            {"mask_column": "alpha", "saliency_method": "predicted-column"},
            f"predicted masks in column alpha of the dataset; below confidence {FROM:g}: skip",
        ),
        (BOXES, "GrabCut in the boxes of column bbox"),
        (
            {"saliency_method": "rembg"},
            f"isnet-general-use of rembg; below confidence {FROM:g}: skip",
        ),
        (
            {"segmenter": "org/sam"},
            "segmentation by org/sam, looking for bird; below confidence 0.5: skip",
        ),
        (
            {"segmenter": "org/sam", "segmenter_prompt": "car, truck", "min_mask_confidence": 0.4},
            "segmentation by org/sam, looking for car or truck; below confidence 0.4: skip",
        ),
        (
            {"segmenter": "org/sam", "detector": "org/dino"},
            "segmentation by org/sam in the boxes of org/dino, looking for bird; "
            "below confidence 0.5: skip",
        ),
        (
            {"segmenter": "org/sam"} | BOXES,
            "segmentation by org/sam with the boxes of column bbox; below confidence 0.5: skip",
        ),
        (
            {"segmenter": "org/sam", "segmenter_instances": "nearest-box"} | BOXES,
            "segmentation by org/sam, looking for bird, nearest to the boxes of column bbox; "
            "below confidence 0.5: skip",
        ),
    ],
)
def test_the_line_names_source_words_and_floor(values, line):
    settings = AugmentSettings(dataset_name="org/birds", output_dir="run", strength=0.0, **values)
    assert masks_line(settings, "bird") == f"masks: {line}"


def run_settings(**values):
    required = {"dataset_name": "org/birds", "output_dir": "run", "metaclass": "bird"}
    return RunSettings(**required, pretrained_model_name_or_path="org/base", **values)


@pytest.mark.parametrize(
    "values, sought",
    [({}, "bird"), ({"segmenter_prompt": "finch"}, "finch"), ({"strength": 0.0}, "bird")],
)
def test_the_segmenter_of_a_run_looks_for_the_metaclass(values, sought):
    generation = generation_of(all_stages(run_settings(segmenter="org/sam", **values)))
    assert (generation.segmenter, generation.segmenter_prompt) == ("org/sam", sought)
    line = f"masks: segmentation by org/sam, looking for {sought}; below confidence 0.5: skip"
    assert masks_line(generation) == line


@pytest.mark.parametrize("values", [BOXES, {"mask_column": "mask"}])
def test_the_columns_of_a_run_reach_its_generation_alone(values):
    stages = all_stages(run_settings(**values))
    generation = generation_of(stages)
    assert {name: getattr(generation, name) for name in values} == values
    assert generation.segmenter_prompt is None
    assert sum(hasattr(stage.settings, "mask_column") for stage in stages) == 1


def test_bootstrapped_saliency_takes_no_other_masks():
    with pytest.raises(UserError, match="leave --segmenter out"):
        run_settings(segmenter="org/sam", bootstrap_saliency=True).validate()
