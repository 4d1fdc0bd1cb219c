"""SGDMixPipeline as a user of diffusers calls it, and what it saves."""

import inspect
import json

import numpy as np
import pytest
import torch
from called import SIZE, SMALL
from diffusers import StableDiffusionImg2ImgPipeline
from forking import run_forked
from launching import ROOT, launch_environment
from stock import load_pipeline

from sgdmix_hub.errors import UserError
from sgdmix_hub.models.bases.schedulers import with_scheduler
from sgdmix_hub.models.saved import PIPELINE_FILE
from sgdmix_hub.pipeline import SGDMixPipeline
from sgdmix_hub.pipeline_output import SGDMixPipelineOutput

OWN = {"target_image", "labels", "target_labels", "seeds"}
PROMPTS = ["a photo of a <class_0> bird", "a photo of a <class_1> bird at dusk"]


def pixels(images):
    return np.stack([np.asarray(image) for image in images])


def generators(seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


# ---- the call


def test_stock_arguments_have_the_names_and_give_the_images_of_diffusers(
    unmixing, tiny_base, adapter, pairs
):
    """One call for both pipelines, but for rounding: the stock one encodes row by row."""
    ours = inspect.signature(SGDMixPipeline.__call__).parameters
    theirs = inspect.signature(StableDiffusionImg2ImgPipeline.__call__).parameters
    assert set(ours) - OWN <= set(theirs)
    stock = with_scheduler(load_pipeline(tiny_base, adapter), "dpmsolver++")
    call = {
        "prompt": PROMPTS,
        "image": [image.resize((SIZE, SIZE)) for image in pairs[0][:2]],
        "strength": 0.9,
        "num_inference_steps": 5,
        "guidance_scale": 4.0,
        "output_type": "pil",
        "return_dict": False,
    }
    (expected, *_), (made, *_) = (
        refine(**call, negative_prompt=negative, generator=generators([3, 4]))
        for refine, negative in ((stock, ["at dawn"] * 2), (unmixing, "at dawn"))
    )
    difference = np.abs(pixels(expected).astype(int) - pixels(made))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.001
    plain, *_ = unmixing(**call, generator=generators([3, 4]))
    assert not np.array_equal(pixels(plain), pixels(made))


def test_a_seed_is_a_generator_with_this_seed(pipeline, pairs):
    seeds = [5, 6, 7]
    whole = pipeline(*pairs, seeds=seeds)
    assert whole.seeds == seeds and whole.reasons == [None] * 3
    drawn = pipeline(*pairs, generator=generators(seeds))
    assert drawn.seeds == [None] * 3
    assert np.array_equal(pixels(whole.images), pixels(drawn.images))
    assert whole.prompts == drawn.prompts
    image, target, label = (column[2] for column in pairs)
    for alone in ({"seeds": 7}, {"generator": generators([7])[0]}):
        output = pipeline(image, target, label, **alone)
        assert np.array_equal(pixels(output.images), pixels(whole.images[2:]))


def test_one_generator_and_none_give_seeds_that_make_the_same_images_again(pipeline, pairs):
    torch.manual_seed(0)
    first, second = (pipeline(*pairs, strength=0.4) for _ in range(2))
    assert first.seeds != second.seeds and len(set(first.seeds)) == 3
    again = pipeline(*pairs, strength=0.4, seeds=first.seeds)
    assert np.array_equal(pixels(again.images), pixels(first.images))
    shared = [pipeline(*pairs, strength=0.4, generator=generators([1])[0]) for _ in range(2)]
    assert shared[0].seeds == shared[1].seeds and len(set(shared[0].seeds)) == 3
    assert np.array_equal(*(pixels(output.images) for output in shared))


def test_arguments_of_one_call_are_those_of_a_pipeline_loaded_with_them(
    pipeline, tiny_base, adapter, pairs
):
    call = {"strength": 0.9, "guidance_scale": 3.0, "negative_prompt": "bird"}
    before = pipeline(*pairs, seeds=[1, 2, 3])
    made = pipeline(*pairs, seeds=[1, 2, 3], num_inference_steps=4, **call)
    loaded = SGDMixPipeline.from_pretrained(
        str(tiny_base),
        str(adapter),
        foreground_strength=0.2,
        paste_foreground=False,
        min_mask_confidence=0,
        background_prompts=pipeline.settings.background_prompts,
        background_prompt_template=pipeline.settings.background_prompt_template,
        **SMALL | {"num_inference_steps": 4},
        **call,
    )
    expected = loaded(*pairs, seeds=[1, 2, 3])
    assert np.array_equal(pixels(made.images), pixels(expected.images))
    after = pipeline(*pairs, seeds=[1, 2, 3])
    assert np.array_equal(pixels(before.images), pixels(after.images))
    assert not np.array_equal(pixels(before.images), pixels(made.images))


def test_a_callback_sees_every_step_and_may_replace_the_latents(pipeline, pairs):
    seen = []

    def look(shown, step, timestep, tensors):
        assert shown is pipeline
        seen.append((step, int(timestep), tuple(tensors["latents"].shape)))
        return tensors

    def erase(shown, step, timestep, tensors):
        return {"latents": torch.zeros_like(tensors["latents"])}

    whole = pipeline(*pairs, seeds=[1, 2, 3])
    looked = pipeline(*pairs, seeds=[1, 2, 3], callback_on_step_end=look)
    assert np.array_equal(pixels(whole.images), pixels(looked.images))
    assert [step for step, _, _ in seen] == [0, 1, 2] * 2
    assert [shape[0] for _, _, shape in seen] == [2] * 3 + [1] * 3
    erased = pipeline(*pairs, seeds=[1, 2, 3], callback_on_step_end=erase)
    assert len({image.tobytes() for image in erased.images}) == 1
    told = []
    pipeline(
        *pairs,
        seeds=[1, 2, 3],
        callback_on_step_end=lambda *given: told.append(given[3]) or {},
        callback_on_step_end_tensor_inputs=[],
    )
    assert told == [{}] * 6


def test_the_bar_counts_steps_and_is_hidden_when_asked(pipeline, pairs, capsys):
    pipeline(*pairs)
    assert capsys.readouterr().err == ""
    pipeline.set_progress_bar_config(desc="birds")
    pipeline(*pairs)
    pipeline.set_progress_bar_config(disable=True)
    said = capsys.readouterr().err
    assert "birds: 100%" in said and "6/6" in said


def disc(image):
    """A mask of everything near the middle."""
    y, x = np.mgrid[: image.height, : image.width]
    return np.hypot(x - image.width / 2, y - image.height / 2) < image.width / 3


def test_outputs_are_images_arrays_and_tensors_of_one_content(pairs):
    pipeline = SGDMixPipeline.from_pretrained(strength=0, resolution=SIZE, mask_function=disc)
    call = {"seeds": [1, 2, 3], "strength": 0}
    output = pipeline(*pairs[:2], **call)
    assert isinstance(output, SGDMixPipelineOutput)
    assert output.prompts == [""] * 3 and all(0 <= one <= 1 for one in output.mask_confidences)
    assert output[0] is output["images"] is output.images
    assert [mask.mode for mask in output.masks] == ["L"] * 3
    assert {value for mask in output.masks for value in np.unique(mask)} == {0, 255}
    assert np.array_equal(pixels(output.images), pixels(output.mixed))
    arrays = pipeline(*pairs[:2], output_type="np", **call)
    tensors = pipeline(*pairs[:2], output_type="pt", return_dict=False, **call)
    assert len(tensors) == len(output.to_tuple()) == 7
    for row in range(3):
        expected = np.asarray(output.images[row])
        assert arrays.images[row].dtype == np.float32 and tensors[0][row].dtype == torch.float32
        assert np.array_equal((arrays.images[row] * 255).round(), expected)
        assert np.array_equal((tensors[0][row] * 255).round().permute(1, 2, 0), expected)
        assert np.array_equal(arrays.masks[row], np.asarray(output.masks[row]) > 0)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ({"target_image": None}, "target_image"),
        ({"target_image": []}, "0 entries for 3 images"),
        ({"image": "bird.png"}, "images of PIL"),
        ({"labels": None}, "give labels"),
        ({"labels": [0]}, "labels has 1 entries"),
        ({"labels": [0, 1, 4]}, "label 4 is not one of the 4 classes"),
        ({"labels": [0, 1, -1]}, "label -1"),
        ({"prompt": ["one"]}, "prompt has 1 entries"),
        ({"seeds": [1]}, "seeds has 1 entries"),
        ({"seeds": [1, 2, 3], "generator": generators([1, 2, 3])}, "not both"),
        ({"generator": generators([1])}, "generator has 1 entries"),
        ({"output_type": "latent"}, "output_type 'latent'"),
        ({"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}, "prompt_embeds"),
    ],
)
def test_arguments_that_do_not_belong_together_are_refused(pipeline, pairs, call, said):
    image, target_image, labels = pairs
    given = {"image": image, "target_image": target_image, "labels": labels} | call
    with pytest.raises(ValueError, match=said):
        pipeline(**given)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ({"strength": 1.5}, "strength"),
        ({"strength": 0.17}, "at most the smallest strength"),
        ({"strength": 0.9, "num_inference_steps": 1}, "runs no diffusion step"),
        ({"negative_prompt": "blurry", "guidance_scale": 1.0}, "guidance_scale above 1"),
        ({"guidance_scale": "7"}, "give a number"),
    ],
)
def test_values_that_the_settings_refuse_are_refused_in_a_call(pipeline, pairs, call, said):
    with pytest.raises(UserError, match=said):
        pipeline(*pairs, **call)


