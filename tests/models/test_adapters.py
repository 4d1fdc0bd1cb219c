"""Adapters: what stock diffusers makes of the folder, what was learned and what was not touched."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from stock import load_pipeline, refined_by, stock_images
from trainings import adapter_settings, train
from transformers import CLIPTextModel, CLIPTokenizer

from sgdmix_hub.data.splits import DataSettings, load_split, subset_record
from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.adapters import (
    FACTS_FILE,
    LORA_DESCRIPTION,
    LORA_FILE,
    TOKENS_FILE,
    read_adapter,
)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)


@pytest.fixture
def copied(adapter, tmp_path):
    """A copy of the adapter, to be broken."""
    return shutil.copytree(adapter, tmp_path / "adapter")


def describe(folder, weights=None, **values):
    """Rewrites an adapter's LoRA file with other weights or other values in its description."""
    with safe_open(folder / LORA_FILE, "pt") as file:
        metadata = file.metadata()
    description = json.loads(metadata[LORA_DESCRIPTION]) | {
        f"unet.{name}": value for name, value in values.items()
    }
    weights = load_file(folder / LORA_FILE) if weights is None else weights
    save_file(
        weights, folder / LORA_FILE, metadata=metadata | {LORA_DESCRIPTION: json.dumps(description)}
    )


@pytest.fixture(scope="module")
def adapter_of_two_vectors(birds, tiny_base, tmp_path_factory):
    """An adapter with two learned tokens for each class."""
    output = tmp_path_factory.mktemp("models") / "two-vectors"
    return train(
        adapter_settings(birds, tiny_base, output, num_vectors=2, num_train_samples=6, lora_alpha=6)
    )


@pytest.mark.slow
@pytest.mark.parametrize("which", ["adapter", "adapter_of_two_vectors"])
def test_stock_diffusers_makes_the_same_images_in_another_process(
    which, tiny_base, images, tmp_path, request
):
    """Alpha is three times the rank here: were it lost on the way, the images would differ."""
    adapter = request.getfixturevalue(which)
    expected = refined_by(load_pipeline(tiny_base, adapter), images)
    assert np.array_equal(stock_images(tiny_base, adapter, images, tmp_path), expected)


@pytest.mark.slow
def test_alpha_and_both_files_matter(tiny_base, adapter, copied, images):
    whole = refined_by(load_pipeline(tiny_base, adapter), images)
    lora = load_file(copied / LORA_FILE)
    describe(copied, lora_alpha=4)
    without_alpha = refined_by(load_pipeline(tiny_base, copied), images)
    describe(copied, {name: torch.zeros_like(value) for name, value in lora.items()})
    without_lora = refined_by(load_pipeline(tiny_base, copied), images)
    shutil.copy(adapter / LORA_FILE, copied / LORA_FILE)
    tokens = load_file(copied / TOKENS_FILE)
    save_file(
        {name: torch.zeros_like(value) for name, value in tokens.items()},
        copied / TOKENS_FILE,
        metadata={"format": "pt"},
    )
    without_tokens = refined_by(load_pipeline(tiny_base, copied), images)
    outcomes = [whole, without_alpha, without_lora, without_tokens]
    for index, first in enumerate(outcomes):
        for second in outcomes[:index]:
            assert np.abs(first - second).max() > 1e-3


def test_the_bases_own_words_keep_their_bits(tiny_base, adapter):
    before = CLIPTextModel.from_pretrained(tiny_base / "text_encoder").get_input_embeddings().weight
    pipeline = load_pipeline(tiny_base, adapter)
    after = pipeline.text_encoder.get_input_embeddings().weight
    assert torch.equal(after[: len(before)], before)
    tokens = load_file(adapter / TOKENS_FILE)
    assert len(after) == len(before) + len(tokens)
    for name, row in tokens.items():
        assert torch.equal(after[pipeline.tokenizer.convert_tokens_to_ids(name)], row)


def test_learned_rows_began_as_the_metaclass_and_moved_apart(tiny_base, adapter):
    tokenizer = CLIPTokenizer.from_pretrained(tiny_base / "tokenizer")
    (bird,) = tokenizer("bird", add_special_tokens=False).input_ids
    start = (
        CLIPTextModel.from_pretrained(tiny_base / "text_encoder")
        .get_input_embeddings()
        .weight[bird]
    )
    tokens = load_file(adapter / TOKENS_FILE)
    assert list(tokens) == [f"<class_{label}>" for label in range(4)]
    moved = {name: (row - start).abs().max().item() for name, row in tokens.items()}
    # Two batches of two show at most four classes: Adam moves a row that was shown by about its
    # rate a step, no other one.
    assert any(distance > 0.02 for distance in moved.values())
    assert all(distance < 0.2 for distance in moved.values())
    assert len({tuple(row.tolist()) for row in tokens.values()}) > 1


@pytest.mark.slow
def test_several_vectors_of_a_class_all_matter(tiny_base, adapter_of_two_vectors, images, tmp_path):
    """They moved apart in training, and an image changes with each of them."""
    copied = shutil.copytree(adapter_of_two_vectors, tmp_path / "adapter")
    whole = refined_by(load_pipeline(tiny_base, copied), images)
    tokens = load_file(copied / TOKENS_FILE)
    assert {tuple(rows.shape) for rows in tokens.values()} == {(2, 32)}
    for vector in range(2):
        changed = {name: rows.clone() for name, rows in tokens.items()}
        changed["<class_2>"][vector] = 0
        save_file(changed, copied / TOKENS_FILE, metadata={"format": "pt"})
        assert np.abs(refined_by(load_pipeline(tiny_base, copied), images) - whole).max() > 1e-3


