"""A precision that a family does not compute in is refused before anything is loaded."""

import shutil

import pytest
import torch
from trainings import adapter_settings

from sgdmix_hub import augment, train_adapter
from sgdmix_hub.errors import UserError
from sgdmix_hub.generation.inputs import resolve_inputs
from sgdmix_hub.models.bases.families import FAMILIES
from sgdmix_hub.pipeline import SGDMixPipeline
from sgdmix_hub.run import Stage, check_precisions
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.presets import apply_preset

METHOD = {
    "preset": "recommended",
    "mask_column": "mask",
    "strength": [0.5],
    "num_inference_steps": 4,
    "guidance_scale": 2.0,
    "resolution": 32,
}
REFUSED = r"^{} {}: bases of Z-Image leave its range.*: give {}$"


@pytest.fixture(scope="module")
def headless(base_of, tmp_path_factory):
    """A base of Z-Image without its weights, which a run could not load."""
    folder = tmp_path_factory.mktemp("headless") / "base"
    ignored = shutil.ignore_patterns("*.safetensors")
    return shutil.copytree(base_of("z-image"), folder, ignore=ignored)


def test_every_family_but_z_image_computes_in_all_precisions():
    for family in FAMILIES:
        for value in ("float32", "bfloat16", "auto", "no", "bf16"):
            family.check_precision("any", value)
        for value in ("float16", "fp16"):
            if family.name != "z-image":
                family.check_precision("any", value)
                continue
            with pytest.raises(UserError, match="black"):
                family.check_precision("any", value)


def test_a_training_is_refused(headless, few_birds, tmp_path):
    """By the program, and by a machine that could not train in it."""
    settings = adapter_settings(few_birds, headless, tmp_path / "out", mixed_precision="fp16")
    with pytest.raises(UserError, match=REFUSED.format("mixed_precision", "fp16", "bf16")):
        train_adapter.main(AdapterSettings(**settings))


def test_a_generation_is_refused(headless, few_birds, tmp_path):
    settings = AugmentSettings(
        **METHOD,
        pretrained_model_name_or_path=str(headless),
        dataset_name=str(few_birds),
        output_dir=str(tmp_path / "out"),
        dtype="float16",
    )
    with pytest.raises(UserError, match=REFUSED.format("dtype", "float16", "bfloat16")):
        resolve_inputs(apply_preset(settings), tmp_path / "state")


def test_a_pipeline_is_refused(headless):
    with pytest.raises(UserError, match=REFUSED.format("dtype", "float16", "bfloat16")):
        SGDMixPipeline.from_pretrained(str(headless), torch_dtype=torch.float16, **METHOD)


@pytest.mark.parametrize(
    ("trained", "drawn", "refused"),
    [
        ("fp16", "bfloat16", ("mixed_precision", "fp16", "bf16")),
        ("bf16", "float16", ("dtype", "float16", "bfloat16")),
    ],
)
def test_a_run_is_refused_before_its_first_stage(trained, drawn, refused, headless, few_birds):
    adapter = adapter_settings(few_birds, headless, "unused", mixed_precision=trained)
    generation = AugmentSettings(
        **METHOD,
        pretrained_model_name_or_path=str(headless),
        dataset_name=str(few_birds),
        output_dir="unused",
        dtype=drawn,
    )
    stages = [
        Stage("adapter", train_adapter.main, AdapterSettings(**adapter)),
        Stage("dataset", augment.main, generation),
    ]
    with pytest.raises(UserError, match=REFUSED.format(*refused)):
        check_precisions(stages)


@pytest.mark.slow
def test_a_loaded_pipeline_stays_as_it_is(base_of):
    pipeline = SGDMixPipeline.from_pretrained(str(base_of("z-image")), **METHOD)
    with pytest.raises(UserError, match=REFUSED.format("dtype", "float16", "bfloat16")):
        pipeline.to(torch.float16)
    assert pipeline.dtype == pipeline.refiner.dtype == torch.float32
    assert pipeline.to(torch.bfloat16).dtype == torch.bfloat16
