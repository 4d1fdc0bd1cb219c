"""Every family of base models: what stock diffusers makes, in generation, training, files, card.

One base of random weights a family; a family without one in `tiny_bases.BUILD` fails.
"""

import json
import re
import shutil

import diffusers
import numpy as np
import pytest
import torch
from pictures import difference
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_bases import BUILD, build_flux, build_flux2_klein, build_sd3
from trainings import adapter_settings, train, weights

from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.adapters import FACTS_FILE, LORA_FILE, TOKENS_FILE, load_into, read_adapter
from sgdmix_hub.models.bases.families import BY_NAME, FAMILIES
from sgdmix_hub.models.bases.loading import load_base
from sgdmix_hub.models.bases.qwen_image import SYSTEM_TOKENS, TEMPLATE
from sgdmix_hub.models.bases.schedulers import FLOW_SCHEDULERS
from sgdmix_hub.models.prompts import RowPrompt, prompt_ids
from sgdmix_hub.models.refine import Refiner
from sgdmix_hub.models.sampling import draw_images
from sgdmix_hub.settings.method import MethodSettings, apply_preset
from sgdmix_hub.settings.training import AdapterSettings
from sgdmix_hub.training.adapter.loop import denoising_loss
from sgdmix_hub.training.adapter.model import load_adapted

CPU = torch.device("cpu")
SIZE, BATCH, STEPS = 32, 2, 4
SEEDS = [11, 2**62 + 5]
TEXT = "a photo of a bird"
PROMPTS = [RowPrompt(TEXT)] * BATCH
FLOW = [family.name for family in FAMILIES if family.denoiser == "transformer"]


@pytest.fixture(scope="module", params=[family.name for family in FAMILIES])
def family(request):
    return BY_NAME[request.param]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """`saved(pipeline)`: the folder of a base."""

    def save(pipeline):
        folder = tmp_path_factory.mktemp("base") / "base"
        pipeline.save_pretrained(folder, safe_serialization=True)
        return folder

    return save


@pytest.fixture(scope="module")
def base(family, saved):
    return saved(BUILD[family.name]())


@pytest.fixture(scope="module")
def adapter(base, birds, tmp_path_factory):
    """Trained for two steps; two vectors a class, and an alpha that is not the rank."""
    return train(
        adapter_settings(
            birds,
            base,
            tmp_path_factory.mktemp("adapter") / "adapter",
            num_vectors=2,
            num_train_samples=4,
            lora_alpha=6,
            learning_rate=0.05,
            token_learning_rate=0.05,
        )
    )


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def foregrounds():
    masks = np.zeros((BATCH, SIZE, SIZE), bool)
    masks[:, 4:20, 8:28] = True
    return masks


def refiner(base, adapter=None, **values):
    defaults = {
        "preset": "paper",
        "strength": [0.5],
        "num_inference_steps": STEPS,
        "guidance_scale": 4.0,
        "batch_size": BATCH,
        "resolution": SIZE,
        "scheduler": "euler",
    }
    learned = None if adapter is None else read_adapter(resolve(str(adapter)))
    settings = apply_preset(MethodSettings(**(defaults | values)))
    return Refiner(resolve(str(base)), learned, settings, CPU)


def refined(ours, images, foregrounds, prompts=PROMPTS, seeds=SEEDS, strength=0.5):
    return np.stack(ours.refine(images, foregrounds, prompts, seeds, strength))


def stock_images(base, family, images, strength, guidance_scale=4.0, **parts):
    """Stock img2img with the base's own Euler, uint8 (B, size, size, 3)."""
    stock = getattr(diffusers, family.image_to_image).from_pretrained(base, **parts)
    stock.scheduler = family.scheduler(stock.scheduler.config, "euler")
    stock.set_progress_bar_config(disable=True)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    drawn = stock(
        prompt=[TEXT] * len(images),
        image=[Image.fromarray(image) for image in images],
        strength=strength,
        num_inference_steps=STEPS,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        **family.call_options(stock, guidance_scale, pixels),
    ).images
    return np.stack([np.asarray(image) for image in drawn])


# ---- generation ----