def test_a_pipeline_without_a_diffusion_model_does_not_refine(pairs):
    mixing = SGDMixPipeline.from_pretrained(strength=0, resolution=SIZE)
    with pytest.raises(ValueError, match="no diffusion model"):
        mixing(*pairs, strength=0.5)


def test_a_background_alone_is_asked_for_while_the_foreground_is_kept(tiny_base, adapter, pairs):
    """With the foreground kept to the end, the class's prompt has no part in the image."""
    options = {"strength": 0.5, "foreground_strength": 0.0, "min_mask_confidence": 0}

    def refined(labels=pairs[2], prompt=None, **settings):
        pipeline = SGDMixPipeline.from_pretrained(
            str(tiny_base), str(adapter), **options | settings, **SMALL
        )
        pipeline.set_progress_bar_config(disable=True)
        output = pipeline(*pairs[:2], labels, prompt=prompt, seeds=[1, 2, 3])
        return pixels(output.images), output.prompts

    alone, prompts = refined(background_prompt_template="a landscape")
    assert prompts == ["a landscape"] * 3
    others, _ = refined([3, 3, 3], background_prompt_template="a landscape")
    told, _ = refined(prompt="a landscape")
    classes, _ = refined()
    assert np.array_equal(alone, others) and np.array_equal(alone, told)
    assert not np.array_equal(alone, classes)


