"""Inpainting by the diffusion model: what it touches, what its bits depend on, and a whole run with
it.
"""

import json
import shutil

import numpy as np
import pytest
import scipy.ndimage
import torch
from generations import arguments, digests, one_line, pixels_of, published_rows, run_script
from launching import launch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sgdmix_hub.errors import Unusable
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.method.mixer import MaskedImage
from sgdmix_hub.models.adapters import read_adapter
from sgdmix_hub.models.bases.loading import to_uint8
from sgdmix_hub.models.prompts import RowPrompt
from sgdmix_hub.models.refine import Refiner
from sgdmix_hub.pipeline import SGDMixPipeline
from sgdmix_hub.seeds import inpainting_seed
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.presets import apply_preset

CPU = torch.device("cpu")
SIZE = 32
SEEDS = [3, 2**61 + 1, 5]
PROMPTS = [RowPrompt(f"a photo of a <class_{label}> bird") for label in range(3)]
VAE_WEIGHTS = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def make_pipeline(tiny_base, adapter):
    """A pipeline that inpaints by diffusion, on tiny_base and the adapter or on others, with
    settings of one's own.
    """

    def make(base=tiny_base, learned=adapter, **values):
        defaults = {
            "strength": 0.5,
            "num_inference_steps": 6,
            "guidance_scale": 5.0,
            "batch_size": 3,
            "resolution": SIZE,
            "feather": 0.0,
        }
        chosen = {"preset": "recommended", "inpainting_method": "diffusion"} | defaults | values
        settings = apply_preset(
            AugmentSettings(dataset_name="unused", output_dir="unused", adapter="unused", **chosen)
        )
        settings.validate()
        read = read_adapter(resolve(str(learned)))
        return SGDMixPipeline(settings, Refiner(resolve(str(base)), read, settings, CPU))

    return make


@pytest.fixture(scope="module")
def pipeline(make_pipeline):
    return make_pipeline()


def mixtures_of(pipeline):
    """Three rows of noise: the source's foreground at the left, the target's at the right, not
    quite at the same place in each.
    """
    rng = np.random.default_rng(0)
    mixtures = []
    for row in range(3):
        masks = np.zeros((2, SIZE, SIZE), bool)
        masks[0, 6:22, 2:12] = masks[1, 8 + row : 20 + row, 16:26] = True
        images = [
            MaskedImage(rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8), mask, (1, 1))
            for mask in masks
        ]
        mixtures.append(pipeline.mixer.mix(*images))
    return mixtures


def test_only_the_hole_is_painted(pipeline):
    for before, after in zip(
        mixtures_of(pipeline), pipeline.inpaint(mixtures_of(pipeline), SEEDS), strict=True
    ):
        assert after.background.dtype == np.uint8
        assert np.array_equal(after.hole, before.hole)
        assert np.array_equal(after.kept, before.kept)
        assert np.array_equal(after.background[~after.hole], before.target.pixels[~after.hole])
        painted = after.background[after.hole] != before.background[after.hole]
        assert painted.any(axis=-1).mean() > 0.9
        assert np.array_equal(
            after.mixed, np.where(after.kept[..., None], after.source.pixels, after.background)
        )


def test_with_a_feather_the_edge_of_the_hole_is_soft_and_the_rest_untouched(make_pipeline):
    # A sigma of about one pixel; OpenCV's kernel reaches four sigmas.
    pipeline = make_pipeline(feather=0.03)
    for before, after in zip(
        mixtures_of(pipeline), pipeline.inpaint(mixtures_of(pipeline), SEEDS), strict=True
    ):
        far = scipy.ndimage.distance_transform_edt(~after.hole) > 4 * 0.03 * SIZE * 2**0.5 + 1
        assert far.any() and np.array_equal(after.background[far], before.target.pixels[far])
        edge = ~after.hole & scipy.ndimage.binary_dilation(after.hole)
        assert not np.array_equal(after.background[edge], before.target.pixels[edge])


@pytest.mark.slow
def test_neither_neighbours_nor_the_place_in_the_batch_change_a_bit(pipeline):
    mixtures = mixtures_of(pipeline)
    whole = pipeline.inpaint(mixtures, SEEDS)
    for rows in ([0], [2], [2, 0], [1, 1, 0]):
        again = pipeline.inpaint([mixtures[row] for row in rows], [SEEDS[row] for row in rows])
        for row, mixture in zip(rows, again, strict=True):
            assert np.array_equal(mixture.mixed, whole[row].mixed)
            assert np.array_equal(mixture.background, whole[row].background)
    torch.manual_seed(99)
    torch.rand(1000)
    assert np.array_equal(pipeline.inpaint(mixtures, SEEDS)[1].background, whole[1].background)
    (other_seed,) = pipeline.inpaint(mixtures[:1], [4])
    assert not np.array_equal(other_seed.background, whole[0].background)