@pytest.mark.slow
@pytest.mark.parametrize("guidance_scale", [4.0, 1.0])
def test_the_images_are_those_of_the_stock_pipeline(
    guidance_scale, family, base, images, foregrounds
):
    """But for rounding: stock encodes row by row, and runs some guidance in two passes."""
    ours = refiner(base, guidance_scale=guidance_scale)
    for strength in (0.6, 1.0):
        expected = stock_images(base, family, images, strength, guidance_scale)
        largest, share = difference(refined(ours, images, foregrounds, strength=strength), expected)
        assert largest <= 1 and share < 0.001
    assert difference(expected, images)[1] > 0.5


def test_the_same_strength_for_the_foreground_is_one_strength(base, images, foregrounds):
    one, two = (
        refined(refiner(base, foreground_strength=strength), images, foregrounds)
        for strength in (None, 0.5)
    )
    assert np.array_equal(one, two)


@pytest.mark.slow
def test_a_foreground_at_strength_zero_is_what_the_autoencoder_makes_of_it(
    family, base, images, foregrounds
):
    """Everything foreground: then nothing of the sampler is left. A part of it stays near."""
    ours = refiner(base, foreground_strength=0.0)
    everything = np.ones((BATCH, SIZE, SIZE), bool)
    vae, space = ours.pipeline.vae, family.latents
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    with torch.no_grad():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        decoded = space.decode(vae, space.draw(vae, pixels, generators))
    expected = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1)
    for strength in (0.3, 0.9):
        kept = refined(ours, images, everything, strength=strength)
        assert difference(kept, expected.numpy().astype(np.uint8))[0] <= 1
    partly = refined(ours, images, foregrounds, strength=0.9)
    assert difference(partly, kept)[1] > 0.1


@pytest.mark.slow
def test_padding_neighbours_and_order_change_no_bit(base, images, foregrounds):
    ours = refiner(base, foreground_strength=0.25, batch_size=3)
    prompts = [RowPrompt(TEXT), RowPrompt("a red bird")]

    def made(rows):
        return refined(
            ours,
            images[rows],
            foregrounds[rows],
            [prompts[row] for row in rows],
            [SEEDS[row] for row in rows],
            0.75,
        )

    whole = made([0, 1])
    for rows in ([0], [1], [1, 0], [1, 0, 1]):
        assert np.array_equal(made(rows), whole[rows])


def test_prompt_and_guidance_matter(base, images, foregrounds):
    told = [
        refined(refiner(base), images, foregrounds, [RowPrompt(text)] * BATCH, strength=1.0)
        for text in (TEXT, "green grass, red sky")
    ]
    assert not np.array_equal(*told)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "scheduler"), [*((name, "dpmsolver++") for name in FLOW), ("z-image", "unipc")]
)
def test_other_samplers_go_where_the_stock_one_goes(name, scheduler, saved, images, foregrounds):
    """With many steps all of them solve one equation; a wrong noise level or sign would not."""
    base = saved(BUILD[name]())
    many = {"num_inference_steps": 24, "guidance_scale": 1.0, "batch_size": 1}
    one, other = (
        refined(
            refiner(base, scheduler=chosen, **many),
            images[:1],
            foregrounds[:1],
            PROMPTS[:1],
            SEEDS[:1],
        ).astype(int)
        for chosen in ("euler", scheduler)
    )
    source = images[:1].astype(int)
    assert np.abs(one - other).mean() < 0.2 * np.abs(one - source).mean()


@pytest.mark.slow
def test_what_a_training_draws_and_judges_is_drawn(family, base, images):
    """From noise and from images, through the stock pipelines."""
    loaded = load_base(resolve(str(base)), torch.float32, "text_to_image")
    loaded.use_scheduler()
    options = {
        "resolution": SIZE,
        "num_inference_steps": 2,
        "guidance_scale": 2.0,
        "batch_size": BATCH,
    }
    drawn = draw_images(loaded, [TEXT], SEEDS[:1], **options)
    again = draw_images(loaded, [TEXT], SEEDS[:1], images=images[:1], strength=0.5, **options)
    assert drawn.shape == again.shape == (1, SIZE, SIZE, 3)
    assert not np.array_equal(drawn, again)


