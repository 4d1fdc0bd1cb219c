"""Learned tokens in the output of a text encoder: `token_place: output`."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from every_family import (
    BATCH,
    GEOMETRY,
    SIZE,
    adapted,
    loaded_base,
    loss_of,
    predictions_of_both,
    refined,
    refiner,
    samples,
)
from pictures import boxed_foregrounds, difference, noisy_images
from safetensors.torch import load_file, save_file
from trainings import adapter_settings, train

from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.adapters import FACTS_FILE, TOKENS_FILE, load_into, read_adapter
from sgdmix_hub.models.bases.families import BY_NAME, FAMILIES
from sgdmix_hub.models.prompts import RowPrompt
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.training.adapter.known_prompts import KnownPrompts, rms
from sgdmix_hub.training.adapter.loop import build_optimizer

NAMES = [family.name for family in FAMILIES if all(one.outputs for one in family.encoders)]
OTHERS = [family.name for family in FAMILIES if family.name not in NAMES]


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def base(name, base_of):
    return base_of(name)


@pytest.fixture(scope="module")
def adapter(base, birds, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    settings = adapter_settings(birds, base, folder, num_vectors=2, num_train_samples=4)
    rates = {"learning_rate": 0.05, "token_learning_rate": 0.02}
    return train(settings | rates | {"token_place": "output"})


def outputs_of(name):
    (encoder,) = BY_NAME[name].encoders
    return encoder


def test_there_are_families_with_and_without():
    assert NAMES == ["z-image", "flux-2-klein", "qwen-image"] and len(OTHERS) == 4


# ---- training ----


def test_no_weight_of_the_text_encoder_is_left_in_a_training(name, base):
    loaded, model, _ = adapted(base, num_vectors=2, token_place="output")
    encoder = outputs_of(name)
    known = loaded.network(encoder)
    assert isinstance(known, KnownPrompts) and list(model.text_encoders) == [known]
    assert [key for key, _ in model.text_encoders.named_parameters()] == ["0.learned"]
    (rows,) = model.learned().values()
    assert rows.shape == (3 * 2, len(encoder.outputs) * 16) and rows.dtype == torch.float32


@pytest.mark.slow
def test_before_a_training_it_is_the_base_with_the_metaclass_in_the_tokens_place(name, base):
    """The learned rows begin as what the encoder says of the placeholder."""
    outcomes = []
    for place in (None, "output"):
        loaded, model, prompts = adapted(base, num_vectors=2, token_place=place)
        latents, _, timesteps = samples(loaded)
        time = BY_NAME[name].noising(loaded.pipeline.scheduler.config).told(timesteps)
        with torch.no_grad():
            for labels in ([2, 0], [-1, -1]):
                outcomes.append(model(latents, time, [ids[labels] for ids in prompts], GEOMETRY))
    for in_input, in_output in zip(outcomes[:2], outcomes[2:], strict=True):
        torch.testing.assert_close(in_output, in_input, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_training_sees_what_a_generation_with_its_tokens_sees(name, base):
    family = BY_NAME[name]
    found, expected, other, tensors = predictions_of_both(family, base, token_place="output")
    assert family.fault_of_tokens(tensors, 3) is None
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (other - found).abs().max() > 1e-4


@pytest.mark.slow
def test_the_first_step_changes_rows_by_the_same_share_in_input_and_output(name, base):
    """AdamW's first step is the rate, in every number."""
    shares = []
    for place in (None, "output"):
        loaded, model, prompts = adapted(base, token_place=place)
        (rows,) = model.learned().values()
        before = rows.detach().clone()
        optimizer = build_optimizer(
            AdapterSettings(**adapter_settings("unused", base, "unused", token_learning_rate=1e-3)),
            model,
        )
        noising = BY_NAME[name].noising(loaded.pipeline.scheduler.config)
        loss_of(loaded, model, prompts, [0, 2], noising)[1].backward()
        optimizer.step()
        shares.append(rms(rows.detach()[0] - before[0]) / rms(before[0]))
    assert shares[1] == pytest.approx(shares[0], rel=0.05)
    assert shares[0] > 0


@pytest.mark.slow
def test_training_lowers_the_loss_and_moves_the_tokens_of_its_classes_alone(name, base):
    loaded, model, prompts = adapted(base, num_vectors=2, token_place="output", rank=4)
    noising = BY_NAME[name].noising(loaded.pipeline.scheduler.config)
    (rows,) = model.learned().values()
    before, losses = rows.detach().clone(), []
    optimizer = torch.optim.AdamW(model.trained().values(), lr=0.02, weight_decay=0)
    for _ in range(10):
        _, loss = loss_of(loaded, model, prompts, [0, 2], noising)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.99 * losses[0]
    moved = (rows - before).abs().amax(dim=1) > 0
    assert moved.tolist() == [True, True, False, False, True, True]