def test_both_prompts_are_asked_for_where_the_foreground_is_released(pipeline, pairs):
    """The background's in the steps before, the class's in those after."""
    whole = pipeline(*pairs, seeds=[1, 2, 3])
    texts = [f"a photo of a <class_{label}> bird" for label in pairs[2]]
    suffixes = [text.removeprefix(of) for text, of in zip(whole.prompts, texts, strict=True)]
    assert set(suffixes) <= {" in the snow", " at dusk", " by the sea"}
    classes = pipeline(*pairs, seeds=[1, 2, 3], prompt=whole.prompts)
    landscapes = [f"a landscape{suffix}" for suffix in suffixes]
    backgrounds = pipeline(*pairs, seeds=[1, 2, 3], prompt=landscapes)
    made = [pixels(output.images) for output in (whole, classes, backgrounds)]
    assert len({images.tobytes() for images in made}) == 3


@pytest.mark.slow
def test_a_base_alone_refines_with_the_prompts_of_a_call(tiny_base, pairs):
    pipeline = SGDMixPipeline.from_pretrained(
        str(tiny_base), min_mask_confidence=0, safety_checker=None, **SMALL
    )
    pipeline.set_progress_bar_config(disable=True)
    output = pipeline(*pairs[:2], prompt="a photo of a bird", seeds=[1, 2, 3])
    assert output.prompts == ["a photo of a bird"] * 3 and None not in output.images
    with pytest.raises(ValueError, match="class_names"):
        pipeline(*pairs)


@pytest.mark.slow
def test_to_converts_and_moves_and_is_part_of_the_settings(tiny_base, classifier, pairs):
    """In half precision as a pipeline that was loaded so; the classifier is loaded again."""
    options = SMALL | {
        "preset": "paper",
        "saliency_method": "grad-cam",
        "classifier": str(classifier),
        "strength": 0.5,
    }
    call = {"target_labels": [0, 0, 0], "prompt": "a bird", "seeds": [1, 2, 3]}
    moved, loaded = (
        SGDMixPipeline.from_pretrained(str(tiny_base), torch_dtype=dtype, **options)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert moved.to("cpu", torch.bfloat16) is moved
    assert moved.dtype == torch.bfloat16 == loaded.dtype and moved.settings == loaded.settings
    assert moved.device == torch.device("cpu")
    made = [pixels(pipeline(*pairs, **call).images) for pipeline in (moved, loaded)]
    assert np.array_equal(*made)
    with pytest.raises(UserError, match="dtype"):
        moved.to(torch.int8)


LOAD = """
import sys
import numpy as np
from PIL import Image
from sgdmix_hub.pipeline import SGDMixPipeline

base, saved, out, *files = sys.argv[1:]
pipeline = SGDMixPipeline.from_pretrained(base, saved)
source, target = map(Image.open, files)
np.save(out, np.asarray(pipeline(source, target, 1, seeds=9).images[0]))
"""


def test_a_saved_pipeline_makes_the_same_images_in_another_process(
    pipeline, tiny_base, pairs, tmp_path
):
    pipeline.save_pretrained(tmp_path / "saved")
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert names == {
        PIPELINE_FILE,
        "adapter.json",
        "learned_embeds.safetensors",
        "pytorch_lora_weights.safetensors",
    }
    facts = json.loads((tmp_path / "saved" / PIPELINE_FILE).read_text())
    assert str(tiny_base) not in json.dumps(facts)
    for image, name in ((pairs[0][0], "source.png"), (pairs[1][0], "target.png")):
        image.save(tmp_path / name)
    ended = run_forked(
        ["-c", LOAD, tiny_base, "saved", "made.npy", "source.png", "target.png"],
        launch_environment({"PYTHONPATH": str(ROOT)}),
        tmp_path,
    )
    assert ended.returncode == 0, ended.stderr
    expected = pipeline(pairs[0][0], pairs[1][0], 1, seeds=9).images[0]
    assert np.array_equal(np.load(tmp_path / "made.npy"), np.asarray(expected))


def test_a_gpu_computes_as_in_the_programs(monkeypatch):
    """Of what is set there (see tests/runtime/test_gpu.py), a CPU shows one option."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    SGDMixPipeline.from_pretrained(strength=0.0)
    assert torch.backends.cudnn.deterministic
