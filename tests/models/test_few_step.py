"""Few-step LoRA that others made: what stock diffusers makes of them, and what is refused."""

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya
from hypothesis import given
from hypothesis import strategies as st
from pictures import noisy_images
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_bases import save_random_lora

from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.adapters import read_adapter
from sgdmix_hub.models.bases.schedulers import SCHEDULERS, noise_levels, with_scheduler
from sgdmix_hub.models.lora_files import find_lora
from sgdmix_hub.models.prompts import RowPrompt
from sgdmix_hub.models.refine import Refiner
from sgdmix_hub.settings.few_step import FEW_STEPS, MANY_STEPS
from sgdmix_hub.settings.generation import AugmentSettings, published_settings
from sgdmix_hub.settings.presets import apply_preset

SIZE, BATCH, SEEDS = 32, 2, [11, 12]
FILE = "pytorch_lora_weights.safetensors"


def settings(**values):
    defaults = {
        "preset": "paper",
        "strength": 0.5,
        "few_step_method": "lcm",
        "batch_size": BATCH,
        "resolution": SIZE,
        "adapter": "unused",
        "classifier": "unused",
    }
    return AugmentSettings(dataset_name="unused", output_dir="unused", **(defaults | values))


@pytest.fixture(scope="module")
def loras(tiny_base, tmp_path_factory):
    """One LoRA in the three formats that are published, by name."""
    folder = tmp_path_factory.mktemp("loras")
    unet = StableDiffusionPipeline.from_pretrained(tiny_base, safety_checker=None).unet
    save_random_lora(unet, folder / FILE)
    peft = load_file(folder / FILE)
    formats = {"peft": peft, "diffusers": convert_state_dict_to_diffusers(dict(peft))}
    kohya = convert_state_dict_to_kohya(dict(peft))
    formats["kohya"] = {
        name.replace("unet_", "lora_unet_", 1) if name.startswith("unet_") else name: value
        for name, value in kohya.items()
    }
    for name, weights in formats.items():
        (folder / name).mkdir()
        save_file({key: value.contiguous() for key, value in weights.items()}, folder / name / FILE)
    return folder


@pytest.fixture(scope="module")
def images():
    return noisy_images(BATCH, SIZE)


def refined(base, adapter, images, lora, seeds=SEEDS, **values):
    learned = None if adapter is None else read_adapter(resolve(str(adapter)))
    ours = Refiner(
        resolve(str(base)),
        learned,
        apply_preset(settings(**values)),
        torch.device("cpu"),
        few_step_lora=None if lora is None else resolve(str(lora)),
    )
    nowhere = np.zeros((BATCH, SIZE, SIZE), bool)
    prompt = RowPrompt("a photo of a bird" if learned is None else learned.prompt(2))
    return np.stack(ours.refine(images, nowhere, [prompt] * 2, seeds, 0.5)).astype(int)


def stock(base, adapter, images, lora, method):
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(
        base, safety_checker=None, requires_safety_checker=False
    )
    prompt, names = "a photo of a bird", ["few"]
    pipeline.load_lora_weights(str(lora), adapter_name="few")
    if adapter is not None:
        pipeline.load_lora_weights(str(adapter), adapter_name="ours", weight_name=FILE)
        tokens = load_file(adapter / "learned_embeds.safetensors")
        pipeline.load_textual_inversion([{name: row} for name, row in tokens.items()])
        prompt, names = "a photo of a <class_2> bird", ["few", "ours"]
    pipeline.set_adapters(names)
    chosen = FEW_STEPS[method]
    with_scheduler(pipeline, chosen.scheduler, chosen.timestep_spacing)
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline(
        prompt=prompt,
        image=[Image.fromarray(image) for image in images],
        num_images_per_prompt=BATCH,
        strength=0.5,
        num_inference_steps=chosen.num_inference_steps,
        guidance_scale=chosen.guidance_scale,
        eta=0.3 if method == "tcd" else 0.0,  # TCD's own; the pipeline's default would undo it
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
    ).images
    return np.stack([np.asarray(image) for image in drawn]).astype(int)


