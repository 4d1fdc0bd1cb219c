"""What an adapter trains: LoRA weights and learned tokens alone, with the loss that the papers
write down.
"""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from trainings import adapter_settings

from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.bases.noising import Diffusion
from sgdmix_hub.models.bases.stable_diffusion import StableDiffusion
from sgdmix_hub.models.prompts import prompt_ids
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.training.adapter.loop import build_optimizer, denoising_loss
from sgdmix_hub.training.adapter.model import load_adapted
from sgdmix_hub.training.adapter.token_embedding import TokenEmbedding

CLASSES = 3
LORA_TARGETS = StableDiffusion.lora_targets


def adapted(tiny_base, **more):
    """Pipeline, model and the prompts' input ids; the same at every call."""
    torch.manual_seed(0)
    chosen = AdapterSettings(**adapter_settings("unused", tiny_base, "unused", **more))
    loaded, model = load_adapted(resolve(str(tiny_base)), chosen, CLASSES)
    tokenizer = loaded.pipeline.tokenizer
    return (
        loaded.pipeline,
        model,
        prompt_ids(
            StableDiffusion.encoders[0],
            tokenizer,
            CLASSES,
            chosen.num_vectors,
            chosen.metaclass,
            chosen.prompt_template,
        ),
    )


def samples(count=4):
    generator = torch.Generator().manual_seed(1)
    latents, noise = torch.randn((2, count, 4, 8, 8), generator=generator)
    return latents, noise, torch.randint(1000, (count,), generator=generator)


def loss_of(pipeline, model, prompts, labels=(0, 1, 0, CLASSES)):
    """The mean loss of four samples, one of them of no class. The third class is not shown."""
    noising = Diffusion(pipeline.scheduler.config)
    latents, noise, timesteps = samples()
    prediction = model(
        noising.noised(latents, noise, timesteps), timesteps, [prompts[list(labels)]]
    )
    return denoising_loss(prediction, latents, noise, timesteps, noising, None).mean()


# ---- what is trained and what is not ----


def test_only_lora_on_attention_and_tokens_are_trained(tiny_base):
    pipeline, model, _ = adapted(tiny_base, num_vectors=2)
    parts = {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder, "vae": pipeline.vae}
    learning = {
        f"{part}.{name}"
        for part, module in parts.items()
        for name, p in module.named_parameters()
        if p.requires_grad
    }
    tokens = {name for name in learning if name.endswith(".learned")}
    assert len(tokens) == 1
    assert all(".lora_A." in name or ".lora_B." in name for name in learning - tokens)
    layers = {name.partition(".lora_")[0].rpartition("attn")[2][2:] for name in learning - tokens}
    assert layers == set(LORA_TARGETS)
    projections = [
        name
        for name, _ in pipeline.unet.named_modules()
        if name.endswith(tuple(f".{t}.base_layer" for t in LORA_TARGETS))
    ]
    assert len(learning - tokens) == 2 * len(projections) > 0
    trained = model.trained()
    assert {id(p) for p in trained.values()} == {
        id(p) for p in model.parameters() if p.requires_grad
    }
    assert trained["tokens.clip_l"].shape == (CLASSES * 2, 32)
    chosen = AdapterSettings(metaclass="bird", dataset_name="unused", output_dir="unused")
    groups = build_optimizer(chosen, model).param_groups
    optimized = [p for group in groups for p in group["params"]]
    assert {id(p) for p in optimized} == {id(p) for p in trained.values()}
    assert len(optimized) == len(trained)


def test_what_is_frozen_keeps_its_bits_and_what_was_not_shown_keeps_its_token(tiny_base):
    """Weight decay would move a token that no sample shows."""
    pipeline, model, prompts = adapted(tiny_base, adam_weight_decay=0.5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = build_optimizer(
        AdapterSettings(**adapter_settings("unused", tiny_base, "unused", adam_weight_decay=0.5)),
        model,
    )
    for _ in range(3):
        loss_of(pipeline, model, prompts).backward()
        optimizer.step()
        optimizer.zero_grad()
    trained = {name.removeprefix("denoiser.") for name in model.trained()}
    for name, value in model.state_dict().items():
        if name.endswith("learned"):
            assert torch.equal(value[2], before[name][2])
            assert all((value[label] - before[name][label]).abs().max() > 1e-3 for label in (0, 1))
        elif name.removeprefix("denoiser.") in trained:
            assert not torch.equal(value, before[name])
        else:
            assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    ("metaclass", "num_vectors"), [("bird", 1), ("red bird", 1), ("bird", 3), ("sparrow-like", 2)]
)
def test_tokens_begin_as_the_metaclass(metaclass, num_vectors, tiny_base):
    """As the mean of its tokens where it has several."""
    base = StableDiffusionPipeline.from_pretrained(tiny_base, safety_checker=None)
    ids = base.tokenizer(metaclass, add_special_tokens=False).input_ids
    expected = base.text_encoder.get_input_embeddings().weight[ids].mean(dim=0)
    _, model, _ = adapted(tiny_base, metaclass=metaclass, num_vectors=num_vectors)
    learned = model.learned()["clip_l"]
    assert learned.shape == (CLASSES * num_vectors, 32)
    torch.testing.assert_close(learned, expected.expand_as(learned))


