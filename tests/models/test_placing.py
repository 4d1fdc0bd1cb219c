"""Small cards: what frees, moves, divides or quantizes networks, and what of it changes images."""

import json
import shutil
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from pictures import noisy_images
from tiny_bases import build_sdxl

from sgdmix_hub.errors import UserError
from sgdmix_hub.generation.dry_run import memory_text
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.adapters import read_adapter
from sgdmix_hub.models.memory import MOST_PROMPTS, need_of
from sgdmix_hub.models.prompts import Prompts, RowPrompt
from sgdmix_hub.models.refine import Refiner
from sgdmix_hub.settings.generation import (
    MAY_MOVE_LAST_BITS,
    PLACE_AND_SPEED,
    AugmentSettings,
    published_settings,
)
from sgdmix_hub.settings.presets import apply_preset

CPU = torch.device("cpu")
SIZE, BATCH, SEEDS = 32, 2, [11, 12]


def settings(**values):
    defaults = {
        "preset": "paper",
        "saliency_method": "minimum-barrier",
        "strength": 0.5,
        "num_inference_steps": 4,
        "batch_size": BATCH,
        "resolution": SIZE,
        "adapter": "unused",
        "background_prompts": ["in the snow", "at dusk"],
    }
    return apply_preset(
        AugmentSettings(dataset_name="unused", output_dir="unused", **(defaults | values))
    )


@pytest.fixture(scope="module")
def images():
    return noisy_images(BATCH, SIZE)


def loaded(base, adapter=None, ahead=False, **values):
    chosen = settings(**values)
    learned = None if adapter is None else read_adapter(resolve(str(adapter)))
    prompts = Prompts(chosen, learned, ["kite", "tern", "wren", "crow"]) if ahead else None
    return Refiner(resolve(str(base)), learned, chosen, CPU, prompts=prompts)


def refined(refiner, images, text="a photo of a kite at dusk"):
    nowhere = np.zeros((BATCH, SIZE, SIZE), bool)
    return np.stack(refiner.refine(images, nowhere, [RowPrompt(text)] * BATCH, SEEDS, 0.5))


def encoders_of(refiner):
    return [getattr(refiner.pipeline, encoder.model) for encoder in refiner.family.encoders]


def test_text_encoders_are_freed_once_all_prompts_are_encoded_and_change_no_bit(
    tiny_base, adapter, images
):
    lazy, ahead = loaded(tiny_base, adapter), loaded(tiny_base, adapter, ahead=True)
    assert None not in encoders_of(lazy) and encoders_of(ahead) == [None]
    prompts = Prompts(ahead.settings, ahead.adapter, list("abcd"))
    for label, number in ((0, 0), (3, 1)):
        text = prompts.of(label, number).text
        assert np.array_equal(refined(ahead, images, text), refined(lazy, images, text))


@pytest.mark.slow
def test_both_text_encoders_of_sdxl_are_freed(images, tmp_path):
    build_sdxl().save_pretrained(tmp_path, safe_serialization=True)
    lazy, ahead = loaded(tmp_path), loaded(tmp_path, ahead=True)
    assert encoders_of(ahead) == [None, None]
    assert np.array_equal(refined(ahead, images), refined(lazy, images))