@pytest.mark.slow
@pytest.mark.parametrize("method", FEW_STEPS)
def test_the_images_are_stock_diffusers_with_both_loras(method, tiny_base, adapter, images, loras):
    """But for rounding: stock keeps them beside the weights and encodes row by row."""
    lora = loras / "peft"
    ours = refined(tiny_base, adapter, images, lora, few_step_method=method)
    distance = np.abs(ours - stock(tiny_base, adapter, images, lora, method))
    assert distance.max() <= 1 and (distance > 0).mean() < 0.002
    without = refined(tiny_base, adapter, images, None, few_step_method=method)
    alone = refined(tiny_base, None, images, lora, few_step_method=method)
    assert np.abs(without - ours).max() > 1 and np.abs(alone - ours).max() > 1


@pytest.mark.slow
@pytest.mark.parametrize("written", ["diffusers", "kohya"])
def test_other_formats_give_the_same_images(written, tiny_base, adapter, images, loras):
    first, other = (refined(tiny_base, adapter, images, loras / name) for name in ("peft", written))
    assert np.abs(first - other).max() <= 1


@pytest.mark.slow
def test_rows_of_a_sampler_that_draws_noise_do_not_depend_on_their_neighbours(
    tiny_base, images, loras
):
    """Each step draws from the row's own generator."""
    for method in ("lcm", "tcd"):
        options = {"few_step_method": method, "num_inference_steps": 4}
        whole = refined(tiny_base, None, images, loras / "peft", **options)
        turned = refined(
            tiny_base, None, images[::-1].copy(), loras / "peft", SEEDS[::-1], **options
        )
        other = refined(tiny_base, None, images, loras / "peft", [SEEDS[0], 7], **options)
        assert np.array_equal(whole, turned[::-1])
        assert np.array_equal(whole[0], other[0]) and not np.array_equal(whole[1], other[1])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda w: {n.replace("unet.", "text_encoder.", 1): v for n, v in w.items()}, "outside"),
        (lambda w: {n.replace("attn1", "attn9"): v for n, v in w.items()}, "has no layer for"),
        # a pattern that peft would try for years
        (lambda w: w | {r"unet.(\w+\.?)+X.lora_A.weight": torch.zeros(2, 2)}, "has no layer for"),
        (lambda w: {}, "has no weights"),
        (lambda w: w | {"unet.conv_in.alpha": torch.ones(1)}, "has no layer for"),
        (lambda w: {n: v[..., :1].contiguous() for n, v in w.items()}, "does not fit"),
    ],
)
def test_a_file_that_is_no_lora_of_the_denoiser_is_refused(
    changed, said, tiny_base, images, loras, tmp_path
):
    save_file(changed(load_file(loras / "peft" / FILE)), tmp_path / FILE)
    with pytest.raises(UserError, match=said):
        refined(tiny_base, None, images, tmp_path)


@pytest.mark.slow
def test_metadata_of_a_strangers_file_is_not_read(tiny_base, images, loras, tmp_path):
    """peft would take its texts for patterns, and its numbers for sizes."""
    described = {"lora_adapter_metadata": json.dumps({"unet.r": 10**6, "unet.lora_alpha": 1e30})}
    save_file(load_file(loras / "peft" / FILE), tmp_path / FILE, metadata=described)
    expected = refined(tiny_base, None, images, loras / "peft")
    assert np.array_equal(refined(tiny_base, None, images, tmp_path), expected)


def lora_file(pin, weight_name):
    return find_lora(pin, weight_name, "few_step_lora", "few_step_weight_name")


