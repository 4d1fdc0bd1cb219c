"""Adapters that others trained: what stock diffusers makes of them, and what is refused."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch
from diffusers import (
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils import convert_state_dict_to_diffusers
from foreign_files import ALPHA, RANK, kohya_names, save, with_random_lora
from peft import get_peft_model_state_dict
from pictures import noisy_images
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_bases import BUILD, build_sdxl

from sgdmix_hub.errors import UserError
from sgdmix_hub.files import file_sha256
from sgdmix_hub.hub.pins import Pin, content_hash, resolve
from sgdmix_hub.models.adapters import LORA_FILE, TOKENS_FILE
from sgdmix_hub.models.bases.families import FAMILIES
from sgdmix_hub.models.bases.flow import FlowFamily, with_alphas
from sgdmix_hub.models.bases.schedulers import with_scheduler
from sgdmix_hub.models.foreign import open_foreign
from sgdmix_hub.models.loading import pin_diffusion
from sgdmix_hub.models.prompts import Prompts, RowPrompt
from sgdmix_hub.models.refine import Refiner
from sgdmix_hub.models.saved import Saved
from sgdmix_hub.models.saved import save as save_pipeline
from sgdmix_hub.settings.generation import AugmentSettings, published_settings
from sgdmix_hub.settings.presets import apply_preset

CPU = torch.device("cpu")
SIZE, BATCH, SEEDS, STEPS = 32, 2, [11, 12], 4
# what kohya trains: stock does not recognise a file with some of them
TEXT_LAYERS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
TEXT = "lora_te{}_text_model_"
TEXT_LAYER = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"


def settings(**values):
    defaults = {
        "preset": "paper",
        "saliency_method": "minimum-barrier",
        "strength": 0.5,
        "num_inference_steps": STEPS,
        "scheduler": "ddim",
        "batch_size": BATCH,
        "resolution": SIZE,
        "adapter": "unused",
    }
    return AugmentSettings(dataset_name="unused", output_dir="unused", **(defaults | values))


@pytest.fixture(scope="module")
def loras(tiny_base, tmp_path_factory):
    """One LoRA of UNet and text encoder, as each kind of program writes it."""
    folder = tmp_path_factory.mktemp("foreign")
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_base, safety_checker=None)
    unet = with_random_lora(pipeline.unet, ["to_q", "to_v", "to_out.0"])
    text = with_random_lora(pipeline.text_encoder, TEXT_LAYERS)
    stock = {
        f"{name}_lora_layers": convert_state_dict_to_diffusers(get_peft_model_state_dict(network))
        for name, network in (("unet", pipeline.unet), ("text_encoder", pipeline.text_encoder))
    }
    described = _collate_lora_metadata(
        {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}
    )
    StableDiffusionPipeline.save_lora_weights(folder / "stock", **stock, **described)
    save(kohya_names(unet, "lora_unet_") | kohya_names(text, TEXT.format("")), folder / "kohya")
    # ai-toolkit: peft's names without alpha, at alpha = rank
    peft = {
        f"unet.{layer}.lora_{half}.weight": value
        for layer, pair in unet.items()
        for half, value in zip("AB", pair, strict=True)
    }
    save(peft, folder / "peft")
    return folder


@pytest.fixture(scope="module")
def images():
    return noisy_images(BATCH, SIZE)


def opened(base, lora, **values):
    """The refiner of a base with a foreign adapter, and its settings."""
    chosen = apply_preset(settings(**values))
    diffusion = pin_diffusion(
        chosen, str(lora), str(base), lambda setting, name: resolve(name), None
    )
    assert diffusion.adapter is None and diffusion.foreign is not None
    return Refiner(diffusion.base, None, chosen, CPU, foreign=diffusion.foreign)


def refined(base, lora, images, prompt, **values):
    refiner = opened(base, lora, **values)
    nowhere = np.zeros((BATCH, SIZE, SIZE), bool)
    rows = refiner.refine(images, nowhere, [RowPrompt(prompt)] * BATCH, SEEDS, 0.5)
    return np.stack(rows).astype(int)


def stock_images(pipeline, images, prompt):
    with_scheduler(pipeline, "ddim")
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline(
        prompt=prompt,
        image=[Image.fromarray(image) for image in images],
        num_images_per_prompt=BATCH,
        strength=0.5,
        num_inference_steps=STEPS,
        guidance_scale=7.5,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
    ).images
    return np.stack([np.asarray(image) for image in drawn]).astype(int)


def stock(base):
    return StableDiffusionImg2ImgPipeline.from_pretrained(
        base, safety_checker=None, requires_safety_checker=False
    )


def assert_equal(ours, theirs):
    """But for rounding: stock keeps the LoRA beside the weights."""
    distance = np.abs(ours - theirs)
    assert distance.max() <= 1 and (distance > 0).mean() < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("written", ["stock", "kohya", "peft"])
def test_the_images_are_stock_diffusers_with_the_same_file(written, tiny_base, images, loras):
    prompt = "a photo of a bird"
    ours = refined(tiny_base, loras / written, images, prompt)
    pipeline = stock(tiny_base)
    bare = stock_images(pipeline, images, prompt)
    pipeline.load_lora_weights(str(loras / written), weight_name=LORA_FILE)
    assert_equal(ours, stock_images(pipeline, images, prompt))
    assert np.abs(ours - bare).max() > 1


@pytest.mark.slow
def test_stock_and_kohya_files_of_one_lora_give_the_same_images(tiny_base, images, loras):
    """alpha counts in both, in the description and in tensors."""
    first, second = (
        refined(tiny_base, loras / name, images, "a bird") for name in ("stock", "kohya")
    )
    assert_equal(first, second)


@pytest.mark.slow
def test_sdxl_files_of_kohya_give_stock_images_with_pivotal_tokens(images, tmp_path):
    """Both text encoders have LoRA and learned tokens, in the stock format of pivotal tuning."""
    pipeline = build_sdxl()
    pipeline.save_pretrained(tmp_path / "base", safe_serialization=True)
    rows = {"clip_l": torch.randn(2, 32) * 0.1, "clip_g": torch.randn(2, 48) * 0.1}
    weights = kohya_names(with_random_lora(pipeline.unet, ["to_q"]), "lora_unet_")
    weights |= kohya_names(with_random_lora(pipeline.text_encoder, TEXT_LAYERS), TEXT.format(1))
    weights |= kohya_names(with_random_lora(pipeline.text_encoder_2, TEXT_LAYERS), TEXT.format(2))
    lora = save(weights, tmp_path / "lora", "birds.safetensors")
    save(rows, lora, "birds_emb.safetensors")
    prompt = "a photo of <s0><s1> bird"
    ours = refined(tmp_path / "base", lora, images, prompt)
    theirs = StableDiffusionXLImg2ImgPipeline.from_pretrained(
        tmp_path / "base", add_watermarker=False
    )
    bare = stock_images(theirs, images, "a photo of bird")
    theirs.load_lora_weights(str(lora), weight_name="birds.safetensors")
    for key, encoder, tokenizer in (
        ("clip_l", theirs.text_encoder, theirs.tokenizer),
        ("clip_g", theirs.text_encoder_2, theirs.tokenizer_2),
    ):
        theirs.load_textual_inversion(
            rows[key], token=["<s0>", "<s1>"], text_encoder=encoder, tokenizer=tokenizer
        )
    assert isinstance(theirs, StableDiffusionXLPipeline | StableDiffusionXLImg2ImgPipeline)
    assert_equal(ours, stock_images(theirs, images, prompt))
    assert np.abs(ours - bare).max() > 1


def test_textual_inversion_beside_or_in_the_file_is_loaded_as_stock_loads_it(
    tiny_base, images, loras, tmp_path
):
    torch.manual_seed(5)
    vectors = torch.randn(2, 32)
    beside = shutil.copytree(loras / "peft", tmp_path / "beside")
    save_file({"<kite>": vectors}, beside / TOKENS_FILE)
    weights = load_file(loras / "peft" / LORA_FILE)
    inside = save(weights | {"bundle_emb.<kite>.clip_l": vectors}, tmp_path / "inside")
    prompt = "a photo of a <kite> bird"
    pipeline = stock(tiny_base)
    pipeline.load_lora_weights(str(loras / "peft"), weight_name=LORA_FILE)
    pipeline.load_textual_inversion([{"<kite>": vectors}])
    expected = stock_images(pipeline, images, prompt)
    for folder in (beside, inside):
        assert_equal(refined(tiny_base, folder, images, prompt), expected)


def test_prompts_hold_class_names_and_the_metaclass_and_tokens_that_none_names_are_warned_of(
    tiny_base, loras, tmp_path, caplog
):
    folder = shutil.copytree(loras / "peft", tmp_path / "lora")
    save_file({"clip_l": torch.zeros(2, 32)}, folder / "birds_emb.safetensors")
    template = "a {metaclass}, <s0><s1>, {class_name}"
    refiner = opened(tiny_base, folder, prompt_template=template, metaclass="bird")
    prompts = Prompts(refiner.settings, None, ["black_kite", "{metaclass}"])
    assert prompts.published(0, 0) == "a bird, <s0><s1>, black kite"
    assert prompts.published(1, 0) == "a bird, <s0><s1>, {metaclass}"
    with caplog.at_level(logging.WARNING, "sgdmix_hub"):
        refiner.check_prompts(prompts)
    assert not caplog.records
    steered = refiner.using(apply_preset(settings(negative_prompt="a <s1>")))
    with caplog.at_level(logging.WARNING, "sgdmix_hub"):
        steered.check_prompts(Prompts(steered.settings, None, ["kite"]))
    assert not caplog.records
    with caplog.at_level(logging.WARNING, "sgdmix_hub"):
        refiner.check_prompts(Prompts(settings(), None, ["kite"]))
    assert "put <s0> <s1> into prompt_template" in caplog.text


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        # for another base: no layer of this one
        (lambda w: {n.replace("attn1", "attn9"): v for n, v in w.items()}, "layer"),
        (lambda w: {f"text_encoder.{n}": v for n, v in w.items()}, "does not fit"),
        (lambda w: {n.replace("unet.", "vae.", 1): v for n, v in w.items()}, "outside the denois"),
        (lambda w: w | {r"text_encoder.(\w+)+X.lora_A.weight": torch.zeros(2, 2)}, "outside"),
        (lambda w: {}, "has no weights"),
        (lambda w: {n: v[:, :1].contiguous() for n, v in w.items()}, "does not fit"),
        (
            lambda w: {n.replace("lora_", "hada_"): v for n, v in w.items()},
            "which no plain LoRA has",
        ),
        (lambda w: w | {"text_encoder.fc1.alpha": torch.ones(1)}, "outside the denoiser"),
        (lambda w: w | {f"{TEXT_LAYER}.lora_magnitude_vector": torch.ones(32)}, "is a DoRA"),
    ],
)
def test_a_lora_that_would_not_change_the_base_is_refused(
    changed, said, tiny_base, loras, tmp_path
):
    """Images of an unadapted base would be published as those of the adapter."""
    lora = save(changed(load_file(loras / "peft" / LORA_FILE)), tmp_path / "lora")
    with pytest.raises(UserError, match=said) as raised:
        opened(tiny_base, lora)
    assert "\n" not in str(raised.value)


def test_a_dora_is_refused_whoever_wrote_it(tiny_base, loras, tmp_path):
    """Stock leaves its magnitudes out, and the rest is another adapter's LoRA."""
    weights = load_file(loras / "kohya" / LORA_FILE)
    ups = [name for name in weights if name.endswith(".lora_up.weight")]
    scales = {
        name.replace("lora_up.weight", "dora_scale"): torch.full((len(weights[name]), 1), 3.0)
        for name in ups
    }
    with pytest.raises(UserError, match="is a DoRA, which is not supported"):
        opened(tiny_base, save(weights | scales, tmp_path / "lora"))


