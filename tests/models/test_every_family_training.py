"""Every family of base models in a training: what learns, the files, and who loads them."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from every_family import (
    BATCH,
    FLOW,
    SIZE,
    adapted,
    loss_of,
    predictions_of_both,
    refined,
    refiner,
)
from pictures import boxed_foregrounds, noisy_images
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from trainings import adapter_settings, train, weights

from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.adapters import FACTS_FILE, LORA_FILE, TOKENS_FILE, load_into, read_adapter
from sgdmix_hub.models.bases.families import BY_NAME, FAMILIES
from sgdmix_hub.models.bases.loading import load_base
from sgdmix_hub.models.prompts import RowPrompt


@pytest.fixture(scope="module")
def base(family, base_of):
    return base_of(family.name)


@pytest.fixture(scope="module")
def adapter(family, adapter_of):
    return adapter_of(family.name)


@pytest.fixture(scope="module")
def images():
    return noisy_images(BATCH, SIZE)


@pytest.fixture(scope="module")
def foregrounds():
    return boxed_foregrounds(BATCH, SIZE)


# ---- training ----


@pytest.mark.slow
def test_a_training_sees_what_a_generation_with_its_tokens_sees(family, base):
    """Both vectors of a class, by stock's encoding of the prompt."""
    found, expected, other, _ = predictions_of_both(family, base)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (other - found).abs().max() > 1e-4


@pytest.mark.slow
def test_tokens_of_all_encoders_and_lora_learn_and_nothing_else_does(family, base):
    loaded, model, prompts = adapted(base, num_vectors=2)
    trained = model.trained()
    assert {id(p) for p in trained.values()} == {
        id(p) for p in model.parameters() if p.requires_grad
    }
    noising = family.noising(loaded.pipeline.scheduler.config)
    loss_of(loaded, model, prompts, [0, 2], noising)[1].backward()
    for encoder in loaded.encoders:
        moved = trained[f"tokens.{encoder.key}"].grad.abs().amax(dim=1) > 0
        # a pooled output may read the last of a class's tokens, or the first
        assert not moved[2:4].any() and moved[:2].any() and moved[4:].any()
    assert all(
        parameter.grad is not None and parameter.grad.abs().max() > 0
        for name, parameter in trained.items()
        if ".lora_B." in name and not unused(name)
    )


def unused(name):
    """Whether a layer's output may be thrown away: the text's in the last block of transformers."""
    return ".to_add_out." in name or ".add_q_proj." in name


def test_a_weighting_of_another_family_is_refused(family):
    wrong = {"snr_gamma": 5.0} if family.name in FLOW else {"weighting_scheme": "mode"}
    with pytest.raises(UserError, match=f"this one is of {re.escape(family.title)}"):
        family.check_loss(**{"snr_gamma": None, "weighting_scheme": None} | wrong)
    family.check_loss(None, None)


# ---- files ----


@pytest.mark.slow
def test_the_lora_file_has_the_names_that_stock_writes(family, adapter):
    layers = "|".join(map(re.escape, family.lora_targets))
    halves = "|".join(map(re.escape, family.lora_halves))
    pattern = rf"{family.denoiser}\..+\.({layers})\.({halves})\.weight"
    assert all(re.fullmatch(pattern, name) for name in load_file(adapter / LORA_FILE))
    assert json.loads((adapter / FACTS_FILE).read_text())["family"] == family.name
    learned = [
        value.abs().max() > 0 for name, value in weights(adapter).items() if not unused(name)
    ]
    assert all(learned) and len(learned) > len(weights(adapter)) / 2


@pytest.mark.slow
def test_every_part_of_the_adapter_matters(family, base, adapter, images, foregrounds, tmp_path):
    def made(folder):
        ours = refiner(base, folder, guidance_scale=1.0)
        prompts = [RowPrompt(ours.adapter.prompt(2))] * BATCH
        return refined(ours, images, foregrounds, prompts, strength=1.0)

    outcomes = [made(adapter)]
    tokens = load_file(adapter / TOKENS_FILE)
    parts = [(LORA_FILE, "")] + [(TOKENS_FILE, key) for key in tokens if "<class_" not in key]
    for number, (file, key) in enumerate(parts):
        folder = shutil.copytree(adapter, tmp_path / str(number))
        with safe_open(folder / file, "pt") as opened:
            metadata = opened.metadata()
        changed = {
            name: 5 + 0 * value if key and key == name else value * (key != "")
            for name, value in load_file(folder / file).items()
        }
        save_file(changed, folder / file, metadata=metadata)
        outcomes.append(made(folder))
    for number, one in enumerate(outcomes):
        assert all(not np.array_equal(one, other) for other in outcomes[:number])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stable-diffusion", "z-image"])
def test_a_lora_alone_names_the_classes(name, base_of, birds, images, foregrounds, tmp_path):
    family, base = BY_NAME[name], base_of(name)
    few = {"num_vectors": 0, "num_train_samples": 2, "learning_rate": 0.05}
    folder = train(adapter_settings(birds, base, tmp_path / "adapter", **few))
    assert not (folder / TOKENS_FILE).exists()
    learned = read_adapter(resolve(str(folder)))
    words = learned.class_names[2].replace("_", " ")
    assert learned.prompt(2) == f"a photo of a {words} bird"
    card = (folder / "README.md").read_text()
    assert "learned tokens" not in card and "load_file" not in card
    compile(card.split("```python\n")[1].split("```")[0], "card", "exec")
    prompts = [RowPrompt(learned.prompt(2))] * BATCH
    bare, with_lora = (
        refined(refiner(base, adapter), images, foregrounds, prompts, strength=1.0)
        for adapter in (None, folder)
    )
    assert not np.array_equal(bare, with_lora)
    assert family.name == json.loads((folder / FACTS_FILE).read_text())["family"]


# ---- what is refused ----


@pytest.mark.slow
def test_an_adapter_of_another_family_is_refused_in_a_line(family, base, adapter, tmp_path):
    other = next(one for one in FAMILIES if one.name != family.name)
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    facts = json.loads((folder / FACTS_FILE).read_text()) | {"family": other.name}
    (folder / FACTS_FILE).write_text(json.dumps(facts))
    with pytest.raises(UserError, match=f"on a base of {re.escape(other.title)}, and this base"):
        load_into(
            load_base(resolve(str(base)), torch.float32, "text_to_image"),
            read_adapter(resolve(str(folder))),
        )
