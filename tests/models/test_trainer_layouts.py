"""LoRA files by the names that sd-scripts, musubi-tuner, ai-toolkit and OneTrainer write.

The names are those of the programs' own sources (docs/adapters.md says which): each stands for the
layers of diffusers that it must change, several where the program trains q, k and v as one.
"""

import pytest
import torch
from every_family import loaded_base
from safetensors.torch import save_file
from tiny_bases import BUILD

from sgdmix_hub.errors import UserError
from sgdmix_hub.models.bases.families import BY_NAME
from sgdmix_hub.models.foreign import ForeignAdapter, merge_foreign

RANK, ALPHA = 2, 3.0
DOUBLE, SINGLE = "transformer_blocks.0", "single_transformer_blocks.0"
IMAGE_QKV = [f"{DOUBLE}.attn.to_{part}" for part in "qkv"]
TEXT_QKV = [f"{DOUBLE}.attn.add_{part}_proj" for part in "qkv"]
# all that is trained of a CLIP: diffusers recognises no file with some of them
CLIP = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"]
CLIP = [f"encoder.layers.0.{layer}" for layer in [*CLIP, "mlp.fc1", "mlp.fc2"]]


def flux_blocks(start, joint, image_feed, text_feed):
    """Of one double block, as Black Forest Labs name its layers."""
    return {
        f"{start}img_attn{joint}qkv": IMAGE_QKV,
        f"{start}txt_attn{joint}qkv": TEXT_QKV,
        f"{start}img_attn{joint}proj": [f"{DOUBLE}.attn.to_out.0"],
        f"{start}txt_attn{joint}proj": [f"{DOUBLE}.attn.to_add_out"],
        **{f"{start}img_mlp{joint}{n}": [f"{DOUBLE}.{image_feed[n]}"] for n in (0, 2)},
        **{f"{start}txt_mlp{joint}{n}": [f"{DOUBLE}.{text_feed[n]}"] for n in (0, 2)},
    }


FLUX_FEED = {0: "ff.net.0.proj", 2: "ff.net.2"}, {0: "ff_context.net.0.proj", 2: "ff_context.net.2"}
FLUX2_FEED = (
    {0: "ff.linear_in", 2: "ff.linear_out"},
    {0: "ff_context.linear_in", 2: "ff_context.linear_out"},
)
Z_IMAGE = ["attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out.0"]
Z_IMAGE = [f"layers.1.{layer}" for layer in [*Z_IMAGE, "feed_forward.w1", "feed_forward.w2"]]
QWEN = [*IMAGE_QKV, *TEXT_QKV, f"{DOUBLE}.attn.to_out.0", f"{DOUBLE}.attn.to_add_out"]
QWEN = [*QWEN, f"{DOUBLE}.img_mlp.net.0.proj", f"{DOUBLE}.txt_mlp.net.2"]
SD_BLOCK = "attentions.0.transformer_blocks.0"
SD = [f"down_blocks.1.{SD_BLOCK}", f"mid_block.{SD_BLOCK}", f"up_blocks.0.{SD_BLOCK}"]
SD = [f"{block}.{layer}" for block in SD for layer in ("attn1.to_q", "attn2.to_out.0", "ff.net.2")]
# the blocks of the tiny SDXL as Stability AI count them, which sd-scripts and ai-toolkit keep
SGM = {
    "input_blocks_3_1": "down_blocks.1.attentions.0",
    "middle_block_1": "mid_block.attentions.0",
    "output_blocks_0_1": "up_blocks.0.attentions.0",
    "output_blocks_1_1": "up_blocks.0.attentions.1",
}


def clip(start, encoder):
    return {
        f"{start}_text_model_{layer.replace('.', '_')}": [f"{encoder} {layer}"] for layer in CLIP
    }


def flat(layers):
    return {f"lora_unet_{layer.replace('.', '_')}": [layer] for layer in layers}


def dotted(start, layers):
    return {f"{start}.{layer}": [layer] for layer in layers}


