"""What the settings of `sgdmix run` become in its stages."""

import pytest
from run_stages import stages
from test_run_push import DATASET, MODELS

from sgdmix_hub.errors import UserError
from sgdmix_hub.training.precision import has_bf16

PROMPTS = {
    "prompt_template": ["a photo of a {token} {metaclass}", "a {token} {metaclass} in the wild"],
    "background_prompts": ["in the snow", "on a beach"],
    "background_prompt_template": "a landscape {background}",
    "negative_prompt": "blurry",
}


def recipe_at(folder, **files):
    """A recipe folder; `files`: the text of each, by its name without the ending."""
    folder.mkdir()
    for name, text in ({"classifier": "model: me/model\n"} | files).items():
        (folder / f"{name}.yaml").write_text(text)
    return str(folder)


def test_the_precision_follows_the_gpu_unless_recipe_or_run_say_it(tmp_path):
    best = "bfloat16" if has_bf16() else "float32"
    *_, generation, _ = stages(tmp_path)
    assert generation.dtype == best
    *_, generation, _ = stages(tmp_path, pretrained_model_name_or_path="Tongyi-MAI/Z-Image-Turbo")
    assert generation.dtype == best != "float16"
    recipe = recipe_at(tmp_path / "recipe", generate="dtype: float16\n")
    *_, generation, _ = stages(tmp_path, recipe=recipe)
    assert generation.dtype == "float16"
    *_, generation, _ = stages(tmp_path, recipe=recipe, dtype="float32")
    assert generation.dtype == "float32"
    *_, generation, _ = stages(tmp_path, strength=[0])
    assert generation.dtype == "float32"  # nothing is refined: a GPU makes the same dataset


def test_adapter_and_generation_have_the_same_prompts_and_geometry(tmp_path):
    _, adapter, generation, _ = stages(tmp_path, **PROMPTS, resize="aspect-buckets", resolution=256)
    assert adapter.prompt_template == PROMPTS["prompt_template"][0]
    assert {name: getattr(generation, name) for name in PROMPTS} == PROMPTS
    for settings in (adapter, generation):
        assert (settings.resize, settings.resolution) == ("aspect-buckets", 256)
    recipe = recipe_at(
        tmp_path / "recipe",
        adapter="prompt_template: a {token} {metaclass}\n",
        generate="prompt_template: the {token}\n",
    )
    _, adapter, generation, _ = stages(tmp_path, recipe=recipe)
    assert adapter.prompt_template == "a {token} {metaclass}"
    assert generation.prompt_template == ["the {token}"]
    _, adapter, generation, _ = stages(
        tmp_path, recipe=recipe, prompt_template="a {metaclass} {token}"
    )
    assert [adapter.prompt_template] == generation.prompt_template == ["a {metaclass} {token}"]


@pytest.mark.parametrize(
    ("template", "stage"),
    [("a photo of a {token}", "adapter"), ("a {class_name} {metaclass}", "adapter")],
)
def test_a_prompt_that_no_adapter_can_learn_is_refused_before_the_first_stage(
    tmp_path, template, stage
):
    with pytest.raises(UserError, match=f"{stage}: prompt_template must contain"):
        stages(tmp_path, prompt_template=template)


def test_every_training_has_the_total_batch_of_the_run(tmp_path):
    first, retrained, adapter, last = (
        each
        for each in stages(tmp_path, total_batch_size=48, bootstrap_saliency=True)
        if hasattr(each, "total_batch_size")
    )
    assert {each.total_batch_size for each in (first, retrained, adapter, last)} == {48}
    first, adapter, _, last = stages(tmp_path)
    assert (first.total_batch_size, adapter.total_batch_size, last.total_batch_size) == (32, 8, 32)


def test_levelled_classes_are_drawn_by_class_unless_recipe_or_run_say_otherwise(tmp_path):
    first, _, generation, last = stages(tmp_path, images_per_class=60)
    assert generation.images_per_class == 60
    assert (first.synthetic_weighting, last.synthetic_weighting) == ("source", "class-balanced")
    *_, last = stages(tmp_path)
    assert last.synthetic_weighting == "source"
    *_, last = stages(tmp_path, images_per_class=60, synthetic_weighting="source")
    assert last.synthetic_weighting == "source"
    added = recipe_at(tmp_path / "added", downstream="synthetic_mode: add\n")
    *_, last = stages(tmp_path, recipe=added, images_per_class=60)
    assert (last.synthetic_mode, last.synthetic_weighting) == ("add", "source")
    levelled = recipe_at(
        tmp_path / "levelled",
        classifier="synthetic_weighting: inverse-frequency\n",
        generate="images_per_class: 60\n",
    )
    *_, last = stages(tmp_path, recipe=levelled)
    assert last.synthetic_weighting == "inverse-frequency"
    levelled = recipe_at(tmp_path / "other", generate="images_per_class: 60\n")
    *_, last = stages(tmp_path, recipe=levelled)
    assert last.synthetic_weighting == "class-balanced"


def test_refinement_in_few_steps_and_its_ring_reach_the_generation_alone(tmp_path):
    few = {"few_step_lora": "org/lcm", "few_step_method": "lcm", "kept_erosion": 0.02}
    *_, mixtures, _, adapter, generation, _ = stages(tmp_path, **few, bootstrap_saliency=True)
    assert {name: getattr(generation, name) for name in few} == few
    assert (generation.scheduler, generation.num_inference_steps) == ("lcm", 8)
    assert (adapter.num_inference_steps, mixtures.strength) == (25, [0.0])
    with pytest.raises(UserError, match="negative_prompt needs guidance_scale"):
        stages(tmp_path, **few, negative_prompt="blurry")
    *_, generation, _ = stages(tmp_path, **MODELS, **few)
    assert generation.push_to_hub
    with pytest.raises(UserError, match="local folders .few_step_lora."):
        stages(tmp_path, **MODELS, **(few | {"few_step_lora": str(tmp_path)}))
    assert stages(tmp_path, **DATASET, **few, allow_local_inputs=True)
