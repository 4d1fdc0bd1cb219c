"""Refinement: the bits of a row depend on the row alone, and are those of the stock pipeline."""

import shutil

import numpy as np
import pytest
import torch
from conftest import build_tiny_pipeline
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, StableDiffusionImg2ImgPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from sgdmix_hub.adapters import read_adapter
from sgdmix_hub.config import AugmentSettings, UserError, apply_preset
from sgdmix_hub.pins import resolve
from sgdmix_hub.pipeline import MaskedImage, SGDMixPipeline
from sgdmix_hub.refine import Refiner, to_uint8, unusable_reason

CPU = torch.device("cpu")
SIZE = 32
BATCH = 4
LABELS = [2, 0, 3, 0]
SEEDS = [11, 2**62 + 5, 13, 14]
VAE_WEIGHTS = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def make_refiner(tiny_base, adapter):
    """A refiner of tiny_base (or another base) and the adapter, with settings of one's own."""

    def make(base=tiny_base, **values):
        defaults = {"strength": 0.5, "num_inference_steps": 6, "guidance_scale": 5.0, "batch_size": BATCH, "resolution": SIZE}
        settings = AugmentSettings(dataset_name="unused", output_dir="unused", adapter="unused", classifier="unused", **(defaults | values))
        return Refiner(resolve(str(base)), read_adapter(resolve(str(adapter))), apply_preset(settings), CPU)

    return make


@pytest.fixture(scope="module")
def refiner(make_refiner):
    return make_refiner()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8)


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
        refined, _ = refiner.refine(images[rows], foregrounds[rows], [LABELS[row] for row in rows], [SEEDS[row] for row in rows])
        return refined

    return refine_rows


@pytest.mark.parametrize("rows", [[0, 1, 2], [0], [3], [2, 3]])
def test_padding_changes_no_bit(refine, rows):
    padded = refine(rows)
    assert padded.shape == (len(rows), SIZE, SIZE, 3) and padded.dtype == np.float32
    assert np.array_equal(padded, refine([0, 1, 2, 3])[rows])


def test_neither_neighbours_nor_order_change_a_bit(refine):
    whole = refine([0, 1, 2, 3])
    assert np.array_equal(refine([3, 1, 0, 2]), whole[[3, 1, 0, 2]])
    assert np.array_equal(refine([1, 1, 2, 1]), whole[[1, 1, 2, 1]])
    torch.manual_seed(99)
    torch.rand(1000)  # global random numbers play no part
    assert np.array_equal(refine([0, 1, 2, 3]), whole)


def test_label_seed_and_image_all_matter(refiner, images, foregrounds):
    def refined(labels=LABELS, seeds=SEEDS, pixels=images):
        return refiner.refine(pixels, foregrounds, labels, seeds)[0]

    whole = refined()
    inverted = np.concatenate([255 - images[:1], images[1:]])
    for other in (refined(labels=[1, *LABELS[1:]]), refined(seeds=[7, *SEEDS[1:]]), refined(pixels=inverted)):
        assert not np.array_equal(other[0], whole[0])
        assert np.array_equal(other[1:], whole[1:])


def stock_pipeline(base, adapter):
    """Stock diffusers, as an adapter's card tells its users to load it."""
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(base, safety_checker=None, requires_safety_checker=False)
    pipeline.load_lora_weights(str(adapter))
    pipeline.load_textual_inversion([{name: row} for name, row in load_file(adapter / "learned_embeds.safetensors").items()])
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("guidance_scale", [5.0, 1.0])
@pytest.mark.parametrize("scheduler", ["dpmsolver++", "ddim"])
def test_the_images_are_those_of_the_stock_pipeline(make_refiner, tiny_base, adapter, images, foregrounds, scheduler, guidance_scale):
    """One prompt string for the batch and a generator a row; bit for bit."""
    stock = stock_pipeline(tiny_base, adapter)
    if scheduler == "ddim":
        stock.scheduler = DDIMScheduler.from_config(stock.scheduler.config)
    else:
        stock.scheduler = DPMSolverMultistepScheduler.from_config(stock.scheduler.config, algorithm_type="dpmsolver++")
    ours = make_refiner(scheduler=scheduler, guidance_scale=guidance_scale)
    for label in (0, 3):
        expected = stock(
            prompt=f"a photo of a <class_{label}> bird",
            image=torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255,
            num_images_per_prompt=BATCH,
            strength=0.5,
            num_inference_steps=6,
            guidance_scale=guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
            output_type="np",
        ).images
        refined, flagged = ours.refine(images, foregrounds, [label] * BATCH, SEEDS)
        assert np.array_equal(refined, expected)
        assert flagged == [False] * BATCH


def test_pictures_give_the_images_that_their_pixels_give(refiner, tiny_base, adapter, images, foregrounds):
    """The stock pipeline takes PIL images: the way through uint8 and back loses nothing."""
    stock = stock_pipeline(tiny_base, adapter)
    stock.scheduler = DPMSolverMultistepScheduler.from_config(stock.scheduler.config, algorithm_type="dpmsolver++")
    expected = stock(
        prompt="a photo of a <class_1> bird",
        image=[Image.fromarray(image) for image in images],
        num_images_per_prompt=BATCH,
        strength=0.5,
        num_inference_steps=6,
        guidance_scale=5.0,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
    ).images
    refined, _ = refiner.refine(images, foregrounds, [1] * BATCH, SEEDS)
    assert all(np.array_equal(to_uint8(mine), np.asarray(theirs)) for mine, theirs in zip(refined, expected, strict=True))


