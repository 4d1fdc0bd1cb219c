"""Stable Diffusion XL: what stock diffusers makes, in generation, training, files and card."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from diffusers import (
    EulerAncestralDiscreteScheduler,
    LCMScheduler,
)
from every_family import loaded_base
from pictures import boxed_foregrounds, difference, noisy_images
from PIL import Image
from safetensors.torch import load_file, save_file
from sdxl import BATCH, PROMPT, SEEDS, SIZE, refiner, stock_images, stock_pipeline
from tiny_bases import SDXL_SCHEDULE, build_sdxl
from trainings import weights

from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.adapters import FACTS_FILE, LORA_FILE, TOKENS_FILE, load_into, read_adapter
from sgdmix_hub.models.bases.stable_diffusion_xl import StableDiffusionXL
from sgdmix_hub.models.bases.supported import check_supported


@pytest.fixture(scope="module")
def base(base_of):
    return base_of("stable-diffusion-xl")


@pytest.fixture(scope="module")
def adapter(adapter_of):
    return adapter_of("stable-diffusion-xl")


@pytest.fixture(scope="module")
def images():
    return noisy_images(BATCH, SIZE)


@pytest.fixture(scope="module")
def foregrounds():
    return boxed_foregrounds(BATCH, SIZE)


# ---- generation ----


@pytest.mark.slow
@pytest.mark.parametrize("guidance_scale", [5.0, 1.0])
@pytest.mark.parametrize("scheduler", ["dpmsolver++", "ddim", "euler", "unipc"])
def test_the_images_are_those_of_the_stock_pipeline(
    scheduler, guidance_scale, base, images, foregrounds
):
    """But for rounding: the stock pipeline encodes row by row."""
    ours = refiner(base, scheduler=scheduler, guidance_scale=guidance_scale)
    stock = stock_pipeline(base, scheduler)
    for strength in (0.5, 1.0):
        expected = stock_images(
            stock, images, "a photo of a bird", strength, guidance_scale=guidance_scale
        )
        refined = ours.refine(images, foregrounds, PROMPT * BATCH, SEEDS, strength)
        largest, share = difference(refined, expected)
        assert largest <= 1 and share < 0.001


@pytest.mark.slow
def test_images_that_are_not_square_are_told_of_their_sides(base, foregrounds):
    wide = np.random.default_rng(1).integers(0, 256, (BATCH, SIZE, 2 * SIZE, 3), np.uint8)
    refined = refiner(base).refine(wide, np.zeros(wide.shape[:3], bool), PROMPT * BATCH, SEEDS, 0.5)
    expected = stock_images(stock_pipeline(base), wide, "a photo of a bird", 0.5)
    largest, share = difference(refined, expected)
    assert largest <= 1 and share < 0.001


@pytest.mark.slow
def test_one_image_a_batch_is_the_stock_pipelines_bit_for_bit(base, images, foregrounds):
    ours, stock = refiner(base, batch_size=1), stock_pipeline(base)
    refined = ours.refine(images[:1], foregrounds[:1], PROMPT, SEEDS[:1], 0.5)
    stock.set_progress_bar_config(disable=True)
    expected = stock(
        prompt="a photo of a bird",
        image=Image.fromarray(images[0]),
        strength=0.5,
        num_inference_steps=6,
        guidance_scale=5.0,
        generator=[torch.Generator().manual_seed(SEEDS[0])],
    ).images[0]
    assert np.array_equal(refined[0], np.asarray(expected))


@pytest.mark.slow
def test_a_turbo_schedule_is_kept(images, foregrounds, tmp_path):
    """Timesteps at the end of each step ("trailing"), one or two steps, no guidance."""
    turbo = EulerAncestralDiscreteScheduler(
        **{name: value for name, value in SDXL_SCHEDULE.items() if name != "interpolation_type"}
        | {"timestep_spacing": "trailing"}
    )
    build_sdxl(turbo).save_pretrained(tmp_path / "turbo")
    for scheduler in ("euler", "dpmsolver++", "ddim"):
        ours = refiner(
            tmp_path / "turbo", scheduler=scheduler, num_inference_steps=2, guidance_scale=1
        )
        refined = ours.refine(images, foregrounds, PROMPT * BATCH, SEEDS, 0.5)
        assert ours.pipeline.scheduler.timesteps.tolist() == [999, 499]
        expected = stock_images(
            stock_pipeline(tmp_path / "turbo", scheduler),
            images,
            "a photo of a bird",
            0.5,
            steps=2,
            guidance_scale=0.0,
        )
        largest, share = difference(refined, expected)
        assert largest <= 1 and share < 0.001


@pytest.mark.slow
def test_a_distilled_unet_is_told_the_guidance_scale(images, foregrounds, tmp_path):
    """LCM: the UNet embeds the scale and runs once."""
    lcm = LCMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    build_sdxl(lcm, time_cond_proj_dim=16).save_pretrained(tmp_path / "lcm")
    results = []
    for guidance_scale in (8.0, 2.0):
        ours = refiner(tmp_path / "lcm", scheduler="ddim", guidance_scale=guidance_scale)
        refined = ours.refine(images, foregrounds, PROMPT * BATCH, SEEDS, 0.5)
        stock = stock_pipeline(tmp_path / "lcm", "ddim")
        expected = stock_images(
            stock, images, "a photo of a bird", 0.5, guidance_scale=guidance_scale
        )
        largest, share = difference(refined, expected)
        assert largest <= 1 and share < 0.001
        results.append(refined)
    assert not np.array_equal(*results)


@pytest.mark.parametrize(("upcast", "kept"), [(True, torch.float32), (False, torch.float16)])
def test_an_autoencoder_that_overflows_in_half_precision_stays_in_single(
    upcast, kept, base, tmp_path
):
    """The original one says so (`force_upcast`), the mended one (fp16-fix) does not."""
    folder = shutil.copytree(base, tmp_path / "base")
    config = folder / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"force_upcast": upcast}))
    half = refiner(folder, dtype="float16")
    assert {p.dtype for p in half.pipeline.vae.parameters()} == {kept}
    assert {p.dtype for p in half.denoiser.parameters()} == {torch.float16}


# ---- files ----


@pytest.mark.slow
def test_the_files_are_those_of_stock_pivotal_tuning(adapter):
    tokens = load_file(adapter / TOKENS_FILE)
    assert {key: tuple(rows.shape) for key, rows in tokens.items()} == {
        "clip_l": (8, 32),
        "clip_g": (8, 48),
    }
    assert all(
        re.fullmatch(r"unet\..+\.attn[12]\.(to_q|to_k|to_v|to_out\.0)\.lora\.(up|down)\.weight", n)
        for n in load_file(adapter / LORA_FILE)
    )
    assert json.loads((adapter / FACTS_FILE).read_text())["family"] == "stable-diffusion-xl"
    assert all(value.abs().max() > 0 for value in weights(adapter).values())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda tokens: {"clip_l": tokens["clip_l"]}, "no learned tokens clip_g"),
        (lambda tokens: {n: rows[:7] for n, rows in tokens.items()}, "no tokens of 4 classes"),
        (lambda tokens: tokens | {"clip_g": tokens["clip_g"][:4]}, "no tokens of 4 classes"),
        (lambda tokens: {n: rows[0] for n, rows in tokens.items()}, "no tokens of 4 classes"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(changed, said, base, adapter, tmp_path):
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    tokens = {name: rows.clone() for name, rows in changed(load_file(folder / TOKENS_FILE)).items()}
    save_file(
        {name: rows.contiguous() for name, rows in tokens.items()},
        folder / TOKENS_FILE,
        metadata={"format": "pt"},
    )
    with pytest.raises(UserError, match=said):
        load_into(
            loaded_base(base),
            read_adapter(resolve(str(folder))),
        )


# ---- what is refused ----


def test_an_adapter_of_another_family_is_refused_in_a_line(base, tiny_base, adapter):
    with pytest.raises(
        UserError, match=r"trained on a base of Stable Diffusion XL, and this base is of Stable "
    ):
        load_into(
            loaded_base(tiny_base),
            read_adapter(resolve(str(adapter))),
        )


def test_an_adapter_of_an_unknown_family_is_refused(adapter, tmp_path):
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    facts = json.loads((folder / FACTS_FILE).read_text()) | {"family": "of-tomorrow"}
    (folder / FACTS_FILE).write_text(json.dumps(facts))
    with pytest.raises(UserError, match="of-tomorrow, which this version"):
        read_adapter(resolve(str(folder)))


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        ("model_index.json", {"text_encoder": [None, None]}, "no text_encoder, like SDXL's ref"),
        ("model_index.json", {"requires_aesthetics_score": True}, "no plain conditioning, like"),
        ("unet/config.json", {"addition_embed_type": None}, "nothing but the prompt"),
        ("unet/config.json", {"in_channels": 9}, "takes 9 channels"),
    ],
)
def test_what_is_no_base_of_sdxl_is_refused(file, values, said, base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "odd")
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    assert check_supported(resolve(str(base))).name == StableDiffusionXL.name
    with pytest.raises(UserError, match=said):
        check_supported(resolve(str(folder)))
