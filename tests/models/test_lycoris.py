"""LoRA files in the layouts that LyCORIS writes, the library under kohya's and other trainers.

`lycoris_layouts.json` holds the names and shapes of files that its own code wrote for tiny bases:
`-kohya` as a network of kohya's scripts, `-lycoris` by its wrapper for any model.
"""

import json
from pathlib import Path

import pytest
import torch
from every_family import loaded_base
from safetensors.torch import save_file

from sgdmix_hub.errors import UserError
from sgdmix_hub.models.foreign import ForeignAdapter, merge_foreign

LAYOUTS = json.loads(
    (Path(__file__).parents[1] / "support/data_files/lycoris_layouts.json").read_text()
)["files"]
FLOW = [name for name in LAYOUTS if not name.startswith("sd-")]
REFUSED = {
    "sd-dora": "is a DoRA, which is not supported",
    "sd-loha": "hada_w1_a, which no plain LoRA has",
    "sd-lokr": "lokr_w1, which no plain LoRA has",
    "sd-full": "diff, which no plain LoRA has",
    "sd-glora": "a1.weight, which no plain LoRA has",
    "sd-boft": "oft_blocks, which no plain LoRA has",
}


def weights_of(layout):
    random = torch.Generator().manual_seed(3)
    return {
        name: torch.tensor(4.0) if name.endswith(".alpha") else torch.randn(shape, generator=random)
        for name, shape in LAYOUTS[layout].items()
    }


def base_name(layout):
    return "stable-diffusion" if layout.startswith("sd-") else layout.rsplit("-", 1)[0]


def merged(base, weights, folder):
    """The denoiser's and the encoders' weights before and after."""
    save_file(weights, folder / "lora.safetensors")
    loaded = loaded_base(base)
    networks = [loaded.denoiser, *map(loaded.network, loaded.encoders)]
    before, after = [], []
    for state in (before, after):
        state += [{n: p.detach().clone() for n, p in one.named_parameters()} for one in networks]
        if state is before:
            merge_foreign(loaded, ForeignAdapter("x", folder / "lora.safetensors", ()))
    return before, after


@pytest.mark.slow
@pytest.mark.parametrize("layout", FLOW)
def test_every_layer_of_a_flow_base_changes_by_the_files_product(layout, base_of, tmp_path):
    """up @ down * alpha / rank, and no other layer changes."""
    weights = weights_of(layout)
    before, after = merged(base_of(base_name(layout)), weights, tmp_path)
    flat = {name.removesuffix(".weight").replace(".", "_"): name for name in before[0]}
    products = {}
    for name in weights:
        layer, _, end = name.partition(".")
        if end == "lora_up.weight":
            up, down = weights[name], weights[f"{layer}.lora_down.weight"]
            own = flat[layer.removeprefix("lora_unet_").removeprefix("lycoris_")]
            products[own] = up @ down * 4.0 / len(down)
    assert len(products) == len(weights) / 3
    for name, value in before[0].items():
        expected = value + products.get(name, torch.zeros(()))
        torch.testing.assert_close(after[0][name], expected, rtol=1e-4, atol=1e-4)
    for first, second in zip(before[1:], after[1:], strict=True):
        assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["sd-lora-attn-only", "sd-lora-rs"])
def test_every_layer_of_stable_diffusion_changes(layout, base_of, tmp_path):
    before, after = merged(base_of("stable-diffusion"), weights_of(layout), tmp_path)
    changed = [
        name
        for first, second in zip(before, after, strict=True)
        for name, value in first.items()
        if not torch.equal(value, second[name])
    ]
    assert len(changed) == len(LAYOUTS[layout]) / 3


@pytest.mark.parametrize("layout", REFUSED)
def test_other_algorithms_are_refused_in_a_line(layout, base_of, tmp_path):
    with pytest.raises(UserError, match=REFUSED[layout]) as raised:
        merged(base_of("stable-diffusion"), weights_of(layout), tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stable-diffusion-3", "flux", "flux-2-klein", "qwen-image"])
def test_a_file_for_another_family_is_refused_in_a_line(name, base_of, tmp_path):
    with pytest.raises(UserError, match="does not fit the base model|no layer for") as raised:
        merged(base_of(name), weights_of("z-image-kohya"), tmp_path)
    assert "\n" not in str(raised.value) and not str(raised.value).endswith(":")


@pytest.mark.parametrize("name", ["stable-diffusion", "z-image"])
def test_a_file_of_zeros_is_refused(name, base_of, tmp_path):
    """Which a training leaves that never began."""
    layout = "z-image-kohya" if name == "z-image" else "sd-lora-attn-only"
    weights = {
        key: torch.zeros_like(value) if "lora_up" in key else value
        for key, value in weights_of(layout).items()
    }
    with pytest.raises(UserError, match="changes nothing: it was not trained"):
        merged(base_of(name), weights, tmp_path)