def test_lora_is_where_it_belongs_with_its_alpha(adapter):
    with safe_open(adapter / LORA_FILE, "pt") as file:
        names, metadata = list(file.keys()), file.metadata()
    assert all(
        re.fullmatch(r"unet\..+\.attn[12]\..*(to_q|to_k|to_v|to_out).*\.weight", name)
        for name in names
    )
    described = json.dumps(metadata)
    assert "lora_alpha" in described and "12" in described
    assert (
        max(
            value.abs().max().item()
            for name, value in load_file(adapter / LORA_FILE).items()
            if "lora_B" in name or ".up." in name
        )
        > 0
    )


def test_adapter_json_tells_what_the_adapter_is(adapter, tiny_base, birds, class_names):
    facts = json.loads((adapter / FACTS_FILE).read_text())
    chosen = DataSettings(dataset_name=str(birds), output_dir="unused")
    assert facts["class_names"] == class_names
    assert facts["tokens"] == [f"<class_{label}>" for label in range(4)]
    assert facts["base"] == str(resolve(str(tiny_base)))
    assert facts["subset"] == subset_record(
        chosen, load_split(chosen, resolve(chosen.dataset_name, repo_type="dataset"))
    )
    assert (facts["settings"]["rank"], facts["settings"]["lora_alpha"]) == (4, 12)
    assert str(birds.parent) not in json.dumps(facts)
    assert str(tiny_base.parent) not in json.dumps(facts)
    assert read_adapter(resolve(str(adapter))).prompt(3) == "a photo of a <class_3> bird"


@pytest.mark.parametrize("name", [LORA_FILE, TOKENS_FILE, FACTS_FILE])
def test_a_missing_file_is_named(copied, name):
    (copied / name).unlink()
    with pytest.raises(UserError, match=name):
        read_adapter(resolve(str(copied)))


@pytest.mark.parametrize("content", ['{"format": 99}', "{}", "[]", "", "{", "null"])
def test_another_format_is_refused(copied, content):
    (copied / FACTS_FILE).write_text(content)
    with pytest.raises(UserError, match="adapter"):
        read_adapter(resolve(str(copied)))


@pytest.mark.parametrize("name", [LORA_FILE, TOKENS_FILE])
def test_a_truncated_file_is_refused(tiny_base, copied, name):
    (copied / name).write_bytes((copied / name).read_bytes()[:-100])
    with pytest.raises(UserError, match="adapter"):
        load_pipeline(tiny_base, copied)


def test_an_adapter_of_another_base_is_refused(tiny_base, copied):
    save_file(
        {name: row[:16].clone() for name, row in load_file(copied / TOKENS_FILE).items()},
        copied / TOKENS_FILE,
    )
    with pytest.raises(UserError, match="does not fit"):
        load_pipeline(tiny_base, copied)


def test_lora_of_another_width_is_refused(tiny_base, copied):
    describe(
        copied,
        {
            name: value[..., : value.shape[-1] // 2].clone()
            for name, value in load_file(copied / LORA_FILE).items()
        },
    )
    with pytest.raises(UserError, match="does not fit"):
        load_pipeline(tiny_base, copied)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("target_modules", r"(\w+\.?)+\.(\w+\.?)+X"),  # a pattern that peft would try for years
        ("target_modules", ["to_q"]),
        ("rank_pattern", {"(a+)+": 3}),
        ("r", 10**6),  # sizes of what is allocated before the weights are looked at
        ("r", True),
        ("lora_alpha", "12"),
        ("lora_alpha", 1e30),
        ("init_lora_weights", "pissa"),
        ("megatron_config", {"x": 1}),
        ("use_dora", True),
        ("of_a_later_peft", 1),
    ],
)
def test_a_lora_file_that_asks_peft_for_more_than_a_training_here_is_refused(
    name, value, tiny_base, copied
):
    describe(copied, **{name: value})
    with pytest.raises(
        UserError,
        match=f"{LORA_FILE} of the adapter was not written by sgdmix train-adapter.* {name}",
    ):
        load_pipeline(tiny_base, copied)


@pytest.mark.parametrize("description", [None, "{", "[]", "{}"])
def test_a_lora_file_that_does_not_say_what_it_is_is_refused(description, tiny_base, copied):
    metadata = {"format": "pt"} | ({} if description is None else {LORA_DESCRIPTION: description})
    save_file(load_file(copied / LORA_FILE), copied / LORA_FILE, metadata=metadata)
    with pytest.raises(UserError, match="was not written by sgdmix train-adapter"):
        load_pipeline(tiny_base, copied)


@pytest.mark.parametrize(
    ("changed", "held"),
    [
        (lambda lora: {}, "0 of 64 LoRA weights, and 0 of other names"),
        (lambda lora: dict(list(lora.items())[:4]), "4 of 64 LoRA weights, and 0 of other names"),
        (
            lambda lora: {name.replace("attn1", "attn9"): value for name, value in lora.items()},
            "32 of 64 LoRA weights, and 32 of other",
        ),
    ],
)
def test_lora_weights_that_diffusers_would_pass_over_are_refused(changed, held, tiny_base, copied):
    """Images would be made with half an adapter, or none, without a word."""
    describe(copied, changed(load_file(copied / LORA_FILE)))
    with pytest.raises(UserError, match=held):
        load_pipeline(tiny_base, copied)


def test_a_base_that_was_adapted_before_is_refused(tiny_base, adapter, tmp_path):
    """Its words would be overwritten, or the new ones lost."""
    base = shutil.copytree(tiny_base, tmp_path / "base")
    tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer")
    tokenizer.add_tokens(["<class_0>"])
    tokenizer.save_pretrained(base / "tokenizer")
    with pytest.raises(UserError, match="does not fit"):
        load_pipeline(base, adapter)