# ---- strength and noise levels ----


def test_a_noise_level_runs_the_nearest_step_on_every_base(base, images, foregrounds):
    ours = refiner(base, strength_unit="noise-level", num_inference_steps=20)
    levels = ours.levels.of_steps()
    assert levels == sorted(levels) and len(levels) == 21 and 0.8 < levels[-1] <= 1
    for asked in (0.3, 0.62):
        reached = ours.levels.sigma_start(asked)
        assert abs(reached - asked) == min(abs(level - asked) for level in levels)
        assert reached == pytest.approx(asked, abs=0.08)


def test_a_noise_level_without_a_step_is_refused_and_the_named_one_runs_a_step(base):
    with pytest.raises(UserError, match="runs no diffusion step") as refusal:
        refiner(base, strength_unit="noise-level", strength=[0.001])
    named = float(re.search(r"begins at ([\d.]+)", str(refusal.value))[1])
    assert refiner(base, strength_unit="noise-level", strength=[named]).levels.steps(named) == 1


def test_a_noise_level_is_that_of_the_noised_latents(family, base):
    """Noise alone at level 1, and shares that add up where stock has them so."""
    ours = refiner(base, num_inference_steps=10)
    scheduler = ours.pipeline.scheduler
    family.set_timesteps(ours.pipeline, scheduler, 10, (SIZE, SIZE), CPU)
    sigma = float(scheduler.sigmas[4])
    expected = sigma if family.name in FLOW else sigma / (1 + sigma)
    assert ours.levels.of_steps()[6] == pytest.approx(expected, abs=1e-4)


# ---- training ----


def adapted(base, **more):
    torch.manual_seed(0)
    chosen = AdapterSettings(**adapter_settings("unused", base, "unused", **more))
    loaded, model = load_adapted(resolve(str(base)), chosen, 3)
    prompts = [
        prompt_ids(
            encoder,
            loaded.tokenizer(encoder),
            3,
            chosen.num_vectors,
            chosen.metaclass,
            chosen.prompt_template,
        )
        for encoder in loaded.encoders
    ]
    return loaded, model, prompts


GEOMETRY = torch.tensor([[SIZE, SIZE, 0, 0, SIZE, SIZE]] * 2)


def samples(loaded, seed=1):
    shape = loaded.family.latents.shape(loaded.pipeline.vae, SIZE)
    latents, noise = torch.randn((2, 2, *shape), generator=torch.Generator().manual_seed(seed))
    return latents, noise, torch.tensor([100, 700])


def loss_of(loaded, model, prompts, labels, noising, seed=1):
    latents, noise, timesteps = samples(loaded, seed)
    prediction = model(
        noising.noised(latents, noise, timesteps),
        noising.told(timesteps),
        [ids[labels] for ids in prompts],
        GEOMETRY,
    )
    loss = denoising_loss(prediction, latents, noise, timesteps, noising, None).mean()
    return prediction, loss


@pytest.mark.slow
def test_a_training_sees_what_a_generation_with_its_tokens_sees(family, base):
    """Both vectors of a class, by stock's encoding of the prompt."""
    loaded, model, prompts = adapted(base, num_vectors=2)
    with torch.no_grad():
        for rows in model.learned().values():
            rows.normal_(generator=torch.Generator().manual_seed(3))
    latents, _, timesteps = samples(loaded)
    time = family.noising(loaded.pipeline.scheduler.config).told(timesteps)
    generating = load_base(resolve(str(base)), torch.float32, "image_to_image")
    learned = {key: rows.detach() for key, rows in model.learned().items()}
    family.load_tokens(generating.pipeline, family.token_file(learned, 2), 3)
    told = [
        family.encode_prompt(
            generating.pipeline, f"a photo of a <class_{label}> bird", "", False, CPU
        )[0]
        for label in (2, 0)
    ]
    of_images = family.of_images(generating.pipeline, SIZE, SIZE, 3.5)
    told = family.joined(told) | {name: one.repeat(2, 1) for name, one in of_images.items()}
    with torch.no_grad():
        expected = family.predict(generating.denoiser, latents, time, told)
        found = model(latents, time, [ids[[2, 0]] for ids in prompts], GEOMETRY)
        other = model(latents, time, [ids[[0, 2]] for ids in prompts], GEOMETRY)
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