@pytest.mark.parametrize(
    "family",
    [each for each in FAMILIES if isinstance(each, FlowFamily)],
    ids=lambda each: each.name,
)
def test_alpha_counts_for_bases_of_flow_matching_too(family):
    """Their stock loaders leave it out where it is beside the layer's weights."""
    layer = "transformer.blocks.0.x"
    down, up = torch.full((RANK, 3), 2.0), torch.ones(3, RANK)
    weights = {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}
    stock = BUILD[family.name]()
    for alpha, factor in (({}, 1), ({f"{layer}.alpha": torch.tensor(float(ALPHA))}, ALPHA / RANK)):
        found, in_peft = family.lora_weights(stock, weights | alpha)
        first, second = (
            next(value for name, value in found.items() if f"lora_{half}" in name) for half in "AB"
        )
        assert torch.equal(second @ first, factor * (up @ down)) and list(in_peft) == list(found)
    with pytest.raises(ValueError, match="belongs to no layer"):
        with_alphas({"transformer.y.alpha": torch.ones(1)} | weights)


@pytest.mark.parametrize(
    ("description", "said"),
    [
        ({"unet.lora_alpha": 1e30}, "cannot be used"),
        ({"unet.lora_alpha": "4"}, "cannot be used"),
        ({"unet.alpha_pattern": {"(a+)+": 2}}, "another alpha for some layers"),
        ([1], "is not an object"),
    ],
)
def test_of_a_description_only_alpha_is_read(description, said, tiny_base, loras, tmp_path):
    """peft would take its texts for patterns, and its numbers for sizes."""
    weights = load_file(loras / "peft" / LORA_FILE)
    metadata = {"lora_adapter_metadata": json.dumps(description)}
    lora = save(weights, tmp_path / "lora", metadata=metadata)
    with pytest.raises(UserError, match=said):
        opened(tiny_base, lora)


