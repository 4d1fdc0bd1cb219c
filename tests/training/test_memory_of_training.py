"""What an adapter's training holds in memory: told before it is loaded, in its precision."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from trainings import adapter_settings

from sgdmix_hub import train_adapter
from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.bases.loading import load_base
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.training.adapter.memory import memory_text
from sgdmix_hub.training.adapter.model import load_adapted


def settings(base, **values):
    return AdapterSettings(**adapter_settings("unused", base, "unused", **values))


def test_the_need_is_that_of_what_is_loaded(tiny_base):
    """The autoencoder counts in float32."""
    for precision, word in (("no", "float32"), ("bf16", "bfloat16")):
        chosen = settings(tiny_base, mixed_precision=precision)
        loaded, _ = load_adapted(resolve(str(tiny_base)), chosen, 3)
        frozen = [
            parameter
            for part in (loaded.denoiser, loaded.pipeline.vae, loaded.pipeline.text_encoder)
            for parameter in part.parameters()
            if not parameter.requires_grad
        ]
        held = sum(one.numel() * one.element_size() for one in frozen) / 1e9
        text = memory_text(chosen, resolve(str(tiny_base)))
        assert text.startswith(f"memory: {held:.2f} GB of weights in every process, in {word}: ")
        assert "once the prompts are encoded" not in text
    alone = memory_text(settings(tiny_base, num_vectors=0), resolve(str(tiny_base)))
    assert "once the prompts are encoded" in alone


def test_frozen_weights_are_the_bases_in_the_trainings_precision(tiny_base):
    whole = load_base(resolve(str(tiny_base)), torch.float32, "text_to_image")
    loaded, model = load_adapted(
        resolve(str(tiny_base)), settings(tiny_base, mixed_precision="bf16"), 3
    )
    expected = {name: value.bfloat16() for name, value in whole.denoiser.named_parameters()}
    frozen = {
        name.replace(".base_layer", ""): value
        for name, value in loaded.denoiser.named_parameters()
        if not value.requires_grad
    }
    assert frozen.keys() == expected.keys()
    assert all(torch.equal(frozen[name], expected[name]) for name in expected)
    assert {value.dtype for value in model.trained().values()} == {torch.float32}
    pairs = zip(whole.pipeline.vae.parameters(), loaded.pipeline.vae.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_the_need_is_told_before_anything_is_loaded(tiny_base, few_birds, tmp_path, capsys):
    """Of a base that cannot be loaded."""
    base = shutil.copytree(tiny_base, tmp_path / "base")
    path = base / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights.pop("conv_in.weight")
    save_file(weights, path, {"format": "pt"})
    given = adapter_settings(few_birds, base, tmp_path / "out")
    with pytest.raises(UserError, match=r"cannot load|incomplete"):
        train_adapter.main(AdapterSettings(**given))
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("memory: ")]
    assert len(told) == 1 and " GB of weights in every process, in " in told[0]
