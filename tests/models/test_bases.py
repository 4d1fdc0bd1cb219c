"""Supported base models; any other is refused in one line, before a download or a training."""

import json
import shutil

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from loopback_hub import run_client
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from sgdmix_hub import augment, train_adapter
from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.bases.loading import load_base
from sgdmix_hub.models.bases.supported import ADVICE, check_supported
from sgdmix_hub.pipeline import SGDMixPipeline
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.training.adapter.model import load_adapted


def edited(base, folder, file, **values):
    """A copy of a base with other values in one of its JSON files."""
    copy = shutil.copytree(base, folder)
    path = copy / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return copy


@pytest.fixture(scope="module")
def bases(tiny_base, tmp_path_factory):
    """Complete bases that are not supported, by what is said of them."""
    folder = tmp_path_factory.mktemp("bases")
    parts = StableDiffusionPipeline.from_pretrained(tiny_base).components
    torch.manual_seed(0)
    text = CLIPTextConfig(**(parts["text_encoder"].config.to_dict() | {"projection_dim": 32}))
    unet = UNet2DConditionModel.from_config(
        parts["unet"].config,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32,
        cross_attention_dim=64,
    )
    names = ("vae", "text_encoder", "tokenizer", "scheduler")
    other = {
        "text_encoder_2": CLIPTextModelWithProjection(text),
        "tokenizer_2": parts["tokenizer"],
        "unet": unet,
    }
    StableDiffusionXLPipeline(**{name: parts[name] for name in names}, **other).save_pretrained(
        folder / "sdxl"
    )
    inpainting = edited(tiny_base, folder / "inpainting", "unet/config.json", in_channels=9)
    weights = load_file(inpainting / "unet" / "diffusion_pytorch_model.safetensors")
    channels = torch.cat([weights["conv_in.weight"]] * 3, dim=1)
    weights["conv_in.weight"] = channels[:, :9].contiguous()
    save_file(
        weights,
        inpainting / "unet" / "diffusion_pytorch_model.safetensors",
        metadata={"format": "pt"},
    )
    edited(
        folder / "sdxl",
        folder / "renamed sdxl",
        "model_index.json",
        _class_name="StableDiffusionPipeline",
    )
    edited(tiny_base, folder / "flow", "model_index.json", _class_name="AuraFlowPipeline")
    shutil.rmtree(folder / "flow" / "unet")
    shutil.copytree(tiny_base / "unet", folder / "unet alone")
    no_unet = shutil.copytree(tiny_base, folder / "no unet")
    shutil.rmtree(no_unet / "unet")
    for name, content in (
        ("torn", "{"),
        ("list", "[]"),
        ("binary", "\x00\x01"),
        ("deep", "[" * 100_000),
    ):
        (shutil.copytree(tiny_base, folder / name) / "unet" / "config.json").write_text(content)
    edited(
        tiny_base,
        folder / "long schedule",
        "scheduler/scheduler_config.json",
        num_train_timesteps=10**9,
    )
    return folder


SAID = {
    "renamed sdxl": "needs text_time besides the prompt",
    "inpainting": "takes 9 channels, and an autoencoder that gives 4",
    "flow": "is a AuraFlowPipeline",
    "unet alone": "has no model_index.json",
    "no unet": "has no unet/config.json",
    "torn": "unet/config.json .* cannot be read",
    "list": "unet/config.json .* holds no settings",
    "binary": "unet/config.json .* cannot be read",
    "deep": "unet/config.json .* cannot be read",
    "long schedule": "has 1000000000 noise levels",
}


@pytest.mark.parametrize("name", SAID)
def test_an_unsupported_base_is_refused_in_a_line_by_all_that_load_one(
    name, bases, birds, tmp_path
):
    base = bases / name
    training = {
        "dataset_name": str(birds),
        "output_dir": str(tmp_path / "adapter"),
        "metaclass": "bird",
    }
    settings = AdapterSettings(**training, pretrained_model_name_or_path=str(base))
    generation = {
        "dataset_name": str(birds),
        "output_dir": str(tmp_path / "run"),
        "preset": "recommended",
        "resolution": 32,
    }
    for use in (
        lambda: check_supported(resolve(str(base))),
        lambda: load_base(resolve(str(base)), torch.float32, "text_to_image"),
        lambda: load_adapted(resolve(str(base)), settings, 2),
        lambda: train_adapter.main(settings),
        lambda: augment.main(
            AugmentSettings(**generation, pretrained_model_name_or_path=str(base))
        ),
        lambda: SGDMixPipeline.from_pretrained(
            preset="recommended",
            strength=0.5,
            pretrained_model_name_or_path=str(base),
            class_names=["a", "b"],
            resolution=32,
        ),
    ):
        with pytest.raises(UserError, match=SAID[name]) as refusal:
            use()
        assert name in ("torn", "list", "binary", "deep") or str(refusal.value).endswith(ADVICE)
    assert not list((tmp_path / "run").rglob("*.npy"))
    assert not list((tmp_path / "run").rglob("plan.parquet"))


def test_bases_of_stable_diffusion_are_taken(tiny_base, prudish_base, tmp_path):
    other_name = edited(
        tiny_base,
        tmp_path / "img2img",
        "model_index.json",
        _class_name="StableDiffusionImg2ImgPipeline",
    )
    for base in (tiny_base, prudish_base, other_name):
        check_supported(resolve(str(base)))


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        (
            "tokenizer/tokenizer_config.json",
            {"model_max_length": 10**9},
            "pads prompts to 1000000000 tokens, but its text encoder reads",
        ),
        ("tokenizer/tokenizer.json", {"model": None}, "cannot load the base model odd"),
        ("model_index.json", {"tokenizer": "CLIPTokenizer"}, "cannot load the base model odd"),
    ],
)
def test_a_base_that_would_fill_the_memory_or_end_in_a_traceback_is_refused(
    file, values, said, tiny_base, tmp_path
):
    base = edited(tiny_base, tmp_path / "odd", file, **values)
    with pytest.raises(UserError, match=said):
        load_base(resolve(str(base)), torch.float32, "text_to_image")


ON_THE_HUB = """
api.create_repo("birds/base", repo_type="model")
api.upload_folder(repo_id="birds/base", folder_path=sys.argv[1])
from sgdmix_hub.models.bases.supported import check_supported
from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.pins import resolve
try:
    check_supported(resolve("birds/base"))
except UserError as error:
    print(json.dumps(str(error)))
"""


def test_a_base_on_the_hub_is_refused_before_its_weights_are_fetched(bases, hub):
    assert SAID["inpainting"] in run_client(hub, ON_THE_HUB, bases / "inpainting")
    fetched = [call.path for call in hub.calls if call.method == "GET"]
    assert any(path.endswith("unet/config.json") for path in fetched)
    assert not any("safetensors" in path for path in fetched)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_base_of_which_weights_are_missing_is_refused(part, tiny_base, tmp_path):
    """The libraries would draw them at random."""
    base = shutil.copytree(tiny_base, tmp_path / "half")
    (path,) = (base / part).glob("*.safetensors")
    weights = load_file(path)
    del weights[max(weights)]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match="is incomplete|cannot load"):
        load_base(resolve(str(base)), torch.float32, "text_to_image")
