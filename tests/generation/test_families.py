"""Whole runs on SDXL, with an adapter, a few-step LoRA and a kept foreground: the same rows from
one process and from several, from an interrupted run, and from `Dataset.map`.
"""

import io
import json
import shutil

import numpy as np
import pytest
import yaml
from datasets import load_dataset
from generations import (
    SCRIPT,
    arguments,
    digests,
    manifest_of,
    published_rows,
    run_script,
    undecoded,
    whole_run,
)
from launching import launch
from PIL import Image
from tiny_bases import build_sdxl, save_random_lora
from trainings import adapter_settings, train

from sgdmix_hub.errors import UserError
from sgdmix_hub.mapped import MappedSplit
from sgdmix_hub.pipeline import SGDMixPipeline

METHOD = {
    "preset": "recommended",
    "mask_column": "mask",
    "strength": 0.5,
    "foreground_strength": 0.25,
    "few_step_method": "lcm",
    "num_inference_steps": 4,
    "batch_size": 4,
    "resolution": 32,
}


@pytest.fixture(scope="module")
def models(birds, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdxl")
    pipeline = build_sdxl()
    pipeline.save_pretrained(folder / "base", safe_serialization=True)
    (folder / "few steps").mkdir()
    save_random_lora(pipeline.unet, folder / "few steps" / "8steps.safetensors")
    adapter = adapter_settings(
        birds, folder / "base", folder / "adapter", num_train_samples=4, learning_rate=0.05
    )
    train(adapter)
    return {
        "pretrained_model_name_or_path": folder / "base",
        "adapter": folder / "adapter",
        "few_step_lora": folder / "few steps",
    }


@pytest.fixture(scope="module")
def settings(birds, models):
    return METHOD | models | {"dataset_name": birds, "rows_per_shard": 6, "image_format": "png"}


@pytest.fixture(scope="module")
def generated(settings, tmp_path_factory):
    return whole_run(settings, tmp_path_factory.mktemp("generated") / "run")


@pytest.mark.slow
def test_published_bytes_do_not_depend_on_the_number_of_processes(settings, generated, tmp_path):
    done = launch([SCRIPT, *arguments(settings | {"output_dir": tmp_path / "run"})], 2)
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "run" / "repo") == digests(generated / "repo")


@pytest.mark.slow
def test_what_was_lost_is_made_again_to_the_same_bytes(settings, generated, tmp_path):
    """The dataset and one of its shards."""
    lost = shutil.copytree(generated, tmp_path / "run")
    shutil.rmtree(lost / "repo")
    for suffix in ("json", "parquet"):
        (lost / "state" / "shards" / f"shard-00001.{suffix}").unlink()
    ended = run_script(arguments(settings | {"output_dir": lost}), tmp_path / "logs")
    assert ended.returncode == 0, ended.stderr
    assert digests(lost / "repo") == digests(generated / "repo")


@pytest.mark.slow
def test_a_mapped_split_gives_the_rows_of_the_generation(birds, models, generated):
    pipeline = SGDMixPipeline.from_pretrained(
        **{name: str(value) for name, value in models.items()}, **METHOD
    )
    dataset = load_dataset(str(birds), split="train")
    mapped = MappedSplit(pipeline, dataset, image_format="png")
    rows = dataset.map(mapped, **mapped.options)
    assert undecoded(rows) == published_rows(generated)


@pytest.mark.slow
def test_the_kept_foreground_is_the_sources_to_the_bit(generated, source_rows):
    """`recommended` pastes it: inside the mask's soft edge, refined pixels are the source's."""
    compared = 0
    for row in published_rows(generated):
        source = source_rows[row["source_index"]]
        mask = np.asarray(Image.open(io.BytesIO(source["mask"]["bytes"])).convert("L")) > 127
        inside = mask.copy()
        for axis in (0, 1):
            for step in (-2, -1, 1, 2):
                inside &= np.roll(mask, step, axis)
        pixels = np.asarray(Image.open(io.BytesIO(source["image"]["bytes"])).convert("RGB"))
        made = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))
        assert np.array_equal(made[inside], pixels[inside])
        assert not np.array_equal(made, pixels)
        compared += inside.sum()
        assert row["sigma_start"] == pytest.approx(0.47, abs=0.2)
    assert compared > 100


@pytest.mark.slow
def test_the_run_says_what_it_was_made_with(generated, models):
    config = yaml.safe_load((generated / "repo/sgdmix/default/config.yaml").read_text())
    assert (config["scheduler"], config["guidance_scale"]) == ("lcm", 1.0)
    pins = manifest_of(generated)["pins"]
    assert config["few_step_lora"] == pins["few_step_lora"]
    assert pins["few_step_lora"].startswith("few steps@sha256-")
    card = (generated / "repo" / "README.md").read_text()
    assert pins["few_step_lora"] in card.replace("\\", "") and "| few-step method | lcm |" in card
    assert "; from noise level 0." in card
    facts = json.loads((models["adapter"] / "adapter.json").read_text())
    assert facts["family"] == "stable-diffusion-xl"


@pytest.mark.slow
def test_a_base_of_another_family_is_refused_before_it_is_loaded(settings, tiny_base, tmp_path):
    other = {"pretrained_model_name_or_path": tiny_base, "output_dir": tmp_path / "run"}
    ended = run_script(arguments(settings | other), tmp_path / "logs")
    line = "the adapter was trained on a base of Stable Diffusion XL, and this base is of Stable"
    assert ended.returncode == 2 and line in ended.stderr and "Traceback" not in ended.stderr
    with pytest.raises(UserError, match=line):
        SGDMixPipeline.from_pretrained(
            adapter=str(settings["adapter"]),
            pretrained_model_name_or_path=str(tiny_base),
            strength=0.5,
            resolution=32,
        )