@pytest.mark.parametrize("scheduler", ["dpmsolver++", "ddim", "euler", "unipc"])
def test_the_same_strength_for_the_foreground_is_one_strength(make_refiner, images, foregrounds, scheduler):
    one = make_refiner(scheduler=scheduler).refine(images, foregrounds, LABELS, SEEDS)[0]
    two = make_refiner(scheduler=scheduler, foreground_strength=0.5).refine(images, foregrounds, LABELS, SEEDS)[0]
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_a_base_with_another_number_of_latent_channels(make_refiner, images, foregrounds, tmp_path):
    """diffusers' img2img takes for latents whatever has four channels, and nothing else."""
    build_tiny_pipeline(latent_channels=8).save_pretrained(tmp_path / "base")
    results = [
        make_refiner(base=tmp_path / "base", foreground_strength=strength).refine(images, foregrounds, LABELS, SEEDS)[0]
        for strength in (None, 0.5, 0.0)
    ]
    assert np.array_equal(results[0], results[1]) and not np.array_equal(results[0], results[2])


@pytest.mark.parametrize("scheduler", ["dpmsolver++", "ddim", "euler", "unipc"])
def test_a_foreground_at_strength_zero_is_what_the_vae_makes_of_it(make_refiner, images, scheduler):
    """Everything foreground: then nothing of the sampler is left."""
    refiner = make_refiner(scheduler=scheduler, foreground_strength=0.0)
    refined, _ = refiner.refine(images, np.ones((BATCH, SIZE, SIZE), bool), LABELS, SEEDS)
    vae, generators = refiner.pipeline.vae, [torch.Generator().manual_seed(seed) for seed in SEEDS]
    with torch.no_grad():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        latents = [vae.encode(row[None]).latent_dist.sample(generator) for row, generator in zip(pixels, generators, strict=True)]
        expected = (vae.decode(torch.cat(latents)).sample / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(refined, expected, atol=1e-4)


# --- rows that must not be published


def finished(refiner, images, foregrounds, rows=3):
    """What the pipeline makes of mixtures: images, or reasons."""
    pipeline = SGDMixPipeline(refiner.settings, refiner)
    masked = [MaskedImage(image, mask, 1.0) for image, mask in zip(images, foregrounds, strict=True)]
    mixtures = [pipeline.mix(masked[row], masked[(row + 1) % BATCH]) for row in range(rows)]
    return pipeline.refine(mixtures, LABELS[:rows], SEEDS[:rows])


def test_flagged_rows_have_a_reason_and_never_an_image(make_refiner, prudish_base, images, foregrounds):
    outcome = finished(make_refiner(prudish_base, safety_checker=True), images, foregrounds)
    assert outcome == ["flagged by the safety checker"] * 3


def test_without_the_safety_checker_the_same_rows_are_images(make_refiner, prudish_base, refiner, images, foregrounds):
    outcome = finished(make_refiner(prudish_base, safety_checker=False), images, foregrounds)
    expected = finished(refiner, images, foregrounds)
    assert all(image.dtype == np.uint8 and image.shape == (SIZE, SIZE, 3) for image in outcome)
    assert all(np.array_equal(first, second) for first, second in zip(outcome, expected, strict=True))


@pytest.mark.parametrize(("bias", "reason"), [(float("nan"), "refined image is not finite"), (0.25, "refined image is constant")])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_outputs_of_a_broken_decoder_have_a_reason(make_refiner, tiny_base, tmp_path, images, foregrounds, bias, reason):
    base = shutil.copytree(tiny_base, tmp_path / "base")
    weights = load_file(base / VAE_WEIGHTS)
    weights["decoder.conv_out.weight"].zero_()
    weights["decoder.conv_out.bias"].fill_(bias)
    save_file(weights, base / VAE_WEIGHTS, metadata={"format": "pt"})
    assert finished(make_refiner(base), images, foregrounds) == [reason] * 3


def test_reasons():
    good = np.random.default_rng(0).random((4, 4, 3)).astype(np.float32)
    assert unusable_reason(good, False) is None
    assert unusable_reason(good, True) == "flagged by the safety checker"
    for value in (np.nan, np.inf, -np.inf):
        broken = good.copy()
        broken[1, 2, 0] = value
        assert unusable_reason(broken, False) == "refined image is not finite"
    assert unusable_reason(np.full((4, 4, 3), 0.7, np.float32), False) == "refined image is constant"
    assert unusable_reason(np.full((4, 4, 3), 0.7, np.float32) + good * 1e-4, False) == "refined image is constant"


def test_uint8_is_the_nearest_value():
    values = np.arange(256, dtype=np.float32) / 255
    assert np.array_equal(to_uint8(values), np.arange(256))
    assert np.array_equal(to_uint8(values + 0.4 / 255), np.arange(256))
    assert to_uint8(np.array([-0.2, 1.3])).tolist() == [0, 255]


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