def test_an_untrained_adapter_predicts_what_the_base_does(tiny_base):
    """With the metaclass in the place of the token: LoRA begins at zero."""
    _, model, prompts = adapted(tiny_base)
    base = StableDiffusionPipeline.from_pretrained(tiny_base, safety_checker=None)
    latents, _, timesteps = samples(2)
    ids = base.tokenizer(
        ["a photo of a bird bird"] * 2, padding="max_length", return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        expected = base.unet(latents, timesteps, base.text_encoder(ids)[0]).sample
        torch.testing.assert_close(model(latents, timesteps, [prompts[[0, 1]]]), expected)


@pytest.mark.slow
def test_gradient_checkpointing_gives_the_same_gradients(tiny_base):
    """Dropout included."""
    gradients = []
    for checkpointing in (False, True):
        pipeline, model, prompts = adapted(
            tiny_base, lora_dropout=0.3, gradient_checkpointing=checkpointing
        )
        model.train()
        with torch.no_grad():
            for name, parameter in model.lora().items():
                if "lora_B" in name:
                    parameter.fill_(0.05)
        torch.manual_seed(5)
        loss_of(pipeline, model, prompts).backward()
        gradients.append({name: parameter.grad for name, parameter in model.trained().items()})
    for name, gradient in gradients[0].items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-8)


def test_half_precision_is_for_what_is_frozen(tiny_base):
    pipeline, model, _ = adapted(tiny_base, mixed_precision="bf16")
    assert {p.dtype for p in model.trained().values()} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert {p.dtype for p in pipeline.vae.parameters()} == {torch.float32}


# ---- the loss ----


def schedule(prediction):
    """A training's noise schedule, and the cumulative product of its alphas, written out."""
    options = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
    }
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alphas = torch.from_numpy(np.cumprod(1 - betas)).float()
    return Diffusion(DDPMScheduler(**options, prediction_type=prediction).config), alphas


def columns(values):
    return values[:, None, None, None]


@given(seed=st.integers(0, 1000), timesteps=st.lists(st.integers(0, 999), min_size=1, max_size=4))
@settings(max_examples=30)
def test_the_loss_is_the_squared_error_to_noise_or_velocity(seed, timesteps):
    generator = torch.Generator().manual_seed(seed)
    latents, noise, prediction = torch.randn((3, len(timesteps), 4, 3, 3), generator=generator)
    timesteps = torch.tensor(timesteps)
    for kind in ("epsilon", "v_prediction"):
        noising, products = schedule(kind)
        alpha, sigma = (
            columns(products[timesteps].sqrt()),
            columns((1 - products[timesteps]).sqrt()),
        )
        target = noise if kind == "epsilon" else alpha * noise - sigma * latents
        expected = ((prediction - target) ** 2).sum(dim=(1, 2, 3)) / 36
        torch.testing.assert_close(
            denoising_loss(prediction, latents, noise, timesteps, noising, None), expected
        )


@given(seed=st.integers(0, 1000), timestep=st.integers(1, 998), gamma=st.floats(0.1, 20))
@settings(max_examples=60)
def test_min_snr_weights_the_error_in_the_image_as_the_paper_says(seed, timestep, gamma):
    """Hang et al. 2023, Eq. 7: min(SNR, gamma) |x_0 - x|^2. A model that predicts noise and one
    that predicts the velocity, of the same image, have the same loss.
    """
    generator = torch.Generator().manual_seed(seed)
    latents, noise, estimated = torch.randn((3, 1, 4, 3, 3), generator=generator)
    timesteps = torch.tensor([timestep])
    for kind in ("epsilon", "v_prediction"):
        noising, products = schedule(kind)
        alpha, sigma = (
            columns(products[timesteps].sqrt()),
            columns((1 - products[timesteps]).sqrt()),
        )
        noisy = alpha * latents + sigma * noise
        predicted_noise = (noisy - alpha * estimated) / sigma
        prediction = (
            predicted_noise if kind == "epsilon" else alpha * predicted_noise - sigma * estimated
        )
        snr = (products[timesteps] / (1 - products[timesteps])).item()
        expected = min(snr, gamma) * ((latents - estimated) ** 2).mean(dim=(1, 2, 3))
        found = denoising_loss(prediction, latents, noise, timesteps, noising, gamma)
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-5)


# ---- the embedding ----


@given(seed=st.integers(0, 1000), old=st.integers(1, 20), new=st.integers(1, 6))
@settings(max_examples=25)
def test_token_embedding_is_an_embedding_with_rows_appended(seed, old, new):
    """Values, and the gradient of the learned rows."""
    generator = torch.Generator().manual_seed(seed)
    own, initial = (
        torch.randn(old, 5, generator=generator),
        torch.randn(new, 5, generator=generator),
    )
    ids = torch.randint(old + new, (3, 7), generator=generator)
    weights = torch.randn(3, 7, 5, generator=generator)
    embedding = TokenEmbedding(nn.Embedding.from_pretrained(own.clone()), initial)
    reference = nn.Embedding.from_pretrained(torch.cat([own, initial]), freeze=False)
    assert torch.equal(embedding(ids), reference(ids))
    (embedding(ids) * weights).sum().backward()
    (reference(ids) * weights).sum().backward()
    torch.testing.assert_close(embedding.learned.grad, reference.weight.grad[old:])
    assert [
        name for name, parameter in embedding.named_parameters() if parameter.requires_grad
    ] == ["learned"]


def test_token_embedding_trains_a_copy_in_float32_of_a_half_precision_base():
    initial = torch.zeros(2, 4)
    embedding = TokenEmbedding(nn.Embedding(3, 4).half(), initial)
    assert embedding(torch.tensor([[0, 4]])).dtype == torch.float16
    assert embedding.learned.dtype == torch.float32
    with torch.no_grad():
        embedding.learned += 1
    assert initial.sum() == 0
