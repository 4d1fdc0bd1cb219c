"""Adapters as a stranger could publish them, ours and foreign ones: refused in one line."""

import json
import re
import shutil

import pytest
import torch
from every_family import adapted, loaded_base
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from untrusted import COMMIT, refused

from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.adapters import (
    FACTS_FILE,
    LORA_FILE,
    TOKENS_FILE,
    load_into,
    read_adapter,
    save_adapter,
)
from sgdmix_hub.models.bases.families import BY_NAME
from sgdmix_hub.models.foreign import ForeignAdapter, merge_foreign
from sgdmix_hub.settings.prompts import MOST_VECTORS

FACTS = {
    "class_names": ["tern", "kite", "wren"],
    "tokens": [f"<class_{label}>" for label in range(3)],
    "metaclass": "bird",
    "prompt_template": "a photo of a {token} {metaclass}",
    "base": f"org/base@{COMMIT}",
    "subset": {
        "dataset": f"org/birds@{COMMIT}",
        "dataset_config_name": None,
        "dataset_split": "train",
    },
}


@pytest.fixture(scope="module")
def base(family, base_of):
    return base_of(family.name)


@pytest.fixture(scope="module")
def honest(family, base, tmp_path_factory):
    """An adapter of the base with random weights, two vectors a class."""
    _, model, _ = adapted(base, num_vectors=2)
    with torch.no_grad():
        for parameter in model.lora().values():
            parameter.normal_(std=0.02)
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    save_adapter(folder, family, model.denoiser, model.token_tensors(), 2, FACTS)
    return folder


def changed(honest, folder, file, change):
    copy = shutil.copytree(honest, folder)
    with safe_open(copy / file, "pt") as opened:
        metadata = opened.metadata()
    weights = change(load_file(copy / file))
    weights = {name: value.contiguous() for name, value in weights.items()}
    save_file(weights, copy / file, metadata=metadata)
    return copy


def load(base, folder):
    load_into(loaded_base(base), read_adapter(resolve(str(folder))))


def of_every(change):
    return lambda weights: {name: change(value) for name, value in weights.items()}


