"""Every family of base models in a generation: the images of stock diffusers, noise levels.

One base of random weights a family; a family without one in `tiny_bases.BUILD` fails.
"""

import json
import re

import numpy as np
import pytest
import torch
from every_family import (
    BATCH,
    CPU,
    FLOW,
    PROMPTS,
    SEEDS,
    SIZE,
    TEXT,
    adapted,
    loaded_base,
    loss_of,
    refined,
    refiner,
    stock_images,
    stock_pipeline,
)
from pictures import boxed_foregrounds, difference, noisy_images
from safetensors.torch import load_file, save_file
from tiny_bases import BUILD, build_flux, build_flux2_klein, build_sd3

from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.bases.families import BY_NAME
from sgdmix_hub.models.bases.loading import load_base
from sgdmix_hub.models.bases.qwen_image import SYSTEM_TOKENS, TEMPLATE
from sgdmix_hub.models.bases.schedulers import FLOW_SCHEDULERS
from sgdmix_hub.models.prompts import RowPrompt
from sgdmix_hub.models.sampling import draw_images


@pytest.fixture(scope="module")
def base(family, base_of):
    return base_of(family.name)


@pytest.fixture(scope="module")
def images():
    return noisy_images(BATCH, SIZE)


@pytest.fixture(scope="module")
def foregrounds():
    return boxed_foregrounds(BATCH, SIZE)


# ---- generation ----


@pytest.mark.slow
@pytest.mark.parametrize("guidance_scale", [4.0, 1.0])
def test_the_images_are_those_of_the_stock_pipeline(
    guidance_scale, family, base, images, foregrounds
):
    """But for rounding: stock encodes row by row, and runs some guidance in two passes."""
    ours, stock = refiner(base, guidance_scale=guidance_scale), stock_pipeline(base, family)
    for strength in (0.6, 1.0):
        expected = stock_images(stock, family, images, strength, guidance_scale)
        largest, share = difference(refined(ours, images, foregrounds, strength=strength), expected)
        assert largest <= 1 and share < 0.001
    assert difference(expected, images)[1] > 0.5


@pytest.mark.slow
def test_the_same_strength_for_the_foreground_is_one_strength(base, images, foregrounds):
    one, two = (
        refined(refiner(base, foreground_strength=strength), images, foregrounds)
        for strength in (None, 0.5)
    )
    assert np.array_equal(one, two)


@pytest.mark.slow
def test_a_foreground_at_strength_zero_is_what_the_autoencoder_makes_of_it(
    family, base, images, foregrounds
):
    """Everything foreground: then nothing of the sampler is left. A part of it stays near."""
    ours = refiner(base, foreground_strength=0.0)
    everything = np.ones((BATCH, SIZE, SIZE), bool)
    vae, space = ours.pipeline.vae, family.latents
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    with torch.no_grad():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        decoded = space.decode(vae, space.draw(vae, pixels, generators))
    expected = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1)
    for strength in (0.3, 0.9):
        kept = refined(ours, images, everything, strength=strength)
        assert difference(kept, expected.numpy().astype(np.uint8))[0] <= 1
    partly = refined(ours, images, foregrounds, strength=0.9)
    assert difference(partly, kept)[1] > 0.1


@pytest.mark.slow
def test_padding_neighbours_and_order_change_no_bit(base, images, foregrounds):
    ours = refiner(base, foreground_strength=0.25, batch_size=3)
    prompts = [RowPrompt(TEXT), RowPrompt("a red bird")]

    def made(rows):
        return refined(
            ours,
            images[rows],
            foregrounds[rows],
            [prompts[row] for row in rows],
            [SEEDS[row] for row in rows],
            0.75,
        )

    whole = made([0, 1])
    for rows in ([0], [1], [1, 0], [1, 0, 1]):
        assert np.array_equal(made(rows), whole[rows])


@pytest.mark.slow
def test_prompt_and_guidance_matter(base, images, foregrounds):
    ours = refiner(base)
    told = [
        refined(ours, images, foregrounds, [RowPrompt(text)] * BATCH, strength=1.0)
        for text in (TEXT, "green grass, red sky")
    ]
    assert not np.array_equal(*told)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "scheduler"), [*((name, "dpmsolver++") for name in FLOW), ("z-image", "unipc")]
)
def test_other_samplers_go_where_the_stock_one_goes(name, scheduler, base_of, images, foregrounds):
    """With many steps all of them solve one equation; a wrong noise level or sign would not."""
    base = base_of(name)
    many = {"num_inference_steps": 24, "guidance_scale": 1.0, "batch_size": 1}
    one, other = (
        refined(
            refiner(base, scheduler=chosen, **many),
            images[:1],
            foregrounds[:1],
            PROMPTS[:1],
            SEEDS[:1],
        ).astype(int)
        for chosen in ("euler", scheduler)
    )
    source = images[:1].astype(int)
    assert np.abs(one - other).mean() < 0.2 * np.abs(one - source).mean()


@pytest.mark.slow
def test_what_a_training_draws_and_judges_is_drawn(family, base, images):
    """From noise and from images, through the stock pipelines."""
    loaded = loaded_base(base)
    loaded.use_scheduler()
    options = {
        "resolution": SIZE,
        "num_inference_steps": 2,
        "guidance_scale": 2.0,
        "batch_size": BATCH,
    }
    drawn = draw_images(loaded, [TEXT], SEEDS[:1], **options)
    again = draw_images(loaded, [TEXT], SEEDS[:1], images=images[:1], strength=0.5, **options)
    assert drawn.shape == again.shape == (1, SIZE, SIZE, 3)
    assert not np.array_equal(drawn, again)


# ---- strength and noise levels ----


