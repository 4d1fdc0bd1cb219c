"""The snippet on an adapter's card runs as it stands on a base of any precision."""

import shutil

import pytest
import torch
from model_cards import (
    code_of,
)
from safetensors.torch import load_file, save_file

from sgdmix_hub.publishing.card_merge import UNPUBLISHED_NAME

PRECISIONS = {
    "single": {"unet": torch.float32, "text_encoder": torch.float32, "vae": torch.float32},
    "half, as the demo's": {
        "unet": torch.float16,
        "text_encoder": torch.float16,
        "vae": torch.float16,
    },
    "bfloat": {"unet": torch.bfloat16, "text_encoder": torch.bfloat16, "vae": torch.bfloat16},
    "mixed": {"unet": torch.float16, "text_encoder": torch.float32, "vae": torch.bfloat16},
}


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_snippet_runs_as_it_stands_on_a_base_of_any_precision(
    precision, tiny_base, adapter, adapter_card, tmp_path, monkeypatch
):
    """transformers loads a text encoder as it is stored, diffusers everything else in single
    precision.
    """
    base = shutil.copytree(tiny_base, tmp_path / "tiny-base")
    for part, dtype in PRECISIONS[precision].items():
        (file,) = (base / part).glob("*.safetensors")
        save_file(
            {name: tensor.to(dtype) for name, tensor in load_file(file).items()},
            file,
            metadata={"format": "pt"},
        )
    (tmp_path / UNPUBLISHED_NAME).parent.mkdir(parents=True)
    shutil.copytree(adapter, tmp_path / UNPUBLISHED_NAME)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code_of(adapter_card(), "python"), "README.md", "exec"), names)
    assert names["image"].size == (32, 32) and names["pipeline"].dtype == torch.float32
