"""Whole runs with an adapter that another program trained."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
import yaml
from datasets import load_dataset
from diffusers import StableDiffusionPipeline
from generations import manifest_of, published_rows, undecoded
from safetensors.torch import save_file
from tiny_bases import save_random_lora

from sgdmix_hub import augment
from sgdmix_hub.errors import UserError
from sgdmix_hub.files import file_sha256
from sgdmix_hub.mapped import MappedSplit
from sgdmix_hub.pipeline import SGDMixPipeline
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.parsing import parse_settings

METHOD = {
    "preset": "recommended",
    "mask_column": "mask",
    "strength": 0.5,
    "foreground_strength": 0.0,
    "num_inference_steps": 4,
    "batch_size": 4,
    "resolution": 32,
    "metaclass": "bird",
    "prompt_template": ["a photo of a <s0> {class_name}, a {metaclass}"],
    "adapter_weight_name": "birds.safetensors",
}


@pytest.fixture(scope="module")
def models(tiny_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("foreign") / "bird-lora"
    folder.mkdir()
    unet = StableDiffusionPipeline.from_pretrained(tiny_base, safety_checker=None).unet
    save_random_lora(unet, folder / "birds.safetensors")
    save_random_lora(unet.from_config(unet.config), folder / "other.safetensors")
    torch.manual_seed(0)
    save_file({"clip_l": torch.randn(1, 32)}, folder / "birds_emb.safetensors")
    base = shutil.copytree(tiny_base, folder.parent / "tiny-base")
    (base / "README.md").write_text("---\nlicense: openrail++\n---\n")
    return {"pretrained_model_name_or_path": str(base), "adapter": str(folder)}


@pytest.fixture(scope="module")
def settings(birds, models):
    return METHOD | models | {"dataset_name": str(birds), "image_format": "png"}


@pytest.fixture(scope="module")
def generated(settings, tmp_path_factory):
    output = tmp_path_factory.mktemp("generated") / "run"
    augment.main(AugmentSettings(**settings, output_dir=str(output)))
    return output


@pytest.mark.slow
def test_the_run_pins_the_files_and_says_so_on_the_card(settings, generated, models):
    manifest = manifest_of(generated)
    assert manifest["pins"]["adapter"].startswith("bird-lora@sha256-")
    files = manifest["stated"]["adapter_files"]
    assert set(files) == {"birds.safetensors", "birds_emb.safetensors"}
    card = (generated / "repo" / "README.md").read_text().replace("\\", "")
    for name, sha256 in files.items():
        assert sha256 == file_sha256(f"{models['adapter']}/{name}")
        assert f"| {name}, sha256 {sha256} |" in card
    assert "the adapter (not stated)" in card and "(openrail++)" in card
    assert "The licence of the base model allows any use but those that" in card
    (prompt,) = {row["prompt"] for row in published_rows(generated) if row["label"] == 0}
    assert prompt.startswith("a photo of a <s0> ") and prompt.endswith(", a bird")
    config = generated / "repo/sgdmix/default/config.yaml"
    assert yaml.safe_load(config.read_text())["adapter_weight_name"] == "birds.safetensors"
    again = parse_settings(
        AugmentSettings,
        [
            f"--config={config}",
            "--output_dir=x",
            *(f"--{name}={settings[name]}" for name in (*models, "dataset_name")),
        ],
    )
    assert (again.metaclass, again.prompt_template) == ("bird", METHOD["prompt_template"])


@pytest.mark.slow
def test_mapped_splits_and_saved_pipelines_give_the_rows_of_the_generation(
    birds, models, generated, tmp_path
):
    dataset = load_dataset(str(birds), split="train")
    names = dataset.features["label"].names
    pipeline = SGDMixPipeline.from_pretrained(**models, class_names=names, **METHOD)
    pipeline.save_pretrained(tmp_path / "saved")
    saved = SGDMixPipeline.from_pretrained(
        models["pretrained_model_name_or_path"], str(tmp_path / "saved")
    )
    for each in (pipeline, saved):
        each.set_progress_bar_config(disable=True)
        mapped = MappedSplit(each, dataset, image_format="png")
        rows = dataset.map(mapped, load_from_cache_file=False, **mapped.options)
        assert undecoded(rows) == published_rows(generated)


@pytest.mark.slow
def test_a_dry_run_loads_the_adapter_too(settings, tmp_path, capsys):
    asked = AugmentSettings(**settings, output_dir=str(tmp_path / "run"), dry_run=True)
    augment.main(asked)
    lines = capsys.readouterr().out.splitlines()
    (need,) = [place for place, line in enumerate(lines) if line.startswith("memory      ")]
    (prompts,) = [place for place, line in enumerate(lines) if "'a photo of a <s0> " in line]
    assert need < prompts and "GB of weights in float32: unet 0." in lines[need]
    assert any(line.startswith("base model tiny-base: licence openrail++: any") for line in lines)
    with pytest.raises(UserError, match=r"has no gone\.safetensors: it has birds"):
        augment.main(dataclasses.replace(asked, adapter_weight_name="gone.safetensors"))


@pytest.mark.slow
def test_the_images_are_not_those_of_the_base(settings, models, generated, tmp_path):
    alone = settings | {"adapter": None, "adapter_weight_name": None}
    alone["prompt_template"] = ["a photo of a {class_name}, a {metaclass}"]
    augment.main(AugmentSettings(**alone, output_dir=str(tmp_path / "run")))
    pairs = zip(published_rows(generated), published_rows(tmp_path / "run"), strict=True)
    assert np.mean([one["image"] != other["image"] for one, other in pairs]) > 0.9