def test_more_prompts_than_are_kept_are_encoded_when_they_are_needed(tiny_base):
    many = settings(background_prompts=[f"text {number}" for number in range(MOST_PROMPTS // 8)])
    assert Prompts(many, None, list("abcd")).texts(MOST_PROMPTS - 1) is None
    few = Prompts(settings(), None, ["kite"])
    assert few.texts(MOST_PROMPTS - 1) == [
        "a photo of a kite in the snow",
        "a photo of a kite at dusk",
    ]


@pytest.mark.parametrize("kind", ["model", "group"])
def test_offloaded_networks_make_the_same_bytes(kind, tiny_base, adapter, images):
    """On a CPU they go from main memory to main memory, through the same hooks."""
    expected = refined(loaded(tiny_base, adapter), images)
    offloaded = loaded(tiny_base, adapter, cpu_offload=kind)
    assert np.array_equal(refined(offloaded, images), expected)
    ahead = loaded(tiny_base, ahead=True, cpu_offload=kind)
    assert np.array_equal(refined(ahead, images), refined(loaded(tiny_base), images))
    if kind == "group":
        with pytest.raises(UserError, match="load the pipeline again"):
            offloaded.to(CPU, torch.float16)
    else:
        offloaded.to(CPU, torch.float32)
        assert np.array_equal(refined(offloaded, images), expected)


@pytest.mark.slow
def test_slices_of_the_autoencoder_differ_by_rounding_and_tiles_by_more(tiny_base, images):
    whole = refined(loaded(tiny_base), images).astype(int)
    sliced = loaded(tiny_base, vae_slicing=True)
    assert sliced.pipeline.vae.use_slicing
    assert np.abs(refined(sliced, images) - whole).max() <= 1
    tiled = loaded(tiny_base, vae_tiling=True)
    assert tiled.pipeline.vae.use_tiling
    tiled.pipeline.vae.tile_sample_min_size = SIZE // 2
    tiled.pipeline.vae.tile_latent_min_size //= 2
    assert np.abs(refined(tiled, images) - whole).max() > 1


def test_the_need_is_that_of_the_networks_that_are_loaded(tiny_base, tmp_path):
    """Counted in the files' headers: of whole files, of shards, not of variants nobody loads."""
    refiner = loaded(tiny_base)
    expected = {
        name: sum(parameter.numel() for parameter in part.parameters())
        for name, part in refiner.pipeline.components.items()
        if isinstance(part, torch.nn.Module)
    }
    need = need_of(resolve(str(tiny_base)), safety_checker=False)
    assert need.weights == expected and need.encoders == ("text_encoder",)
    sharded = shutil.copytree(tiny_base, tmp_path / "base")
    refiner.denoiser.save_pretrained(sharded / "unet", max_shard_size="100KB")
    (sharded / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    variant = "text_encoder/model.fp16.safetensors"
    shutil.copy(tiny_base / "text_encoder" / "model.safetensors", sharded / variant)
    assert need_of(resolve(str(sharded)), safety_checker=True).weights == expected
    whole, eighth = (need.gigabytes("float16", kind) for kind in (None, "torchao-int8"))
    assert whole["unet"] == 2 * eighth["unet"] == expected["unet"] * 2 / 1e9
    assert whole["vae"] == eighth["vae"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("model_index.json", [1], "holds no settings"),
        ("model_index.json", {"../../x": ["diffusers", "UNet2DConditionModel"]}, "names a part"),
        ("unet/{}.index.json", [1], "holds no settings"),
        ("unet/{}.index.json", {"weight_map": {"a": 5}}, "lists no shards"),
        ("unet/{}.index.json", {"weight_map": {"a": "../../x.safetensors"}}, "lists no shards"),
        ("unet/{}.index.json", {}, "lists no shards"),
        ("unet/{}.index.json", {"weight_map": {"a": "x.safetensors"}}, "has no unet/x.safetens"),
    ],
)
def test_the_need_of_a_strangers_base_is_read_from_its_own_folder_alone(
    name, content, said, tiny_base, tmp_path
):
    base = shutil.copytree(tiny_base, tmp_path / "base")
    weights = "unet/diffusion_pytorch_model.safetensors"
    (base / weights).unlink()
    path = base / name.format(weights.removeprefix("unet/"))
    if name == "model_index.json" and isinstance(content, dict):
        content |= json.loads(path.read_text())
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=said) as raised:
        need_of(resolve(str(base)), safety_checker=False)
    assert "\n" not in str(raised.value)


def test_the_need_of_a_base_without_safetensors_is_unknown(tiny_base, tmp_path):
    base = shutil.copytree(
        tiny_base, tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors")
    )
    text = memory_text(settings(cpu_offload="model"), resolve(str(base)))
    assert text.startswith("memory      unknown: the base model has no safetensors")


@pytest.mark.slow
def test_what_is_compiled_is_the_denoiser_or_the_blocks_that_it_repeats(tiny_base):
    """Nothing is compiled before its first call, so this takes no compiler."""

    def compiled(**values):
        refiner = loaded(tiny_base, compile=True, **values)
        assert refiner.pipeline.vae.decoder._compiled_call_impl is not None
        return {
            type(part).__name__
            for part in refiner.denoiser.modules()
            if part._compiled_call_impl is not None
        }

    assert compiled() == {"UNet2DConditionModel"}
    assert compiled(regional_compile=True) == {"BasicTransformerBlock"}


def test_each_is_in_the_group_of_what_it_changes():
    assert {"vae_slicing", "regional_compile", "compile"} <= set(MAY_MOVE_LAST_BITS)
    assert "cpu_offload" in PLACE_AND_SPEED
    published = published_settings(settings(), {})
    assert not {"quantization", "vae_tiling", "vae_slicing", "regional_compile"} & published.keys()
    changed = published_settings(settings(quantization="torchao-int8", vae_tiling=True), {})
    assert (changed["quantization"], changed["vae_tiling"]) == ("torchao-int8", True)


def test_what_does_not_go_together_is_refused():
    for values, said in (
        ({"compile": True, "cpu_offload": "model"}, "compile does not go with cpu_offload"),
        ({"regional_compile": True}, "give --compile too"),
        (
            {
                "quantization": "torchao-int8",
                "inpainting_method": "diffusion",
                "mixing_method": "inpaint",
            },
            "inpainting_method diffusion does not go with quantization",
        ),
        ({"quantization": "torchao-int8", "dtype": "float16"}, "give --dtype bfloat16"),
    ):
        with pytest.raises(UserError, match=said):
            settings(**values).validate()


@pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed")
def test_a_quantized_denoiser_holds_a_quarter_and_keeps_the_adapter(tiny_base, adapter, images):
    half = {"dtype": "bfloat16"}
    whole, quantized = (
        loaded(tiny_base, adapter, quantization=kind, **half) for kind in (None, "torchao-int8")
    )
    kept = {type(value).__name__ for value in quantized.denoiser.state_dict().values()}
    assert "Int8Tensor" in kept, kept
    text = "a photo of a <class_2> bird"
    exact, rough = (refined(one, images, text).astype(int) for one in (whole, quantized))
    bare = loaded(tiny_base, quantization="torchao-int8", **half)
    alone = refined(bare, images, "a photo of a bird").astype(int)
    assert 0 < np.abs(rough - exact).mean() < np.abs(alone - exact).mean()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed")
def test_every_familys_denoiser_is_quantized_and_draws_nearly_the_same(family, base_of, images):
    """With its text encoders and its autoencoder as they are."""
    values = {"dtype": "bfloat16", "scheduler": "euler", "guidance_scale": 2.0}
    kinds = (None, "torchao-int8")
    whole, quantized = (loaded(base_of(family.name), quantization=kind, **values) for kind in kinds)
    kept = {type(value).__name__ for value in quantized.denoiser.state_dict().values()}
    assert "Int8Tensor" in kept, kept
    for part in (quantized.pipeline.vae, *encoders_of(quantized)):
        assert {value.dtype for value in part.parameters()} == {torch.bfloat16}
    text = "a photo of a bird"
    exact, rough = (refined(one, images, text).astype(int) for one in (whole, quantized))
    assert 0 < np.abs(rough - exact).mean() < 3 < np.abs(exact - images.astype(int)).mean()


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_bitsandbytes_keeps_the_adapter(tiny_base, adapter, images, monkeypatch, capfd):
    """On its kernels for the CPU, from which diffusers and this package keep users away."""
    from diffusers.quantizers.bitsandbytes.bnb_quantizer import BnB8BitDiffusersQuantizer

    from sgdmix_hub.models import quantization

    for name, value in (
        ("validate_environment", lambda self, *args, **options: None),
        ("update_device_map", lambda self, device_map: device_map or {"": "cpu"}),
    ):
        monkeypatch.setattr(BnB8BitDiffusersQuantizer, name, value)
    monkeypatch.setattr(quantization, "check_package", lambda kind: None)
    half = {"dtype": "bfloat16"}
    kind = "bitsandbytes-8bit"
    whole, quantized = (loaded(tiny_base, adapter, quantization=q, **half) for q in (None, kind))
    assert torch.int8 in {value.dtype for value in quantized.denoiser.parameters()}
    text = "a photo of a <class_2> bird"
    exact, rough = (refined(one, images, text).astype(int) for one in (whole, quantized))
    bare = loaded(tiny_base, quantization=kind, **half)
    alone = refined(bare, images, "a photo of a bird").astype(int)
    assert 0 < np.abs(rough - exact).mean() < np.abs(alone - exact).mean()
    assert "inputs will be cast" not in capfd.readouterr().err


@pytest.mark.skipif(find_spec("torchao") is not None, reason="torchao is installed")
def test_a_quantization_without_its_package_is_refused(tiny_base):
    with pytest.raises(UserError, match="needs the package torchao: install it"):
        loaded(tiny_base, quantization="torchao-int8")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("kind", ["model", "group"])
def test_offloading_leaves_nothing_on_the_gpu_and_changes_no_bit(kind, tiny_base, adapter, images):
    gpu = torch.device("cuda")

    def made(**values):
        chosen = settings(dtype="float16", **values)
        learned = read_adapter(resolve(str(adapter)))
        refiner = Refiner(resolve(str(tiny_base)), learned, chosen, gpu)
        return refiner, refined(refiner, images)

    _, expected = made()
    refiner, images_made = made(cpu_offload=kind)
    assert np.array_equal(images_made, expected)
    assert next(refiner.denoiser.parameters()).device.type == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("kind", ["bitsandbytes-8bit", "bitsandbytes-4bit", "torchao-int8"])
def test_quantized_denoisers_run_on_a_gpu(kind, tiny_base, adapter, images):
    pytest.importorskip(kind.partition("-")[0])
    chosen = settings(dtype="bfloat16", quantization=kind)
    refiner = Refiner(
        resolve(str(tiny_base)), read_adapter(resolve(str(adapter))), chosen, torch.device("cuda")
    )
    assert refined(refiner, images, "a photo of a <class_2> bird").std() > 1
