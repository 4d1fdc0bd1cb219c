"""The offline domain, the command that writes it, the packaged tiny base and the script that
trained it.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from datasets import load_dataset
from diffusers import StableDiffusionImg2ImgPipeline
from forking import run_forked
from safetensors.torch import load_file

from sgdmix_hub.demo import tiny_unet, tiny_vae, train_tiny_base
from sgdmix_hub.demo.backgrounds import BACKGROUNDS
from sgdmix_hub.demo.birds import render_bird, render_scene
from sgdmix_hub.demo.domain import make_dataset, make_species, save_dataset
from sgdmix_hub.demo.tiny_training import (
    CHECKPOINT_EVERY,
    HELD_OUT,
    Stage,
    psnr,
    render_world,
    to_tensor,
)
from sgdmix_hub.demo.tiny_unet import build_tokenizer, tokenize
from sgdmix_hub.demo.world import random_scene, vocabulary

ROOT = Path(__file__).parents[2]


def rendered(index):
    """A random bird: image, mask, and the same background without it."""
    rng = np.random.default_rng([1, index])
    bird, background_name, _ = random_scene(rng)
    empty, _ = render_scene(background_name, np.random.default_rng(index))
    return *render_bird(bird, np.random.default_rng(index), background_name), empty


def pixels(dataset, column):
    return [np.asarray(image) for image in dataset[column]]


def class_images(dataset, label):
    return pixels(dataset.filter(lambda row: row["label"] == label), "image")


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def test_mask_is_where_the_bird_differs_from_the_plain_background():
    for index in range(20):
        image, mask, empty = rendered(index)
        changed = (image != empty).any(2)
        assert image.dtype == np.uint8 and mask.dtype == bool and image.shape == (64, 64, 3)
        assert 0.05 < mask.mean() < 0.35
        assert (changed & mask).sum() > 0.97 * mask.sum()
        # Antialiased edges reach one pixel beyond the mask.
        near = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))).astype(bool)
        assert not (changed & ~near).any()


@pytest.mark.slow
def test_no_fixed_mask_is_a_good_one():
    masks = np.stack([rendered(index)[1] for index in range(150)])
    share = masks.mean(0)
    best = max(
        np.mean([iou(mask, share > level) for mask in masks])
        for level in np.arange(0.05, 0.5, 0.05)
    )
    assert best < 0.5


def test_every_background_varies_and_any_resolution_works():
    for name in BACKGROUNDS:
        first, second = (
            render_scene(name, np.random.default_rng(k), resolution=96)[0] for k in range(2)
        )
        assert first.shape == (96, 96, 3) and first.std() > 5
        assert (first != second).any(2).mean() > 0.5


def test_names_are_unique_and_pairs_differ_in_one_part():
    species = make_species(200, seed=3)
    names, birds = zip(*species, strict=True)
    assert len(set(names)) == len(set(birds)) == 200
    for first, second in zip(birds[::2], birds[1::2], strict=True):
        assert sum(asdict(first)[part] != asdict(second)[part] for part in asdict(first)) == 1
    assert make_species(7, seed=3) == species[:7]


@pytest.mark.slow
def test_dataset_is_deterministic_and_an_image_depends_only_on_its_own_key():
    small, again = (make_dataset(3, 2, 1, 1, seed=5) for _ in range(2))
    larger = make_dataset(5, 4, 2, 2, seed=5)
    assert all(small[split].to_list() == again[split].to_list() for split in small)
    for label in range(3):
        few, many = (class_images(dataset["train"], label) for dataset in (small, larger))
        assert len(few) == 2 and all(np.array_equal(a, b) for a, b in zip(few, many, strict=False))
    other = make_dataset(3, 2, 1, 1, seed=6)
    assert not np.array_equal(small["train"][0]["image"], other["train"][0]["image"])


@pytest.mark.slow
def test_tie_binds_the_background_in_train_only():
    dataset = make_dataset(4, 20, 20, 20, seed=0, tie=1.0)
    shares = {
        split: np.mean(np.array(data["background"]) == np.array(data["label"]))
        for split, data in dataset.items()
    }
    assert shares["train"] == 1.0
    assert shares["validation"] < 0.3 and shares["test"] < 0.3


def test_the_test_shows_landscapes_that_no_training_image_shows():
    def shown(split, **values):
        return set(
            make_dataset(2, 12, 12, 12, seed=3, resolution=32, **values)[split]["background"]
        )

    known = shown("train", train_backgrounds=3)
    assert len(known) == 3
    assert shown("test", train_backgrounds=3) | shown("validation", train_backgrounds=3) == {
        kind for kind in range(10) if kind not in known
    }
    assert shown("test") & known


def test_saved_folder_loads_with_all_splits_and_features(tmp_path):
    dataset = make_dataset(3, 3, 2, 1, seed=0)
    for copy in ("a", "b"):
        save_dataset(dataset, tmp_path / copy)
    loaded = load_dataset(str(tmp_path / "a"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(data) for split, data in loaded.items()} == {
        "train": 9,
        "validation": 6,
        "test": 3,
    }
    for split, data in loaded.items():
        assert data.features == dataset[split].features
        assert data["label"] == dataset[split]["label"]
        for column in ("image", "mask"):
            assert all(
                np.array_equal(a, b)
                for a, b in zip(pixels(data, column), pixels(dataset[split], column), strict=True)
            )
    assert loaded["train"][0]["mask"].mode == "L"
    assert set(np.unique(loaded["train"][0]["mask"])) == {0, 255}
    for path in sorted((tmp_path / "a").rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def make_birds(*arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return run_forked(["-m", "sgdmix_hub.demo.make_birds", *arguments], environment)


@pytest.mark.slow
def test_command_writes_once_and_refuses_other_settings(tmp_path):
    sizes = (
        "--num_species",
        2,
        "--train_per_class",
        1,
        "--validation_per_class",
        1,
        "--test_per_class",
        1,
    )
    folder = tmp_path / "birds"
    assert make_birds("--output_dir", folder, *sizes).returncode == 0
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = make_birds("--output_dir", folder, *sizes)
    assert again.returncode == 0 and "already" in again.stdout
    refused = make_birds("--output_dir", folder, *sizes, "--tie", 0.5)
    assert refused.returncode == 2
    assert "tie" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert written == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    for given in (["--tie", 2], ["--train_backgrounds", 10]):
        impossible = make_birds("--output_dir", tmp_path / "other", *given)
        assert impossible.returncode == 2 and not (tmp_path / "other").exists()


def test_every_word_is_one_token_and_any_text_can_be_spelled():
    tokenizer = build_tokenizer()
    assert all(len(tokenizer.tokenize(word)) == 1 for word in vocabulary())
    ids = tokenize(tokenizer, ["a photo of a <class_3> bird", "ÜñЖ☃ 鳥 🐦 42"])
    assert ids.shape == (2, tokenizer.model_max_length)
    assert all(
        (row == tokenizer.unk_token_id).sum() == (row == tokenizer.pad_token_id).sum()
        for row in ids
    )
    assert tokenizer.unk_token not in tokenizer.tokenize("ÜñЖ☃ 鳥 🐦 42")
    assert build_tokenizer().get_vocab() == tokenizer.get_vocab()


@pytest.fixture(scope="module")
def tiny_base():
    return StableDiffusionImg2ImgPipeline.from_pretrained(
        train_tiny_base.TINY_BASE, dtype=torch.float32, use_safetensors=True
    )


@pytest.mark.slow
def test_packaged_base_is_small_and_reconstructs_held_out_birds(tiny_base):
    assert (
        sum(path.stat().st_size for path in train_tiny_base.TINY_BASE.rglob("*") if path.is_file())
        <= 15e6
    )
    assert all(
        p.dtype == torch.float32
        for name in ("vae", "unet", "text_encoder")
        for p in getattr(tiny_base, name).parameters()
    )
    images = to_tensor(render_world(64, 0, HELD_OUT))
    with torch.inference_mode():
        decoded = tiny_base.vae.decode(tiny_base.vae.encode(images).latent_dist.mode()).sample
    assert psnr(images, decoded) >= 30.5


@pytest.mark.slow
def test_packaged_base_translates_images_and_follows_its_prompt(tiny_base):
    images = to_tensor(render_world(4, 2, HELD_OUT)) / 2 + 0.5
    tiny_base.set_progress_bar_config(disable=True)

    def translated(prompt):
        generators = [torch.Generator().manual_seed(row) for row in range(len(images))]
        settings = {
            "strength": 0.7,
            "num_inference_steps": 10,
            "guidance_scale": 3.0,
            "generator": generators,
            "output_type": "np",
        }
        return tiny_base([prompt] * len(images), image=images, **settings).images

    day, night = (
        translated("a photo of a red bird in the snow"),
        translated("a photo of a red bird at night"),
    )
    assert day.shape == (4, 64, 64, 3) and np.isfinite(day).all()
    assert day.mean() > night.mean() + 0.02


def test_a_stopped_stage_goes_on_to_the_same_weights(tmp_path):
    def stage_in(folder):
        torch.manual_seed(0)
        return Stage(
            "linear", torch.nn.Linear(3, 1), tmp_path / folder, CHECKPOINT_EVERY + 20, 1e-2, seed=0
        )

    def loss_until(stage, last_step):
        def loss_fn(step, generator):
            if step == last_step:
                raise KeyboardInterrupt
            return stage.module(torch.randn(4, 3, generator=generator)).square().mean()

        return loss_fn

    whole = stage_in("whole")
    whole.run(loss_until(whole, None))
    stopped = stage_in("stopped")
    with pytest.raises(KeyboardInterrupt):
        stopped.run(loss_until(stopped, CHECKPOINT_EVERY + 7))
    resumed = stage_in("stopped")
    assert resumed.step == CHECKPOINT_EVERY
    resumed.run(loss_until(resumed, None))
    expected, found = (
        load_file(tmp_path / name / "linear.safetensors") for name in ("whole", "stopped")
    )
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


@pytest.mark.slow
def test_all_stages_give_a_pipeline_that_loads(tmp_path, monkeypatch):
    for module, name in (
        (tiny_vae, "NUM_HELD_OUT"),
        (tiny_vae, "CROP_BATCH"),
        (tiny_vae, "FULL_BATCH"),
        (tiny_unet, "BATCH"),
    ):
        monkeypatch.setattr(module, name, 4)
    sizes = {"num_images": 40, "vae_steps": 2, "unet_steps": 2, "decoder_steps": 1, "device": "cpu"}
    folders = {"work_dir": tmp_path / "work", "output_dir": tmp_path / "base"}
    train_tiny_base.main(
        [word for name, value in (sizes | folders).items() for word in (f"--{name}", str(value))]
    )
    index = json.loads((tmp_path / "base" / "model_index.json").read_text())
    assert index["vae"] == ["diffusers", "AutoencoderKL"]
    assert index["requires_safety_checker"] is False
    StableDiffusionImg2ImgPipeline.from_pretrained(
        tmp_path / "base", dtype=torch.float32, use_safetensors=True
    )
