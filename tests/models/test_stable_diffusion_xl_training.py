"""Training adapters of SDXL: what learns, and that it learns."""

import pytest
import torch
from diffusers import (
    StableDiffusionXLPipeline,
)
from sdxl import SIZE
from tiny_bases import build_sdxl
from trainings import adapter_settings

from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.prompts import prompt_ids
from sgdmix_hub.settings.training import AdapterSettings
from sgdmix_hub.training.adapter.loop import denoising_loss
from sgdmix_hub.training.adapter.model import load_adapted


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdxl") / "base"
    build_sdxl().save_pretrained(folder, safe_serialization=True)
    return folder


def adapted(base, **more):
    torch.manual_seed(0)
    chosen = AdapterSettings(**adapter_settings("unused", base, "unused", **more))
    loaded, model = load_adapted(resolve(str(base)), chosen, 3)
    prompts = [
        prompt_ids(
            loaded.tokenizer(encoder),
            3,
            chosen.num_vectors,
            chosen.metaclass,
            chosen.prompt_template,
        )
        for encoder in loaded.family.encoders
    ]
    return loaded, model, prompts


GEOMETRY = torch.tensor([[48, 64, 0, 5, SIZE, SIZE], [SIZE, SIZE, 0, 0, SIZE, SIZE]])


def test_an_untrained_adapter_predicts_what_the_base_does(base):
    """With the metaclass in the place of the token, pooled and unpooled, by stock's encoding."""
    _, model, prompts = adapted(base)
    stock = StableDiffusionXLPipeline.from_pretrained(base, add_watermarker=False)
    latents = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(1))
    timesteps = torch.tensor([3, 700])
    embeds, _, pooled, _ = stock.encode_prompt(
        ["a photo of a bird bird"] * 2, do_classifier_free_guidance=False
    )
    with torch.no_grad():
        expected = stock.unet(
            latents,
            timesteps,
            encoder_hidden_states=embeds,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": GEOMETRY.float()},
        ).sample
        found = model(latents, timesteps, [ids[[0, 1]] for ids in prompts], GEOMETRY)
        other = model(latents, timesteps, [ids[[0, 1]] for ids in prompts], GEOMETRY.flip(0))
    torch.testing.assert_close(found, expected)
    assert (other - found).abs().max() > 1e-4  # the images' sizes matter


def test_tokens_of_both_encoders_and_lora_learn_and_nothing_else_does(base):
    loaded, model, prompts = adapted(base, num_vectors=2)
    trained = model.trained()
    assert trained["tokens.clip_l"].shape == (6, 32)
    assert trained["tokens.clip_g"].shape == (6, 48)
    assert {id(p) for p in trained.values()} == {
        id(p) for p in model.parameters() if p.requires_grad
    }
    noising = loaded.family.noising(loaded.pipeline.scheduler.config)
    latents, noise = torch.randn((2, 2, 4, 8, 8), generator=torch.Generator().manual_seed(1))
    timesteps = torch.tensor([3, 700])
    prediction = model(
        noising.noised(latents, noise, timesteps),
        timesteps,
        [ids[[0, 2]] for ids in prompts],
        GEOMETRY,
    )
    denoising_loss(prediction, latents, noise, timesteps, noising, None).mean().backward()
    for key in ("clip_l", "clip_g"):
        moved = trained[f"tokens.{key}"].grad.abs().amax(dim=1) > 0
        assert moved.tolist() == [True, True, False, False, True, True]
    assert all(
        parameter.grad is not None
        for name, parameter in trained.items()
        if ".lora_B." in name  # lora_A has no gradient while lora_B is zero
    )


def toy_losses(base, sign, steps=60):
    """Mean squared error to the right target, before and after steps towards `sign` times it."""
    loaded, model, prompts = adapted(base, learning_rate=0.01, rank=4)
    noising = loaded.family.noising(loaded.pipeline.scheduler.config)
    generator = torch.Generator().manual_seed(2)
    latents = torch.randn((3, 4, 8, 8), generator=generator)
    noise = torch.randn((3, 4, 8, 8), generator=generator)
    timesteps, geometry = torch.tensor([100, 500, 900]), GEOMETRY[[0, 1, 1]]
    optimizer = torch.optim.AdamW(model.trained().values(), lr=0.01)
    losses = []
    for _ in range(steps):
        prediction = model(
            noising.noised(latents, noise, timesteps),
            timesteps,
            [ids[:3] for ids in prompts],
            geometry,
        )
        losses.append(
            denoising_loss(prediction, latents, noise, timesteps, noising, None).mean().item()
        )
        (sign * prediction - noise).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return losses[0], losses[-1]


@pytest.mark.slow
def test_training_lowers_the_loss_and_a_wrong_sign_would_raise_it(base):
    before, after = toy_losses(base, 1)
    assert after < 0.9 * before
    before, after = toy_losses(base, -1)
    assert after > 1.1 * before