def test_refining_before_and_after_an_inpainting_gives_the_same_bits(pipeline):
    mixtures = mixtures_of(pipeline)
    before = pipeline.refine(mixtures, PROMPTS, SEEDS, 0.5)
    pipeline.inpaint(mixtures, SEEDS)
    assert all(
        np.array_equal(*images)
        for images in zip(before, pipeline.refine(mixtures, PROMPTS, SEEDS, 0.5), strict=True)
    )


@pytest.mark.slow
def test_the_adapter_has_no_part_in_the_hole(make_pipeline, pipeline, adapter, tmp_path):
    """Another adapter, three times as strong: the same holes, other refined images."""
    stronger = shutil.copytree(adapter, tmp_path / "adapter")
    file = stronger / "pytorch_lora_weights.safetensors"
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    save_file({name: 3 * tensor for name, tensor in load_file(file).items()}, file, metadata)
    other = make_pipeline(learned=stronger)
    mixtures = mixtures_of(pipeline)
    for mine, others in zip(
        pipeline.inpaint(mixtures, SEEDS), other.inpaint(mixtures, SEEDS), strict=True
    ):
        assert np.array_equal(mine.background, others.background)
    refined = [
        maker.refine(mixtures[:1], PROMPTS[:1], SEEDS[:1], 0.5)[0] for maker in (pipeline, other)
    ]
    assert not np.array_equal(*refined)


@pytest.mark.slow
def test_guidance_leads_away_from_the_metaclass(make_pipeline, pipeline, adapter, tmp_path):
    """With guidance the metaclass counts; without, it is not looked at."""
    renamed = shutil.copytree(adapter, tmp_path / "adapter")
    facts = json.loads((renamed / "adapter.json").read_text())
    (renamed / "adapter.json").write_text(json.dumps(facts | {"metaclass": "tern"}))
    mixtures = mixtures_of(pipeline)[:1]
    for scale, same in ((5.0, False), (1.0, True)):
        makers = [
            make_pipeline(guidance_scale=scale),
            make_pipeline(learned=renamed, guidance_scale=scale),
        ]
        first, second = (maker.inpaint(mixtures, SEEDS[:1])[0] for maker in makers)
        assert np.array_equal(first.background, second.background) == same


@pytest.mark.parametrize("scheduler", ["dpmsolver++", "ddim", "euler", "unipc"])
@pytest.mark.parametrize("steps", [2, 5])
def test_around_the_hole_the_sampler_keeps_the_target(make_pipeline, scheduler, steps):
    """What the refiner gives around a hole is, but for what the decoder mixes in from it, what the
    VAE makes of the image.
    """
    pipeline = make_pipeline(scheduler=scheduler, num_inference_steps=steps)
    images = np.stack([mixture.background for mixture in mixtures_of(pipeline)])
    nothing = np.zeros((3, SIZE, SIZE), bool)
    kept = np.stack(pipeline.refiner.inpaint(images, nothing, SEEDS))
    vae, generators = (
        pipeline.refiner.pipeline.vae,
        [torch.Generator().manual_seed(seed) for seed in SEEDS],
    )
    with torch.no_grad():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        latents = [
            vae.encode(row[None]).latent_dist.sample(generator)
            for row, generator in zip(pixels, generators, strict=True)
        ]
        expected = (
            to_uint8(vae.decode(torch.cat(latents)).sample / 2 + 0.5).permute(0, 2, 3, 1).numpy()
        )
    assert np.abs(kept.astype(int) - expected).max() <= 1


def test_a_row_without_a_hole_is_left_alone(pipeline):
    source, target = (
        MaskedImage(mixture.source.pixels, mixture.source.mask, (1, 1))
        for mixture in mixtures_of(pipeline)[:2]
    )
    target = MaskedImage(target.pixels, np.zeros_like(target.mask), (1, 1))
    mixture = pipeline.mixer.mix(source, target)
    assert pipeline.inpaint([mixture], [1]) == [mixture]


