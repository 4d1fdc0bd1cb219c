"""Bases as a stranger could publish them, of every family: refused in one line, nothing is
unpickled or run, and no image is drawn with weights that no file held.
"""

import json
import re
import shutil

import pytest
import torch
from every_family import loaded_base, refiner
from safetensors.torch import load_file, save_file
from untrusted import refused

from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.bases.supported import check_supported

CODE = "from pathlib import Path\nPath('{ran}').touch()\nclass Evil: pass\n"


@pytest.fixture(scope="module")
def base(family, base_of):
    return base_of(family.name)


@pytest.fixture(scope="module")
def sharded(family, base, tmp_path_factory):
    """The base with its weights in many files."""
    folder = tmp_path_factory.mktemp("sharded") / "base"
    loaded = loaded_base(base)
    loaded.pipeline.save_pretrained(folder, safe_serialization=True, max_shard_size="10KB")
    return folder


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edited(base, folder, file, **values):
    copy = shutil.copytree(base, folder)
    edit(copy / file, **values)
    return copy


# ---- what model_index.json names ----


@pytest.mark.slow
@pytest.mark.parametrize("part", ["denoiser", "text_encoder", "tokenizer", "scheduler", "extra"])
def test_code_that_comes_with_a_base_is_not_run(part, family, base, tmp_path):
    part = family.denoiser if part == "denoiser" else part
    folder = edited(base, tmp_path / "base", "model_index.json", **{part: ["my_code", "Evil"]})
    (folder / part).mkdir(exist_ok=True)
    (folder / part / "my_code.py").write_text(CODE.format(ran=tmp_path / "ran"))
    assert "['my_code', 'Evil'] as its" in refused(refiner, folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "stated",
    [
        ["os", "system"],
        ["subprocess", "Popen"],
        ["transformers", "AutoModel"],
        ["transformers", "AutoTokenizer"],
        ["transformers", "../x"],
        ["transformers"],
        ["transformers", "CLIPTextModel", "x"],
        [["transformers"], {}],
        [None, "CLIPTextModel"],
        [],
    ],
)
def test_only_classes_of_diffusers_and_transformers_are_parts(stated, base_of, tmp_path):
    for name in ("stable-diffusion-xl", "z-image"):
        folder = edited(base_of(name), tmp_path / name, "model_index.json", text_encoder=stated)
        assert "no class of diffusers or transformers" in refused(
            check_supported, resolve(str(folder))
        )


@pytest.mark.slow
@pytest.mark.parametrize("part", ["denoiser", "text_encoder", "tokenizer", "vae"])
def test_a_part_that_is_none_or_of_another_class_is_refused(part, family, base, tmp_path):
    part = family.denoiser if part == "denoiser" else part
    stated = json.loads((base / "model_index.json").read_text())
    other = "vae" if part != "vae" else family.denoiser
    for number, value in enumerate(([None, None], stated[other], 5)):
        folder = edited(base, tmp_path / str(number), "model_index.json", **{part: value})
        refused(refiner, folder)


def test_the_tokenizer_of_an_encoder_that_was_left_out_may_stay(base_of, tmp_path):
    """As diffusers saves a pipeline that was loaded with `text_encoder_3=None`."""
    base = base_of("stable-diffusion-3")
    folder = edited(base, tmp_path / "base", "model_index.json", text_encoder_3=[None, None])
    assert check_supported(resolve(str(folder))).name == "stable-diffusion-3"


# ---- numbers in the configurations ----


@pytest.mark.parametrize("part", ["denoiser", "text_encoder"])
def test_a_network_without_end_is_refused(part, family, base, tmp_path):
    part = family.denoiser if part == "denoiser" else part
    for number, key in enumerate(("num_layers", "num_hidden_layers", "layers_per_block")):
        values = {key: 10**6}
        file = f"{part}/config.json"
        folder = edited(base, tmp_path / str(number), file, **values)
        assert f"states 1000000 as {key}" in refused(check_supported, resolve(str(folder)))
    blocks = edited(base, tmp_path / "b", f"{part}/config.json", layers_per_block=[[1, 10**6], 2])
    assert "layers_per_block" in refused(check_supported, resolve(str(blocks)))
    nested = edited(base, tmp_path / "n", f"{part}/config.json", text_config={"n_layers": 10**6})
    assert "states 1000000 as n_layers" in refused(check_supported, resolve(str(nested)))


SCALES = {
    "qwen-image": [{"latents_std": [0.0] * 4}, {"latents_mean": "x"}],
    "flux-2-klein": [{"batch_norm_eps": "x"}, {"batch_norm_eps": -1e9}],
}