KOHYA, PEFT = ("lora_down", "lora_up"), ("lora_A", "lora_B")
# layout -> family, the ends of names, name in the file -> layers; kohya's have an alpha each
LAYOUTS = {
    "sd-scripts, SD 1": (
        "stable-diffusion",
        KOHYA,
        flat(SD) | clip("lora_te", "text_encoder"),
    ),
    "sd-scripts and ai-toolkit, SDXL": (
        "stable-diffusion-xl",
        KOHYA,
        {
            f"lora_unet_{block}_transformer_blocks_0_{layer.replace('.', '_')}": [
                f"{ours}.transformer_blocks.0.{layer}"
            ]
            for block, ours in SGM.items()
            for layer in ("attn1.to_k", "attn2.to_v", "ff.net.0.proj")
        }
        | clip("lora_te1", "text_encoder")
        | clip("lora_te2", "text_encoder_2"),
    ),
    "sd-scripts, FLUX.1": (
        "flux",
        KOHYA,
        flux_blocks("lora_unet_double_blocks_0_", "_", *FLUX_FEED)
        | {
            "lora_unet_double_blocks_0_img_mod_lin": [f"{DOUBLE}.norm1.linear"],
            "lora_unet_single_blocks_0_linear2": [f"{SINGLE}.proj_out"],
            "lora_unet_single_blocks_0_modulation_lin": [f"{SINGLE}.norm.linear"],
        }
        | clip("lora_te1", "text_encoder"),
    ),
    "musubi-tuner, FLUX.2": (
        "flux-2-klein",
        KOHYA,
        flux_blocks("lora_unet_double_blocks_0_", "_", *FLUX2_FEED)
        | {
            "lora_unet_single_blocks_0_linear1": [f"{SINGLE}.attn.to_qkv_mlp_proj"],
            "lora_unet_single_blocks_0_linear2": [f"{SINGLE}.attn.to_out"],
        },
    ),
    "musubi-tuner, Z-Image": ("z-image", KOHYA, flat(Z_IMAGE)),
    "musubi-tuner for ComfyUI, Z-Image": (
        "z-image",
        KOHYA,
        {
            "lora_unet_layers_1_attention_qkv": Z_IMAGE[:3],
            "lora_unet_layers_1_attention_out": Z_IMAGE[3:4],
            "lora_unet_layers_1_feed_forward_w1": Z_IMAGE[4:5],
        },
    ),
    "musubi-tuner, Qwen-Image": ("qwen-image", KOHYA, flat(QWEN)),
    "OneTrainer, Z-Image": ("z-image", KOHYA, dotted("transformer", Z_IMAGE)),
    "OneTrainer, Qwen-Image": ("qwen-image", KOHYA, dotted("transformer", QWEN)),
    "ai-toolkit, FLUX.1": (
        "flux",
        PEFT,
        dotted("transformer", [*IMAGE_QKV, *TEXT_QKV, f"{SINGLE}.attn.to_q", f"{SINGLE}.proj_out"]),
    ),
    "ai-toolkit, SD 3": ("stable-diffusion-3", PEFT, dotted("transformer", IMAGE_QKV + TEXT_QKV)),
    "ai-toolkit, Z-Image": ("z-image", PEFT, dotted("diffusion_model", Z_IMAGE)),
    "ai-toolkit, Qwen-Image": ("qwen-image", PEFT, dotted("diffusion_model", QWEN)),
    "ai-toolkit, FLUX.2": (
        "flux-2-klein",
        PEFT,
        flux_blocks("diffusion_model.double_blocks.0.", ".", *FLUX2_FEED)
        | {
            "diffusion_model.single_blocks.0.linear1": [f"{SINGLE}.attn.to_qkv_mlp_proj"],
            "diffusion_model.single_blocks.0.linear2": [f"{SINGLE}.attn.to_out"],
        },
    ),
}


def found_layer(loaded, named):
    """A layer of the denoiser, or of the encoder that is named before it; CLIP's own name differs
    between versions of transformers.
    """
    part, _, layer = named.rpartition(" ")
    network = getattr(loaded.pipeline, part or loaded.family.denoiser)
    (found,) = [
        module
        for name, module in network.named_modules()
        if name == layer or (part and name.endswith(f".{layer}"))
    ]
    return found