def test_a_noise_level_runs_the_nearest_step_on_every_base(base, images, foregrounds):
    ours = refiner(base, strength_unit="noise-level", num_inference_steps=20)
    levels = ours.levels.of_steps()
    assert levels == sorted(levels) and len(levels) == 21 and 0.8 < levels[-1] <= 1
    for asked in (0.3, 0.62):
        reached = ours.levels.sigma_start(asked)
        assert abs(reached - asked) == min(abs(level - asked) for level in levels)
        assert reached == pytest.approx(asked, abs=0.08)


def test_a_noise_level_without_a_step_is_refused_and_the_named_one_runs_a_step(base):
    with pytest.raises(UserError, match="runs no diffusion step") as refusal:
        refiner(base, strength_unit="noise-level", strength=[0.001])
    named = float(re.search(r"begins at ([\d.]+)", str(refusal.value))[1])
    assert refiner(base, strength_unit="noise-level", strength=[named]).levels.steps(named) == 1


def test_a_noise_level_is_that_of_the_noised_latents(family, base):
    """Noise alone at level 1, and shares that add up where stock has them so."""
    ours = refiner(base, num_inference_steps=10)
    scheduler = ours.pipeline.scheduler
    family.set_timesteps(ours.pipeline, scheduler, 10, (SIZE, SIZE), CPU)
    sigma = float(scheduler.sigmas[4])
    expected = sigma if family.name in FLOW else sigma / (1 + sigma)
    assert ours.levels.of_steps()[6] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", FLOW)
def test_samplers_that_a_flow_has_not_are_refused_in_a_line(name, base_of):
    base = base_of(name)
    for values, said in (
        ({"scheduler": "ddim"}, f"scheduler ddim is not for .*: give {', '.join(FLOW_SCHEDULERS)}"),
        ({"timestep_spacing": "leading"}, "timestep_spacing leading is not for"),
    ):
        with pytest.raises(UserError, match=said.replace("+", r"\+")):
            refiner(base, **values)


def test_an_image_of_a_size_that_the_base_does_not_take_is_refused(family, base):
    loaded = load_base(resolve(str(base)), torch.float32, "image_to_image")
    multiple = family.multiple_of(loaded.pipeline)
    with pytest.raises(UserError, match=rf"not a multiple of {multiple}, .*: give {2 * multiple}$"):
        loaded.check_size(2 * multiple + 1)
    loaded.check_size(2 * multiple)


@pytest.mark.slow
def test_one_step_draws_or_is_refused_in_a_line(family, base, images, foregrounds):
    """A schedule that ends above no noise has no first level to count it from."""
    one = {"num_inference_steps": 1, "strength": [1.0], "batch_size": BATCH}
    if family.name == "qwen-image":
        with pytest.raises(UserError, match="num_inference_steps 1 gives no noise levels"):
            refiner(base, **one)
    else:
        made = refined(refiner(base, **one), images, foregrounds, strength=1.0)
        assert difference(made, images)[1] > 0.5


@pytest.mark.slow
def test_a_base_whose_weights_are_in_shards_is_the_same_base(
    family, base, images, foregrounds, tmp_path
):
    folder = tmp_path / "base"
    loaded_base(base).pipeline.save_pretrained(
        folder, safe_serialization=True, max_shard_size="50KB"
    )
    part = folder / family.denoiser
    assert len(list(part.glob("*.safetensors"))) > 1
    made = [refined(refiner(one), images, foregrounds) for one in (base, folder)]
    assert np.array_equal(*made)
    (index,) = part.glob("*.index.json")
    missing, shard = min(json.loads(index.read_text())["weight_map"].items())
    weights = load_file(part / shard)
    del weights[missing]
    save_file(weights, part / shard)
    with pytest.raises(UserError, match=f"incomplete: {family.denoiser} needs"):
        refiner(folder)


# ---- what single families have besides ----


@pytest.mark.slow
def test_sd3_without_t5_is_the_stock_pipelines_too(saved, images, foregrounds):
    family, base = BY_NAME["stable-diffusion-3"], saved(build_sd3(with_t5=False))
    absent = {"text_encoder_3": None, "tokenizer_3": None}
    expected = stock_images(stock_pipeline(base, family, **absent), family, images, 0.6)
    assert difference(refined(refiner(base), images, foregrounds, strength=0.6), expected)[0] <= 1
    loaded, model, prompts = adapted(base)
    assert len(prompts) == 2 and set(model.learned()) == {"clip_l", "clip_g"}
    noising = family.noising(loaded.pipeline.scheduler.config)
    loss_of(loaded, model, prompts, [0, 1], noising)[1].backward()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pipeline"),
    [
        ("flux", lambda: build_flux(guidance_embeds=False)),
        ("flux-2-klein", lambda: build_flux2_klein(is_distilled=True)),
    ],
)
def test_distilled_bases_are_not_guided(name, pipeline, saved, images, foregrounds):
    family, base = BY_NAME[name], saved(pipeline())
    expected = stock_images(stock_pipeline(base, family), family, images, 0.6)
    made = [
        refined(refiner(base, guidance_scale=scale), images, foregrounds, strength=0.6)
        for scale in (4.0, 1.0)
    ]
    assert difference(made[0], expected)[0] <= 1 and np.array_equal(*made)
    with pytest.raises(UserError, match="negative_prompt has no effect"):
        refiner(base, negative_prompt="blurred")


def test_the_template_of_qwen_image_is_the_stock_pipelines():
    pipeline = BUILD["qwen-image"]()
    assert pipeline.prompt_template_encode == TEMPLATE
    assert pipeline.prompt_template_encode_start_idx == SYSTEM_TOKENS