def test_the_file_is_found_or_asked_for(tmp_path):
    def make(name, *files):
        folder = tmp_path / name
        folder.mkdir()
        for file in files:
            save_file({"x": torch.zeros(1)}, folder / file)
        return resolve(str(folder))

    assert lora_file(make("one", "8steps.safetensors"), None).name == "8steps.safetensors"
    assert lora_file(make("usual", "a.safetensors", FILE), None).name == FILE
    many = make("many", "4steps.safetensors", "8steps.safetensors")
    assert lora_file(many, "4steps.safetensors").name == "4steps.safetensors"
    with pytest.raises(UserError, match="needs few_step_weight_name: it has 4steps"):
        lora_file(many, None)
    for name in ("2steps.safetensors", "../one/8steps.safetensors", "*"):
        with pytest.raises(UserError, match="has no .*: it has 4steps"):
            lora_file(many, name)
    with pytest.raises(UserError, match=r"it has no \.safetensors file"):
        lora_file(make("none"), None)


# ---- settings ----


@pytest.mark.parametrize("method", [None, *FEW_STEPS])
def test_a_method_gives_what_is_not_given(method):
    chosen, sampling = settings(few_step_method=method), FEW_STEPS.get(method, MANY_STEPS)
    for name in ("scheduler", "num_inference_steps", "guidance_scale", "timestep_spacing"):
        assert getattr(chosen, name) == getattr(sampling, name)
    given = settings(few_step_method=method, num_inference_steps=6, guidance_scale=1.5)
    assert (given.num_inference_steps, given.guidance_scale) == (6, 1.5)
    assert sampling.scheduler in SCHEDULERS


def test_what_cannot_be_used_together_is_refused():
    for values, said in (
        ({"few_step_lora": "org/lora", "few_step_method": None}, "needs few_step_method, its kind"),
        ({"few_step_weight_name": "x.safetensors"}, "names a file of few_step_lora"),
        ({"num_inference_steps": 51}, "scheduler lcm takes at most 50"),
        ({"strength": 0.1}, r"at 8 steps runs no diffusion step: give .* at least 0\.13"),
        ({"few_step_method": "none"}, "few_step_method is none: choose lcm, tcd"),
    ):
        with pytest.raises(UserError, match=said):
            settings(**values).validate()


def test_what_is_not_used_is_not_published():
    """The fingerprints of runs without it are what they were."""
    published = published_settings(settings(few_step_method=None), {})
    assert not [name for name in published if "few_step" in name or name == "timestep_spacing"]
    used = published_settings(settings(few_step_lora="x"), {"few_step_lora": "org/x@" + "0" * 40})
    assert used["few_step_lora"].startswith("org/x@") and used["few_step_method"] == "lcm"


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_noise_level_is_that_of_the_noised_latents(scheduler, tiny_base):
    """Measured: the share of noise, of noise and image, in what the sampler starts from."""
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_base, safety_checker=None)
    sampler = with_scheduler(pipeline, scheduler).scheduler
    levels = noise_levels(sampler, 8)
    assert levels == sorted(levels) and len(set(levels)) == 8
    for steps, level in zip(range(1, 9), levels, strict=True):
        sampler.set_timesteps(8)
        if hasattr(sampler, "set_begin_index"):
            sampler.set_begin_index(8 - steps)
        at = sampler.timesteps[8 - steps :][:1]
        image, noise = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
        kept = sampler.add_noise(image, noise, at).item()
        added = sampler.add_noise(noise, image, at).item()
        assert level == pytest.approx(added / (kept + added), abs=1e-3)


@given(steps=st.integers(1, 50), strength=st.floats(0.02, 1))
def test_the_noise_level_does_not_disturb_a_sampler_at_work(steps, strength):
    from diffusers import DPMSolverMultistepScheduler

    sampler = DPMSolverMultistepScheduler()
    sampler.set_timesteps(7)
    before = sampler.timesteps.tolist()
    level = noise_levels(sampler, steps)[max(1, int(steps * strength)) - 1]
    assert 0 < level < 1 and sampler.timesteps.tolist() == before