@pytest.mark.slow
def test_an_autoencoder_that_scales_latents_to_nothing_is_refused(family, base, tmp_path):
    usual = [{"scaling_factor": value} for value in ("x", 0, float("nan"), None)]
    for number, values in enumerate(SCALES.get(family.name, usual)):
        folder = edited(base, tmp_path / str(number), "vae/config.json", **values)
        assert "vae/config.json of the base model" in refused(refiner, folder)


UNET_SCHEDULES = [
    {"timestep_spacing": "evil"},
    {"beta_schedule": "evil"},
    {"beta_start": float("nan")},
    {"trained_betas": "x"},
]
FLOW_SCHEDULES = [
    {"shift": -1.0, "use_dynamic_shifting": False},
    {"shift": "x", "use_dynamic_shifting": False},
    {"shift_terminal": "x"},
    {"shift_terminal": 5.0},
    {"use_dynamic_shifting": True, "time_shift_type": "evil"},
]


@pytest.mark.slow
def test_a_schedule_that_makes_no_steps_or_no_noise_levels_is_refused(family, base, tmp_path):
    flow = family.denoiser == "transformer"
    for number, values in enumerate(FLOW_SCHEDULES if flow else UNET_SCHEDULES):
        file = "scheduler/scheduler_config.json"
        folder = edited(base, tmp_path / str(number), file, **values)
        line = refused(refiner, folder)
        assert re.search("sampler|noise levels|cannot load the base model", line), values


# ---- weights ----


@pytest.mark.slow
@pytest.mark.parametrize("part", ["denoiser", "text_encoder", "vae"])
def test_weights_under_other_names_are_missing_weights(part, family, base, tmp_path):
    """As many as are needed, so a count would not tell; the libraries draw them at random."""
    part = family.denoiser if part == "denoiser" else part
    (file,) = (base / part).glob("*.safetensors")
    weights = load_file(file)
    largest = max(filter(is_weight, weights), key=lambda name: weights[name].numel())
    renamed = {("x." + name if name == largest else name): v for name, v in weights.items()}
    folder = shutil.copytree(base, tmp_path / "base")
    save_file(renamed, folder / part / file.name, metadata={"format": "pt"})
    assert "is incomplete" in refused(refiner, folder)


def is_weight(name):
    """Not a buffer, which is computed where no file holds it (SD 3's positions)."""
    return name.endswith(".weight")


def shard_of(folder, part):
    """The list of a network's files, and one of them with weights."""
    (index,) = (folder / part).glob("*.index.json")
    listed = json.loads(index.read_text())["weight_map"]
    return index, folder / part / listed[max(filter(is_weight, listed))]


def relist(index, shard, name):
    """Lists another file in the place of a shard."""
    listed = json.loads(index.read_text())
    listed["weight_map"] = {
        weight: name if file == shard.name else file
        for weight, file in listed["weight_map"].items()
    }
    index.write_text(json.dumps(listed))


@pytest.mark.slow
@pytest.mark.parametrize("part", ["denoiser", "text_encoder"])
def test_a_shard_without_what_its_list_says_is_refused(part, family, sharded, tmp_path):
    folder = shutil.copytree(sharded, tmp_path / "base")
    part = family.denoiser if part == "denoiser" else part
    _, shard = shard_of(folder, part)
    save_file({"of_nothing": torch.zeros(1)}, shard, metadata={"format": "pt"})
    assert "is incomplete" in refused(refiner, folder)
    shard.unlink()
    refused(refiner, folder)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["denoiser", "text_encoder"])
def test_a_list_of_shards_names_no_pickle_and_no_file_elsewhere(part, family, sharded, tmp_path):
    """diffusers and transformers would unpickle what is not called .safetensors."""
    part = family.denoiser if part == "denoiser" else part
    for number, name in enumerate(("w.bin", "w.pt", "../../w.safetensors", "/w.safetensors", 5)):
        folder = shutil.copytree(sharded, tmp_path / str(number))
        index, shard = shard_of(folder, part)
        torch.save(load_file(shard), folder / part / "w.bin")
        torch.save(load_file(shard), folder / part / "w.pt")
        shutil.copy(shard, folder.parent / "w.safetensors")
        relist(index, shard, name)
        assert "lists no shards" in refused(refiner, folder)


@pytest.mark.slow
def test_what_is_refused_here_is_drawn_as_it_was(family, sharded):
    """The shards as they were are a base, and so is one that states more parts than it needs."""
    edit(sharded / "model_index.json", image_encoder=[None, None], of_none=None)
    refiner(sharded)