@pytest.mark.parametrize("name", ["<class_0>", "two words", "", "<s0>" * 30])
def test_a_token_that_no_prompt_could_name_is_refused(name, tiny_base, loras, tmp_path):
    lora = shutil.copytree(loras / "peft", tmp_path / "lora")
    save_file({name: torch.zeros(32)}, lora / TOKENS_FILE)
    with pytest.raises(UserError, match="cannot be a token|fetch it whole"):
        opened(tiny_base, lora)


def test_tokens_of_another_base_are_refused(tiny_base, loras, tmp_path):
    lora = shutil.copytree(loras / "peft", tmp_path / "lora")
    save_file({"clip_l": torch.zeros(1, 32), "t5": torch.zeros(1, 9)}, lora / "x_emb.safetensors")
    with pytest.raises(UserError, match=r"for clip_l, t5.*takes them for clip_l"):
        opened(tiny_base, lora)


def test_pickles_are_never_read(tiny_base, loras, tmp_path):
    lora = tmp_path / "lora"
    lora.mkdir()
    for name in ("pytorch_lora_weights.bin", "birds.ckpt", "birds.pt"):
        torch.save(load_file(loras / "peft" / LORA_FILE), lora / name)
    with pytest.raises(UserError, match=r"has no \.safetensors file"):
        opened(tiny_base, lora)