TOKENS = {
    "not a number": (of_every(lambda v: v * float("nan")), "that are not finite"),
    "endless": (of_every(lambda v: v * float("inf")), "that are not finite"),
    "whole numbers": (of_every(torch.Tensor.int), "as int32"),
    "complex": (of_every(lambda v: v.to(torch.complex64)), "as complex64"),
    "one number a row": (of_every(lambda v: v[..., :1]), "of width 1, for a text encoder of width"),
    "no number a row": (of_every(lambda v: v[..., :0]), "of width 0, for a text encoder of width"),
    "narrow": (of_every(lambda v: v[..., : v.shape[-1] // 2]), "for a text encoder of width"),
    "wide": (of_every(lambda v: torch.cat([v, v], -1)), "for a text encoder of width"),
    "a list of lists": (of_every(lambda v: v[None]), "has no tokens of 3 classes"),
    "no row": (of_every(lambda v: v[:0]), "has no tokens of 3 classes"),
    "one number": (of_every(torch.sum), "has no tokens of 3 classes"),
    "without end": (of_every(lambda v: v.repeat(1000, 1)), f"at most {MOST_VECTORS} are taken"),
    "others besides": (
        lambda w: w | {"t9": next(iter(w.values())).clone()},
        "has learned tokens (t9|besides)",
    ),
    "others": (lambda w: {"x": torch.ones(6, 16)}, "has (no )?learned tokens?"),
}


@pytest.mark.slow
@pytest.mark.parametrize("attack", TOKENS)
def test_tokens_that_are_not_of_this_base_and_these_classes(attack, family, base, honest, tmp_path):
    change, said = TOKENS[attack]
    folder = changed(honest, tmp_path / "adapter", TOKENS_FILE, change)
    line = refused(load, base, folder)
    assert re.search(said, line), line


@pytest.mark.slow
def test_lora_weights_that_are_no_numbers_or_of_another_rank(family, base, honest, tmp_path):
    up = f"{family.lora_halves[1]}.weight"
    for number, (change, said) in enumerate(
        (
            (of_every(lambda v: v * float("nan")), "that are not finite"),
            (of_every(lambda v: v.to(torch.complex64)), "as complex64"),
            (
                # sizes that no byte stands for
                lambda w: {
                    name: torch.zeros(0, 10**9) if name.endswith(up) else value
                    for name, value in w.items()
                },
                "does not fit",
            ),
            (
                lambda w: {
                    name: torch.cat([v, v], 1 if name.endswith(up) else 0) for name, v in w.items()
                },
                "does not fit",
            ),
        )
    ):
        folder = changed(honest, tmp_path / str(number), LORA_FILE, change)
        assert said in refused(load, base, folder)


@pytest.mark.parametrize("values", [{"class_names": []}, {"family": ["flux"]}, {"family": None}])
def test_facts_that_no_training_writes(values, base_of, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / FACTS_FILE).write_text(json.dumps({"format": 1, "family": "flux"} | FACTS | values))
    for name in (LORA_FILE, TOKENS_FILE):
        save_file({"x": torch.zeros(1)}, folder / name)
    assert FACTS_FILE in refused(read_adapter, resolve(str(folder)))


# ---- files of others ----


@pytest.fixture(scope="module")
def foreign(family, honest):
    """The LoRA's weights, and its first and second halves' ends."""
    return load_file(honest / LORA_FILE), *(f"{half}.weight" for half in family.lora_halves)


def merge(base, weights, folder):
    path = folder / "lora.safetensors"
    save_file({name: value.contiguous().clone() for name, value in weights.items()}, path)
    merge_foreign(loaded_base(base), ForeignAdapter("x", path, ()))


def halves(weights, up, change_up=lambda v: v, change_down=lambda v: v):
    return {
        name: change_up(value) if name.endswith(up) else change_down(value)
        for name, value in weights.items()
    }


@pytest.mark.slow
def test_foreign_files_with_other_shapes_and_values(family, base, foreign, tmp_path):
    weights, _, up = foreign
    layer = max(weights).split(".lora")[0]
    merge(base, weights, tmp_path)
    attacks = {
        "a rank without bytes": halves(
            weights, up, lambda v: torch.zeros(0, 10**9), lambda v: torch.zeros(10**9, 0)
        ),
        "a rank without bytes, beside true halves": halves(
            weights, up, lambda v: torch.zeros(0, 10**9)
        ),
        "no rank": halves(weights, up, lambda v: v[:, :0], lambda v: v[:0]),
        "second halves of twice the rank": halves(weights, up, lambda v: torch.cat([v, v], 1)),
        "second halves alone": {n: v for n, v in weights.items() if n.endswith(up)},
        "first halves alone": {n: v for n, v in weights.items() if not n.endswith(up)},
        "numbers": halves(weights, up, torch.sum, torch.sum),
        "not numbers": halves(weights, up, lambda v: v * float("nan")),
        "endless in one layer": weights | {max(weights): weights[max(weights)] * float("inf")},
        "complex": halves(weights, up, *[lambda v: v.to(torch.complex64)] * 2),
        "a rank of 10,000": halves(
            weights,
            up,
            lambda v: v[:, :1].expand(-1, 10**4),
            lambda v: v[:1].expand(10**4, *v.shape[1:]),
        ),
        "an alpha that is no number": weights | {f"{layer}.alpha": torch.tensor(float("nan"))},
        "an endless alpha": weights | {f"{layer}.alpha": torch.tensor(1e30)},
        "two alphas": weights | {f"{layer}.alpha": torch.ones(2)},
        "a layer of the autoencoder": weights
        | {f"vae.decoder.conv_in.lora_{half}.weight": torch.ones(2, 2) for half in "AB"},
        "a pattern": weights
        | {f"{family.denoiser}.(a+)+.lora_{half}.weight": torch.ones(2, 2) for half in "AB"},
        "the whole network": weights
        | {f"{family.denoiser}..lora_{half}.weight": torch.ones(2, 2) for half in "AB"},
        "control characters": {f"{name}\x1b[2J": value for name, value in weights.items()},
    }
    for attack, changed_weights in attacks.items():
        line = refused(merge, base, changed_weights, tmp_path)
        assert "x: lora.safetensors" in line, attack


@pytest.mark.slow
def test_what_one_half_stands_for_is_not_drawn_at_random(base_of, tmp_path):
    """peft draws a first half that no file holds."""
    loaded = loaded_base(base_of("z-image"))
    layer = "layers.0.attention.to_q"
    ups = {f"transformer.{layer}.lora_B.weight": torch.ones(32, 2)}
    before = loaded.denoiser.get_submodule(layer).weight.clone()
    path = tmp_path / "lora.safetensors"
    save_file(ups, path)
    assert "has one half or two ranks for the layer" in refused(
        merge_foreign, loaded, ForeignAdapter("x", path, ())
    )
    assert torch.equal(loaded.denoiser.get_submodule(layer).weight, before)


@pytest.mark.slow
def test_a_lora_of_another_family_is_refused(family, base, foreign, base_of, tmp_path):
    for other in BY_NAME.values():
        if other.name != family.name:
            line = refused(merge, base_of(other.name), foreign[0], tmp_path)
            assert "x: lora.safetensors" in line, other.name