@pytest.mark.filterwarnings("ignore:invalid value")
def test_what_a_broken_decoder_paints_has_a_reason(make_pipeline, tiny_base, tmp_path):
    base = shutil.copytree(tiny_base, tmp_path / "base")
    weights = load_file(base / VAE_WEIGHTS)
    weights["decoder.conv_out.bias"].fill_(float("nan"))
    save_file(weights, base / VAE_WEIGHTS, metadata={"format": "pt"})
    pipeline = make_pipeline(base)
    assert (
        pipeline.inpaint(mixtures_of(pipeline), SEEDS)
        == [Unusable("inpainting: refined image is not finite")] * 3
    )


# ---- whole runs ----


@pytest.fixture(scope="module")
def inpainting(birds, adapter, tiny_base):
    """Twelve rows of the recommended preset with the diffusion model in the holes."""
    return {
        "dataset_name": birds,
        "adapter": adapter,
        "pretrained_model_name_or_path": tiny_base,
        "preset": "recommended",
        "saliency_method": "minimum-barrier",
        "inpainting_method": "diffusion",
        "resolution": 32,
        "strength": 0.5,
        "num_inference_steps": 4,
        "guidance_scale": 1,
        "batch_size": 4,
        "rows_per_shard": 6,
        "examples_per_class": 3,
        "allow_other_subset": "true",
    }


@pytest.mark.soak
def test_a_run_gives_the_same_bytes_in_one_process_and_in_two(inpainting, tmp_path):
    one = run_script(arguments(inpainting | {"output_dir": tmp_path / "one"}), tmp_path / "logs")
    assert one.returncode == 0, one.stderr
    two = launch(
        ["scripts/augment_dataset.py", *arguments(inpainting | {"output_dir": tmp_path / "two"})], 2
    )
    assert two.returncode == 0, two.stderr
    assert digests(tmp_path / "one" / "repo") == digests(tmp_path / "two" / "repo")
    rows = published_rows(tmp_path / "one")
    assert len(rows) == 12
    assert "| inpainting | diffusion |" in (tmp_path / "one" / "repo" / "README.md").read_text()
    by_opencv = run_script(
        arguments(inpainting | {"output_dir": tmp_path / "cv", "inpainting_method": "opencv"}),
        tmp_path / "logs",
    )
    assert by_opencv.returncode == 0, by_opencv.stderr
    others = published_rows(tmp_path / "cv")
    assert [row["target_index"] for row in rows] == [row["target_index"] for row in others]
    assert all(
        not np.array_equal(pixels_of(row), pixels_of(other))
        for row, other in zip(rows, others, strict=True)
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:invalid value")
def test_rows_whose_hole_cannot_be_painted_are_skipped_and_named(
    inpainting, prudish_base, tmp_path
):
    chosen = inpainting | {
        "pretrained_model_name_or_path": prudish_base,
        "output_dir": tmp_path / "run",
        "max_skipped": 1,
    }
    chosen |= {"adapter": adapter_for(prudish_base, inpainting["adapter"], tmp_path / "adapter")}
    ended = run_script(arguments(chosen), tmp_path / "logs")
    assert ended.returncode == 2
    assert (
        "not one of 12 rows could be made (12 x inpainting: flagged by the safety checker)"
        in ended.stderr
    )
    assert not (tmp_path / "run" / "repo").exists()


def adapter_for(base, adapter, folder):
    """The adapter, said to be trained on another base."""
    shutil.copytree(adapter, folder)
    facts = json.loads((folder / "adapter.json").read_text())
    (folder / "adapter.json").write_text(json.dumps(facts | {"base": str(resolve(str(base)))}))
    return folder


@pytest.mark.slow
def test_one_step_is_refused(inpainting, tmp_path):
    chosen = inpainting | {"num_inference_steps": 1, "strength": 1, "output_dir": tmp_path / "run"}
    one_line(
        run_script(arguments(chosen), tmp_path / "logs"), "inpainting_method", "num_inference_steps"
    )


def test_a_hole_is_painted_from_other_noise_than_refinement_adds(pipeline):
    mixtures = mixtures_of(pipeline)
    images, holes = (
        np.stack([getattr(mixture, name) for mixture in mixtures])
        for name in ("background", "hole")
    )
    of_its_own = pipeline.refiner.inpaint(images, holes, [inpainting_seed(seed) for seed in SEEDS])
    of_the_row = pipeline.refiner.inpaint(images, holes, SEEDS)
    painted = pipeline.inpaint(mixtures, SEEDS)
    for mixture, own, row in zip(painted, of_its_own, of_the_row, strict=True):
        assert np.array_equal(mixture.background[mixture.hole], own[mixture.hole])
        assert not np.array_equal(mixture.background[mixture.hole], row[mixture.hole])