def pulled(family, base, sign, steps=10):
    """Loss, and the prediction's share along the target, before and after steps that pull `sign`
    times the prediction to the target.
    """
    loaded, model, prompts = adapted(base, rank=4)
    noising = family.noising(loaded.pipeline.scheduler.config)
    target = noising.target(*samples(loaded))
    optimizer = torch.optim.AdamW(model.trained().values(), lr=0.02)
    losses, shares = [], []
    for _ in range(steps + 1):
        prediction, loss = loss_of(loaded, model, prompts, [0, 1], noising)
        losses.append(loss.item())
        shares.append(((prediction * target).mean() / target.square().mean()).item())
        (sign * prediction - target).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return losses[0], losses[-1], shares[0], shares[-1]


@pytest.mark.slow
def test_training_lowers_the_loss_and_a_wrong_sign_would_lead_away(family, base):
    """Away from the target; the loss may fall at first where predictions begin too large."""
    before, after, along, then = pulled(family, base, 1)
    assert after < 0.99 * before and then > along + 0.005
    _, wrong, _, elsewhere = pulled(family, base, -1)
    assert wrong > after and elsewhere < then - 0.005


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


@pytest.mark.parametrize("name", FLOW)
def test_samplers_that_a_flow_has_not_are_refused_in_a_line(name, saved):
    base = saved(BUILD[name]())
    for values, said in (
        ({"scheduler": "ddim"}, f"scheduler ddim is not for .*: give {', '.join(FLOW_SCHEDULERS)}"),
        ({"timestep_spacing": "leading"}, "timestep_spacing leading is not for"),
    ):
        with pytest.raises(UserError, match=said.replace("+", r"\+")):
            refiner(base, **values)


def test_an_image_of_a_size_that_the_base_does_not_take_is_refused(family, base):
    loaded = load_base(resolve(str(base)), torch.float32, "image_to_image")
    multiple = family.multiple_of(loaded.pipeline)
    with pytest.raises(UserError, match=rf"no multiple of {multiple}, .*: give {2 * multiple}$"):
        loaded.check_size(2 * multiple + 1)
    loaded.check_size(2 * multiple)


# ---- what single families have besides ----


@pytest.mark.slow
def test_sd3_without_t5_is_the_stock_pipelines_too(saved, images, foregrounds):
    family, base = BY_NAME["stable-diffusion-3"], saved(build_sd3(with_t5=False))
    absent = {"text_encoder_3": None, "tokenizer_3": None}
    expected = stock_images(base, family, images, 0.6, **absent)
    assert difference(refined(refiner(base), images, foregrounds, strength=0.6), expected)[0] <= 1
    loaded, model, prompts = adapted(base)
    assert len(prompts) == 2 and set(model.learned()) == {"clip_l", "clip_g"}
    noising = family.noising(loaded.pipeline.scheduler.config)
    loss_of(loaded, model, prompts, [0, 1], noising)[1].backward()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pipeline"),
    [
        ("flux", lambda: build_flux(guidance_embeds=False)),
        ("flux-2-klein", lambda: build_flux2_klein(is_distilled=True)),
    ],
)
def test_distilled_bases_are_not_guided(name, pipeline, saved, images, foregrounds):
    family, base = BY_NAME[name], saved(pipeline())
    expected = stock_images(base, family, images, 0.6)
    made = [
        refined(refiner(base, guidance_scale=scale), images, foregrounds, strength=0.6)
        for scale in (4.0, 1.0)
    ]
    assert difference(made[0], expected)[0] <= 1 and np.array_equal(*made)
    with pytest.raises(UserError, match="negative_prompt is not read"):
        refiner(base, negative_prompt="blurred")


def test_the_template_of_qwen_image_is_the_stock_pipelines():
    pipeline = BUILD["qwen-image"]()
    assert pipeline.prompt_template_encode == TEMPLATE
    assert pipeline.prompt_template_encode_start_idx == SYSTEM_TOKENS