def written(loaded, ends, names):
    """A file of random weights, and the product that every layer must change by."""
    random = torch.Generator().manual_seed(5)
    weights, products = {}, {}
    for name, layers in names.items():
        of = [found_layer(loaded, layer).weight for layer in layers]
        down = torch.randn(RANK, of[0].shape[1], generator=random)
        up = torch.randn(sum(len(one) for one in of), RANK, generator=random)
        weights |= {f"{name}.{ends[0]}.weight": down, f"{name}.{ends[1]}.weight": up}
        scale = 1.0
        if ends == KOHYA:
            weights[f"{name}.alpha"], scale = torch.tensor(ALPHA), ALPHA / RANK
        rows = (up @ down * scale).split([len(one) for one in of])
        products |= dict(zip(layers, rows, strict=True))
    return weights, products


def networks(loaded):
    return [loaded.denoiser, *map(loaded.network, loaded.encoders)]


def merged(base, weights, folder):
    loaded = loaded_base(base)
    save_file(weights, folder / "lora.safetensors")
    merge_foreign(loaded, ForeignAdapter("x", folder / "lora.safetensors", ()))
    return loaded


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layer_changes_by_the_files_product_and_no_other(layout, base_of, tmp_path):
    name, ends, names = LAYOUTS[layout]
    loaded = loaded_base(base_of(name))
    weights, products = written(loaded, ends, names)
    after = merged(base_of(name), weights, tmp_path)
    for layer, product in products.items():
        module = found_layer(loaded, layer)
        module.weight.data += product.detach()
    for first, second in zip(networks(loaded), networks(after), strict=True):
        for key, value in second.state_dict().items():
            torch.testing.assert_close(value, first.state_dict()[key], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_with_a_layer_more_than_is_read_is_refused(layout, base_of, tmp_path):
    """diffusers leaves some names out without a word: half an adapter would be merged."""
    name, ends, names = LAYOUTS[layout]
    loaded = loaded_base(base_of(name))
    weights, _ = written(loaded, ends, names)
    more = {
        f"lora_te3_encoder_block_0_layer_0_SelfAttention_q.{end}.weight": torch.ones(2, 2)
        for end in KOHYA
    }
    if ends == PEFT:
        start = next(iter(names)).partition(".")[0]
        more = {f"{start}.of_no_base.{end}.weight": torch.ones(2, 2) for end in PEFT}
    with pytest.raises(UserError) as refusal:
        merged(base_of(name), weights | more, tmp_path)
    assert "\n" not in str(refusal.value)


def test_sd_scripts_names_for_sd_3_are_not_read_and_refused_in_a_line(base_of, tmp_path):
    names = ("lora_unet_joint_blocks_0_x_block_attn_qkv", "lora_te1_text_model_x")
    weights = {f"{names[0]}.{end}.weight": torch.ones(2, 2) for end in KOHYA}
    with pytest.raises(UserError, match="has weights outside the denoiser"):
        merged(base_of("stable-diffusion-3"), weights, tmp_path)


@pytest.mark.slow
def test_the_joined_layer_of_flux_1_is_split_at_its_true_width():
    """sd-scripts trains q, k, v and the feed-forward of a single block as one; diffusers splits it
    by the numbers of the original, so a tiny base cannot show it.
    """
    widths = [3072, 3072, 3072, 4 * 3072]
    layers = [*(f"{SINGLE}.attn.to_{part}" for part in "qkv"), f"{SINGLE}.proj_mlp"]
    down, up = torch.randn(2, 3072), torch.randn(sum(widths), 2)
    weights = {
        "lora_unet_single_blocks_0_linear1.lora_down.weight": down,
        "lora_unet_single_blocks_0_linear1.lora_up.weight": up,
        "lora_unet_single_blocks_0_linear1.alpha": torch.tensor(ALPHA),
    }
    found, _ = BY_NAME["flux"].lora_weights(BUILD["flux"](), weights)
    for layer, rows in zip(layers, up.split(widths), strict=True):
        first, second = (found[f"transformer.{layer}.lora_{half}.weight"] for half in "AB")
        torch.testing.assert_close(second @ first, rows @ down * ALPHA / RANK)
    assert len(found) == 8