@pytest.mark.slow
def test_a_prompt_that_was_not_asked_is_refused(name, base):
    loaded, _, prompts = adapted(base, token_place="output")
    encoder = outputs_of(name)
    text = encoder.text(loaded.tokenizer(encoder), "a photo of a cat")
    tokens = loaded.tokenizer(encoder)(text, return_tensors="pt")
    with pytest.raises(ValueError, match="was not asked this prompt"):
        loaded.network(encoder)(tokens.input_ids, tokens.attention_mask)


# ---- files, and who loads them ----


@pytest.mark.slow
def test_the_file_holds_the_rows_and_the_placeholder(name, base, adapter):
    encoder, tokens = outputs_of(name), load_file(adapter / TOKENS_FILE)
    layers = len(encoder.outputs)
    assert {key: tuple(value.shape) for key, value in tokens.items()} == {
        f"{encoder.key}.output": (4 * 2, layers * 16),
        f"{encoder.key}.placeholder": (16,),
    }
    assert json.loads((adapter / FACTS_FILE).read_text())["settings"]["token_place"] == "output"


@pytest.mark.slow
def test_every_class_has_images_of_its_own_and_its_prompts_are_kept(name, base, adapter):
    images, nowhere = noisy_images(BATCH, SIZE), boxed_foregrounds(BATCH, SIZE)
    ours = refiner(base, adapter)
    made = [
        refined(ours, images, nowhere, [RowPrompt(ours.adapter.prompt(label))] * BATCH, strength=1)
        for label in (0, 2)
    ]
    assert difference(*made)[1] > 0.01  # random weights; equal images give exactly 0
    asked = []
    network = getattr(ours.pipeline, outputs_of(name).model)
    network.base_model.register_forward_hook(lambda *_: asked.append(1))
    refined(ours, images, nowhere, [RowPrompt(ours.adapter.prompt(2))] * BATCH, strength=1)
    assert not asked


@pytest.mark.slow
def test_the_cards_snippet_loads_it_in_stock_diffusers(name, base, adapter, tmp_path, monkeypatch):
    family = BY_NAME[name]
    code = (adapter / "README.md").read_text().split("```python\n")[1].split("```")[0]
    shutil.copytree(adapter, tmp_path / re.search(r'adapter = "([^"]*)"', code)[1])
    shutil.copytree(base, tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    loading, drawing = code.strip().rsplit("\n", 1)
    space = {}
    exec(loading, space)
    prompt = json.loads(re.match(r'image = pipeline\(("[^"]*")', drawing)[1])
    loaded = loaded_base(base)
    load_into(loaded, read_adapter(resolve(str(adapter))))
    ours = family.call_text(loaded.pipeline, "a photo of a <class_0> bird")
    assert prompt == ours
    drawn = []
    for one in (space["pipeline"], loaded.pipeline):
        one.set_progress_bar_config(disable=True)
        for text in (prompt, prompt.replace("class_0", "class_3")):
            drawn.append(
                one(
                    prompt=text,
                    num_inference_steps=2,
                    height=SIZE,
                    width=SIZE,
                    output_type="np",
                    generator=torch.Generator().manual_seed(5),
                ).images
            )
    assert np.array_equal(drawn[0], drawn[2]) and np.array_equal(drawn[1], drawn[3])
    assert not np.array_equal(drawn[0], drawn[1])


# ---- what is refused ----


@pytest.mark.parametrize("other", OTHERS)
def test_families_with_other_encoders_refuse_it_in_a_line(other):
    family = BY_NAME[other]
    with pytest.raises(UserError, match=f"this one is of {re.escape(family.title)}: leave it out"):
        family.check_tokens("output")
    family.check_tokens(None)


@pytest.mark.parametrize("good", NAMES)
def test_families_with_a_language_model_take_it(good):
    BY_NAME[good].check_tokens("output")


def test_it_needs_learned_tokens():
    settings = adapter_settings("birds", "base", "out", num_vectors=0, token_place="output")
    with pytest.raises(UserError, match="token_place says where learned tokens are"):
        AdapterSettings(**settings).validate()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tokens, key: tokens.pop(f"{key}.placeholder"), "no learned tokens .*placeholder"),
        (lambda tokens, key: tokens.update({f"{key}.output": torch.ones(3, 8)}), "of 4 classes"),
        (
            lambda tokens, key: tokens.update({f"{key}.placeholder": torch.ones(7)}),
            "of another width",
        ),
        (
            lambda tokens, key: tokens.update(
                {
                    f"{key}.placeholder": torch.ones(8),
                    f"{key}.output": torch.ones(8, 8 * tokens[f"{key}.output"].shape[1] // 16),
                }
            ),
            "does not fit the base model",
        ),
    ],
    ids=["no placeholder", "other classes", "other width", "another base"],
)
def test_a_file_that_does_not_fit_is_refused_in_a_line(change, said, name, base, adapter, tmp_path):
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    tokens = load_file(folder / TOKENS_FILE)
    change(tokens, outputs_of(name).key)
    save_file(tokens, folder / TOKENS_FILE)
    loaded = loaded_base(base)
    with pytest.raises(UserError, match=said):
        load_into(loaded, read_adapter(resolve(str(folder))))