def test_the_file_is_named_where_a_repository_has_several_and_is_recorded(loras, tmp_path):
    lora = tmp_path / "lora"
    for name in ("a.safetensors", "b.safetensors", "x_emb.safetensors"):
        lora.mkdir(exist_ok=True)
        shutil.copy(loras / "peft" / LORA_FILE, lora / name)
    with pytest.raises(UserError, match=r"needs adapter_weight_name: it has a\.saf.*, b\.saf"):
        open_foreign(resolve(str(lora)), None)
    found = open_foreign(resolve(str(lora)), "b.safetensors")
    assert found.files == {
        name: file_sha256(lora / name) for name in ("b.safetensors", "x_emb.safetensors")
    }
    shutil.copy(lora / "x_emb.safetensors", lora / "y_emb.safetensors")
    with pytest.raises(UserError, match="several files of learned tokens"):
        open_foreign(resolve(str(lora)), "b.safetensors")


def test_what_does_not_belong_to_the_adapter_is_refused(tiny_base, adapter, loras):
    def pinned(named, base, **values):
        return pin_diffusion(settings(**values), str(named), base, lambda _, name: resolve(name))

    for values, said in (
        ({"prompt_template": "a {token}"}, r"it takes \{class_name\} and \{metaclass\}"),
        ({"prompt_template": "a {metaclass} {class_name}"}, "give --metaclass"),
        ({"inpainting_method": "diffusion"}, "needs an adapter of sgdmix train-ad"),
    ):
        with pytest.raises(UserError, match=said):
            pinned(loras / "peft", str(tiny_base), **values)
    for values, said in (
        ({"prompt_template": "a {class_name}"}, "it takes {token}"),
        ({"metaclass": "bird"}, "has an adapter.json"),
        ({"adapter_weight_name": LORA_FILE}, "has an adapter.json"),
    ):
        with pytest.raises(UserError, match=said):
            pinned(adapter, None, **values)
    with pytest.raises(UserError, match="does not say its base: give --pretrained_model_name"):
        pinned(loras / "peft", None)
    with pytest.raises(UserError, match="is a whole base model"):
        pinned(tiny_base, str(tiny_base))
    with pytest.raises(UserError, match="adapter_weight_name names a file of adapter"):
        settings(
            adapter=None, pretrained_model_name_or_path="org/x", adapter_weight_name="x"
        ).validate()


def test_tokens_of_an_earlier_adapter_are_not_saved_with_the_next_one(loras, tmp_path):
    """Whoever loads the folder would load them too."""
    first, second = (shutil.copytree(loras / "peft", tmp_path / name) for name in "ab")
    for name in (TOKENS_FILE, "kite_emb.safetensors"):
        save_file({"<kite>": torch.zeros(2, 32)}, first / name)
        with_tokens = open_foreign(resolve(str(first)), None)
        folder = tmp_path / f"saved {name}"
        save_pipeline(folder, None, Saved(), with_tokens)
        save_pipeline(folder, None, Saved(), with_tokens)
        before = content_hash(folder)
        for foreign in (open_foreign(resolve(str(second)), None), None):
            with pytest.raises(UserError, match=f"holds the learned tokens {name}"):
                save_pipeline(folder, None, Saved(), foreign)
        assert content_hash(folder) == before
        (first / name).unlink()


def test_what_is_not_used_is_not_published():
    """The fingerprints of runs without it are what they were."""
    published = published_settings(settings(), {"adapter": str(Pin("org/a", "0" * 40))})
    assert not {"metaclass", "adapter_weight_name"} & published.keys()
