"""What is fetched of models on the Hub, and what is told of them before that."""

import shutil

import pytest
from diffusers import StableDiffusionPipeline
from loopback_hub import run_client
from safetensors.torch import save_file
from tiny_bases import save_random_lora

from sgdmix_hub.files import file_sha256
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.memory import need_of

CODE = """
from huggingface_hub import constants
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.loading import pin_diffusion
from sgdmix_hub.models.memory import need_of
from sgdmix_hub.settings.method import MethodSettings

base, lora = sys.argv[1:]
for name, folder in (("birds/base", base), ("birds/lora", lora)):
    api.create_repo(name)
    api.upload_folder(repo_id=name, folder_path=folder)
api.create_tag("birds/lora", tag="v1.0.0")
api.delete_file("b.safetensors", "birds/lora")

def fetched():
    return sorted({path.name for path in Path(constants.HF_HUB_CACHE).rglob("*.safetensors")})

need = need_of(resolve("birds/base"), safety_checker=False)
after_need = fetched()
diffusion = pin_diffusion(
    MethodSettings(adapter_weight_name="b.safetensors"),
    "birds/lora@v1.0.0",
    "birds/base",
    lambda setting, name: resolve(name),
)
print(json.dumps({
    "weights": need.weights,
    "after_need": after_need,
    "pin": str(diffusion.adapter_pin),
    "tagged": api.repo_info("birds/lora", revision="v1.0.0").sha,
    "files": diffusion.foreign.files,
    "fetched": fetched(),
}))
"""


@pytest.mark.slow
def test_only_the_headers_of_a_base_and_the_named_file_of_an_adapter_are_fetched(
    hub, tiny_base, tmp_path
):
    """At the adapter's tag, though its file is gone from `main`; nothing pickled."""
    lora = tmp_path / "lora"
    lora.mkdir()
    unet = StableDiffusionPipeline.from_pretrained(tiny_base, safety_checker=None).unet
    save_random_lora(unet, lora / "a.safetensors")
    shutil.copy(lora / "a.safetensors", lora / "b.safetensors")
    save_file({}, lora / "x_emb.safetensors")
    (lora / "b.bin").write_bytes(b"no pickle")
    found = run_client(hub, CODE, tiny_base, lora)
    assert found["after_need"] == []
    assert found["weights"] == need_of(resolve(str(tiny_base)), safety_checker=False).weights
    assert found["pin"] == f"birds/lora@{found['tagged']}"
    names = ["b.safetensors", "x_emb.safetensors"]
    assert found["files"] == {name: file_sha256(lora / name) for name in names}
    assert found["fetched"] == names
