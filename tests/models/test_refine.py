"""Refinement: the bits of a row depend on the row alone, and are those of the stock pipeline."""

import shutil

import numpy as np
import pytest
import torch
import torch._inductor.config
from diffusers import (
    AutoencoderKL,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from pictures import difference, noisy_images
from PIL import Image
from safetensors.torch import load_file, save_file
from sdxl import refiner as refiner_of
from tiny_models import build_tiny_pipeline

from sgdmix_hub.errors import Unusable, UserError
from sgdmix_hub.method.mixer import MaskedImage
from sgdmix_hub.models.bases.loading import to_uint8
from sgdmix_hub.models.bases.schedulers import with_scheduler
from sgdmix_hub.models.prompts import RowPrompt
from sgdmix_hub.models.refine import unusable_reasons
from sgdmix_hub.pipeline import SGDMixPipeline

CPU = torch.device("cpu")
SIZE = 32
BATCH = 4
STRENGTH = 0.5
PROMPTS = [RowPrompt(f"a photo of a <class_{label}> bird") for label in (2, 0, 3, 0)]
SEEDS = [11, 2**62 + 5, 13, 14]
VAE_WEIGHTS = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def make_refiner(tiny_base, adapter):
    """A refiner of tiny_base (or another base) and the adapter, with settings of one's own."""

    def make(base=tiny_base, **values):
        return refiner_of(base, adapter, **{"batch_size": BATCH} | values)

    return make


@pytest.fixture(scope="module")
def refiner(make_refiner):
    return make_refiner()


@pytest.fixture(scope="module")
def images():
    return noisy_images(BATCH, SIZE)


@pytest.fixture(scope="module")
def foregrounds():
    masks = np.zeros((BATCH, SIZE, SIZE), bool)
    masks[:, 4:20, 8:28] = True
    return masks


@pytest.fixture(scope="module", params=[None, 0.2], ids=["one strength", "foreground strength"])
def refine(request, make_refiner, images, foregrounds):
    """`refine(rows)`: the refined images of those rows of the full batch, in that order."""
    refiner = make_refiner(foreground_strength=request.param)

    def refine_rows(rows):
        return refiner.refine(
            images[rows],
            foregrounds[rows],
            [PROMPTS[row] for row in rows],
            [SEEDS[row] for row in rows],
            STRENGTH,
        )

    return refine_rows


@pytest.mark.parametrize("rows", [[0, 1, 2], [0], [3], [2, 3]])
def test_padding_changes_no_bit(refine, rows):
    padded = refine(rows)
    assert all(image.shape == (SIZE, SIZE, 3) and image.dtype == np.uint8 for image in padded)
    assert np.array_equal(padded, np.stack(refine([0, 1, 2, 3]))[rows])


def test_neither_neighbours_nor_order_change_a_bit(refine):
    whole = np.stack(refine([0, 1, 2, 3]))
    assert np.array_equal(refine([3, 1, 0, 2]), whole[[3, 1, 0, 2]])
    assert np.array_equal(refine([1, 1, 2, 1]), whole[[1, 1, 2, 1]])
    torch.manual_seed(99)
    torch.rand(1000)  # global random numbers play no part
    assert np.array_equal(refine([0, 1, 2, 3]), whole)


@pytest.mark.slow
def test_prompt_seed_and_image_all_matter(refiner, images, foregrounds):
    def refined(prompts=PROMPTS, seeds=SEEDS, pixels=images):
        return np.stack(refiner.refine(pixels, foregrounds, prompts, seeds, STRENGTH))

    whole = refined()
    inverted = np.concatenate([255 - images[:1], images[1:]])
    for other in (
        refined(prompts=[RowPrompt("a photo of a <class_1> bird"), *PROMPTS[1:]]),
        refined(seeds=[7, *SEEDS[1:]]),
        refined(pixels=inverted),
    ):
        assert not np.array_equal(other[0], whole[0])
        assert np.array_equal(other[1:], whole[1:])


def stock_pipeline(base, adapter, scheduler="dpmsolver++"):
    """Stock diffusers, loaded as an adapter's card says, with one of our samplers."""
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(
        base, safety_checker=None, requires_safety_checker=False
    )
    pipeline.load_lora_weights(str(adapter))
    pipeline.load_textual_inversion(
        [{name: row} for name, row in load_file(adapter / "learned_embeds.safetensors").items()]
    )
    pipeline.set_progress_bar_config(disable=True)
    return with_scheduler(pipeline, scheduler)


@pytest.mark.slow
@pytest.mark.parametrize("guidance_scale", [5.0, 1.0])
@pytest.mark.parametrize("scheduler", ["dpmsolver++", "ddim", "euler", "unipc"])
def test_the_images_are_those_of_the_stock_pipeline(
    make_refiner, tiny_base, adapter, images, foregrounds, scheduler, guidance_scale
):
    """But for rounding: the stock pipeline encodes row by row and keeps the adapter beside the
    weights.
    """
    stock = stock_pipeline(tiny_base, adapter, scheduler)
    ours = make_refiner(scheduler=scheduler, guidance_scale=guidance_scale)
    for label, strength in ((0, 0.5), (3, 0.9), (3, 1.0)):
        expected = stock(
            prompt=f"a photo of a <class_{label}> bird",
            image=[Image.fromarray(image) for image in images],
            num_images_per_prompt=BATCH,
            strength=strength,
            num_inference_steps=6,
            guidance_scale=guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        ).images
        prompts = [RowPrompt(f"a photo of a <class_{label}> bird")] * BATCH
        refined = ours.refine(images, foregrounds, prompts, SEEDS, strength)
        largest, share = difference(refined, np.stack([np.asarray(image) for image in expected]))
        assert largest <= 1 and share < 0.001


@pytest.mark.slow
def test_with_the_adapter_beside_the_weights_the_images_are_the_same(
    make_refiner, images, foregrounds
):
    """As it is where the base model without it is needed too, for inpainting; the adapter's share
    is far above the tolerance.
    """
    fused = make_refiner().refine(images, foregrounds, PROMPTS, SEEDS, STRENGTH)
    kept = make_refiner(
        preset="recommended", foreground_strength=0.5, inpainting_method="diffusion"
    )
    largest, share = difference(
        kept.refine(images, foregrounds, PROMPTS, SEEDS, STRENGTH), np.stack(fused)
    )
    assert largest <= 1 and share < 0.001
    kept.pipeline.unet.disable_adapters()
    assert (
        difference(kept.refine(images, foregrounds, PROMPTS, SEEDS, STRENGTH), np.stack(fused))[1]
        > 0.01
    )


def test_each_batch_has_the_strength_that_it_is_given(refiner, images, foregrounds):
    """Also one after the other in one refiner, whose sampler keeps a history."""

    def refined(strength):
        return np.stack(refiner.refine(images, foregrounds, PROMPTS, SEEDS, strength)).astype(int)

    first = {strength: refined(strength) for strength in (0.9, 0.2, 0.5)}
    assert all(np.array_equal(first[strength], refined(strength)) for strength in (0.2, 0.9, 0.5))
    change = {strength: np.abs(first[strength] - images).mean() for strength in first}
    assert change[0.2] < change[0.5] < change[0.9]


@pytest.fixture(scope="module")
def shallow_base(tmp_path_factory):
    """A base of few layers: the compiler takes a second for every kind."""
    parts = build_tiny_pipeline().components
    one = {"block_out_channels": (16,), "sample_size": SIZE}
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("UpBlock2D",)}
    parts["unet"] = UNet2DConditionModel.from_config(
        parts["unet"].config, mid_block_type=None, **one | blocks
    )
    blocks = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    parts["vae"] = AutoencoderKL.from_config(
        parts["vae"].config, mid_block_add_attention=False, **one | blocks
    )
    folder = tmp_path_factory.mktemp("shallow") / "base"
    StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("own_kernels", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_a_compiled_model_makes_the_same_images(own_kernels, shallow_base, images, foregrounds):
    """What is compiled is traced and put together by the compiler of a GPU's runs; its kernels for
    a CPU are one g++ each, and only `make soak` waits for them.
    """
    if own_kernels and shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    prompts = [RowPrompt(f"a photo of a {color} bird") for color in ("red", "blue")] * 2
    made = []
    quickly = {"compile_threads": 1, "cpp.vec_isa_ok": False, "aot_inductor.debug_compile": True}
    with torch._inductor.config.patch(quickly | {"fallback_by_default": not own_kernels}):
        for compiled in (False, True):
            refiner = refiner_of(shallow_base, batch_size=BATCH, compile=compiled)
            made.append(np.stack(refiner.refine(images, foregrounds, prompts, SEEDS, STRENGTH)))
    largest, share = difference(*made)
    assert largest <= 1 and share < 0.001
    assert difference(made[0], images)[1] > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["dpmsolver++", "ddim", "euler", "unipc"])
