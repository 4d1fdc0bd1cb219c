"""Every family of base models in a training: what learns, the files, and who loads them."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from every_family import (
    BATCH,
    CPU,
    FLOW,
    GEOMETRY,
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
from tiny_bases import BUILD
from trainings import adapter_settings, train, weights

from sgdmix_hub.demo.tiny_training import HELD_OUT, render_world
from sgdmix_hub.demo.train_tiny_base import TINY_BASE
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


def towards_one_image(family, base, change=lambda target: target, steps=40):
    """How far stock's latents are from an image's, before and after a training on that image alone:
    mean squared differences. `change`: of the training's target.
    """
    loaded, model, prompts = adapted(base, rank=4)
    vae, random = loaded.pipeline.vae, torch.Generator().manual_seed(7)
    noising = family.noising(loaded.pipeline.scheduler.config)
    shape = (4, *family.latents.shape(vae, SIZE))
    signs = torch.randint(0, 2, (1, shape[1], 1, 1), generator=random) * 2.0 - 1
    wanted = signs.expand(shape)
    loaded.use_scheduler("euler")
    with torch.no_grad():  # the stock call's prompt, which no token is in
        bare = [ids[[-1] * 4] for ids in prompts]
        told = family.encode_ids(list(model.text_encoders), bare, GEOMETRY[:1].repeat(4, 1))
    of_images = family.of_images(loaded.pipeline, SIZE, SIZE, 1.0)
    told |= {name: one.repeat(4, 1) for name, one in of_images.items() if name not in told}
    optimizer = torch.optim.AdamW(model.lora().values(), lr=0.02)
    before, losses = distance_of_stock(family, loaded.pipeline, wanted[:1]), []
    for _ in range(steps):
        noise = torch.randn(shape, generator=random)
        timesteps = torch.stack([noising.draw(random) for _ in noise])
        prediction = family.predict(
            model.denoiser, noising.noised(wanted, noise, timesteps), noising.told(timesteps), told
        )
        loss = (prediction - change(noising.target(wanted, noise, timesteps))).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < np.mean(losses[:10]), "it learns nothing"
    return before, distance_of_stock(family, loaded.pipeline, wanted[:1])


def distance_of_stock(family, pipeline, wanted):
    """Of the scaled latents that a call of the stock pipeline decodes to these."""
    seen, decode = [], pipeline.vae.decode

    def watched(latents, **options):
        seen.append(latents if latents.ndim == 4 else latents[:, :, 0])
        return decode(latents, **options)

    pipeline.vae.decode = watched
    pipeline.set_progress_bar_config(disable=True)
    pipeline(
        prompt=family.call_text(pipeline, "a photo of a bird"),
        num_images_per_prompt=4,
        num_inference_steps=6,
        height=SIZE,
        width=SIZE,
        generator=torch.Generator().manual_seed(5),
        **family.call_options(pipeline, 1.0, None),
    )
    pipeline.vae.decode = decode
    return (family.latents.scaled(seen[0], pipeline.vae) - wanted).square().mean().item()


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOW)
def test_training_leads_stocks_images_to_the_training_image_and_a_wrong_sign_away(name, base_of):
    """Stock's pipeline judges it, which shares no sign with the training."""
    family, base = BY_NAME[name], base_of(name)
    before, after = towards_one_image(family, base)
    _, wrong = towards_one_image(family, base, lambda target: -target)
    assert after < 0.9 * before and wrong > before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stable-diffusion", "stable-diffusion-xl"])
def test_training_lowers_the_loss(name, base_of):
    family = BY_NAME[name]
    loaded, model, prompts = adapted(base_of(name), rank=4)
    noising = family.noising(loaded.pipeline.scheduler.config)
    optimizer, losses = torch.optim.AdamW(model.trained().values(), lr=0.02), []
    for _ in range(11):
        _, loss = loss_of(loaded, model, prompts, [0, 1], noising)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.99 * losses[0]


@pytest.mark.slow
def test_what_a_trained_base_predicts_is_the_target_and_not_its_negative():
    """The base of the demo, which was trained by other code: images of birds, its own prompt."""
    loaded = load_base(resolve(str(TINY_BASE)), torch.float32, "text_to_image")
    family, vae = loaded.family, loaded.pipeline.vae
    noising = family.noising(loaded.pipeline.scheduler.config)
    birds = torch.from_numpy(render_world(8, 0, HELD_OUT)[..., :3]).permute(0, 3, 1, 2) / 127.5 - 1
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        latents = family.latents.scaled(family.latents.moments(vae, birds)[0], vae)
        noise = torch.randn(latents.shape, generator=random)
        timesteps = torch.tensor([100, 250, 400, 500, 600, 700, 800, 900])
        told, _ = family.encode_prompt(loaded.pipeline, "a photo of a bird", "", False, CPU)
        predicted = family.predict(
            loaded.denoiser,
            noising.noised(latents, noise, timesteps),
            noising.told(timesteps),
            family.joined([told] * 8),
        )
    target = noising.target(latents, noise, timesteps)
    right, wrong = ((predicted - sign * target).square().mean() for sign in (1, -1))
    assert right < 0.2 * wrong


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
def test_the_cards_snippet_loads_it_in_stock_diffusers(
    family, base, adapter, tmp_path, monkeypatch
):
    """And draws the images that this package draws."""
    text = (adapter / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    assert "sgdmix_hub" not in code
    named = re.search(r'adapter = "([^"]*)"', code)[1]
    (tmp_path / named).parent.mkdir(parents=True)
    shutil.copytree(adapter, tmp_path / named)
    shutil.copytree(base, tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    loading, drawing = code.strip().rsplit("\n", 1)
    assert drawing.startswith("image = pipeline(")
    space = {}
    exec(loading, space)
    pipeline = space["pipeline"]
    loaded = load_base(resolve(str(base)), torch.float32, "text_to_image")
    load_into(loaded, read_adapter(resolve(str(adapter))))
    prompt = "a photo of a <class_2> bird"
    drawn = []
    for one, text in (
        (pipeline, family.call_text(pipeline, prompt)),
        (loaded.pipeline, family.call_text(loaded.pipeline, prompt)),
    ):
        one.set_progress_bar_config(disable=True)
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
    assert np.array_equal(*drawn)


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
def test_a_lora_alone_names_the_classes(name, saved, birds, images, foregrounds, tmp_path):
    family, base = BY_NAME[name], saved(BUILD[name]())
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