def test_the_same_strength_for_the_foreground_is_one_strength(
    make_refiner, images, foregrounds, scheduler
):
    one = make_refiner(scheduler=scheduler).refine(images, foregrounds, PROMPTS, SEEDS, STRENGTH)
    two = make_refiner(scheduler=scheduler, foreground_strength=0.5).refine(
        images, foregrounds, PROMPTS, SEEDS, STRENGTH
    )
    assert np.array_equal(one, two)


@pytest.mark.slow
def test_a_base_with_another_number_of_latent_channels(make_refiner, images, foregrounds, tmp_path):
    """diffusers' img2img takes for latents whatever has four channels, and nothing else."""
    build_tiny_pipeline(latent_channels=8).save_pretrained(tmp_path / "base")
    results = [
        make_refiner(base=tmp_path / "base", foreground_strength=strength).refine(
            images, foregrounds, PROMPTS, SEEDS, STRENGTH
        )
        for strength in (None, 0.5, 0.0)
    ]
    assert np.array_equal(results[0], results[1]) and not np.array_equal(results[0], results[2])


@pytest.mark.parametrize("scheduler", ["dpmsolver++", "ddim", "euler", "unipc"])
def test_a_foreground_at_strength_zero_is_what_the_vae_makes_of_it(make_refiner, images, scheduler):
    """Everything foreground: then nothing of the sampler is left."""
    refiner = make_refiner(scheduler=scheduler, foreground_strength=0.0)
    refined = refiner.refine(images, np.ones((BATCH, SIZE, SIZE), bool), PROMPTS, SEEDS, STRENGTH)
    vae, generators = refiner.pipeline.vae, [torch.Generator().manual_seed(seed) for seed in SEEDS]
    with torch.no_grad():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        latents = [
            vae.encode(row[None]).latent_dist.sample(generator)
            for row, generator in zip(pixels, generators, strict=True)
        ]
        expected = (vae.decode(torch.cat(latents)).sample / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    assert difference(refined, to_uint8(expected).numpy())[0] <= 1


# --- rows that must not be published


def finished(refiner, images, foregrounds, rows=3):
    """What the pipeline makes of mixtures: images, or reasons."""
    pipeline = SGDMixPipeline(refiner.settings, refiner)
    masked = [
        MaskedImage(image, mask, (1, 1)) for image, mask in zip(images, foregrounds, strict=True)
    ]
    mixtures = [pipeline.mixer.mix(masked[row], masked[(row + 1) % BATCH]) for row in range(rows)]
    return pipeline.refine(mixtures, PROMPTS[:rows], SEEDS[:rows], STRENGTH)


def test_flagged_rows_have_a_reason_and_never_an_image(
    make_refiner, prudish_base, images, foregrounds
):
    outcome = finished(make_refiner(prudish_base, safety_checker=True), images, foregrounds)
    assert outcome == [Unusable("flagged by the safety checker")] * 3


@pytest.mark.slow
def test_without_the_safety_checker_the_same_rows_are_images(
    make_refiner, prudish_base, refiner, images, foregrounds
):
    outcome = finished(make_refiner(prudish_base, safety_checker=False), images, foregrounds)
    expected = finished(refiner, images, foregrounds)
    assert all(image.dtype == np.uint8 and image.shape == (SIZE, SIZE, 3) for image in outcome)
    assert all(
        np.array_equal(first, second) for first, second in zip(outcome, expected, strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bias", "reason"),
    [(float("nan"), "refined image is not finite"), (0.25, "refined image is constant")],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_outputs_of_a_broken_decoder_have_a_reason(
    make_refiner, tiny_base, tmp_path, images, foregrounds, bias, reason
):
    base = shutil.copytree(tiny_base, tmp_path / "base")
    weights = load_file(base / VAE_WEIGHTS)
    weights["decoder.conv_out.weight"].zero_()
    weights["decoder.conv_out.bias"].fill_(bias)
    save_file(weights, base / VAE_WEIGHTS, metadata={"format": "pt"})
    assert finished(make_refiner(base), images, foregrounds) == [Unusable(reason)] * 3


def test_reasons():
    good = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    images = good.clone()
    for row, value in ((1, float("nan")), (2, float("inf")), (3, -float("inf"))):
        images[row, 0, 1, 2] = value
    images[4] = 0.7 + good[4] * 1e-4
    constant, not_finite, flagged = (
        "refined image is constant",
        "refined image is not finite",
        "flagged by the safety checker",
    )
    assert unusable_reasons(images, [False] * 8) == [
        None,
        not_finite,
        not_finite,
        not_finite,
        constant,
        None,
    ]
    assert unusable_reasons(images, [True, True, False, False, True, False]) == [
        flagged,
        flagged,
        not_finite,
        not_finite,
        flagged,
        None,
    ]


def test_uint8_is_the_nearest_value():
    values = torch.arange(256) / 255
    assert to_uint8(values).tolist() == to_uint8(values + 0.4 / 255).tolist() == list(range(256))
    assert to_uint8(torch.tensor([-0.2, 1.3])).tolist() == [0, 255]


def test_a_folder_that_is_no_base_is_refused(make_refiner, birds, tiny_base, tmp_path):
    with pytest.raises(UserError, match="base model"):
        make_refiner(birds)
    base = shutil.copytree(tiny_base, tmp_path / "truncated")
    (base / VAE_WEIGHTS).write_bytes((base / VAE_WEIGHTS).read_bytes()[:5000])
    with pytest.raises(UserError, match="base model"):
        make_refiner(base)


def test_pickled_weights_are_refused(make_refiner, tiny_base, tmp_path):
    """Nothing that is fetched is ever unpickled."""
    base = shutil.copytree(tiny_base, tmp_path / "pickled")
    torch.save(load_file(base / VAE_WEIGHTS), base / "vae" / "diffusion_pytorch_model.bin")
    (base / VAE_WEIGHTS).unlink()
    with pytest.raises(UserError, match="base model"):
        make_refiner(base)
