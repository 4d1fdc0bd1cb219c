"""What a training asks a denoiser to predict: the sign and the kind that samplers expect.

A wrong sign, or noise in the place of velocity, trains as well as the right one and draws nothing.
So the judges share no sign with the training: stock's sampling, and a base that other code trained.
"""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from every_family import FLOW, GEOMETRY, SIZE, adapted

from sgdmix_hub.demo.tiny_training import HELD_OUT, render_world
from sgdmix_hub.demo.train_tiny_base import TINY_BASE
from sgdmix_hub.models.bases.families import BY_NAME
from sgdmix_hub.models.bases.noising import Diffusion
from sgdmix_hub.training.adapter.loop import denoising_loss

# ---- trained on one image, stock's sampling leads to it ----


def towards_one_image(
    family, base, change=lambda target: target, steps=15, whole=False, **schedule
):
    """How far stock's latents are from an image's, before and after a training on that image alone:
    mean squared differences.

    `change`: of the training's target. `whole`: trains all weights of the denoiser, not the LoRA.
    `schedule`: other values of the base's sampler.
    """
    loaded, model, prompts = adapted(base, rank=4)
    pipeline, random = loaded.pipeline, torch.Generator().manual_seed(7)
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, **schedule)
    noising = family.noising(pipeline.scheduler.config)
    shape = (4, *family.latents.shape(pipeline.vae, SIZE))
    signs = torch.randint(0, 2, (1, shape[1], 1, 1), generator=random) * 2.0 - 1
    wanted = signs.expand(shape)
    loaded.use_scheduler("euler")
    with torch.no_grad():  # the stock call's prompt, which no token is in
        bare = [ids[[-1] * 4] for ids in prompts]
        told = family.encode_ids(list(model.text_encoders), bare, GEOMETRY[:1].repeat(4, 1))
    of_images = family.of_images(pipeline, SIZE, SIZE, 1.0)
    told |= {name: one.repeat(4, 1) for name, one in of_images.items() if name not in told}
    weights = (
        list(model.denoiser.requires_grad_(True).parameters())
        if whole
        else [*model.lora().values()]
    )
    optimizer = torch.optim.AdamW(weights, lr=0.005 if whole else 0.05)
    before, losses = distance_of_stock(family, pipeline, wanted[:1]), []
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
    assert np.mean(losses[-5:]) < np.mean(losses[:5]), "it learns nothing"
    return before, distance_of_stock(family, pipeline, wanted[:1])


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
@pytest.mark.parametrize("predicted", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["stable-diffusion", "stable-diffusion-xl"])
def test_a_whole_unet_of_either_kind_does_too(name, predicted, base_of):
    """All weights learn: a LoRA on random ones learns too little to tell a sign."""
    family, base = BY_NAME[name], base_of(name)
    options = {"steps": 12, "whole": True, "prediction_type": predicted}
    before, after = towards_one_image(family, base, **options)
    _, wrong = towards_one_image(family, base, lambda target: -target, **options)
    assert after < 0.5 * before and wrong > before


# ---- the base of the demo, which is a trained one, agrees from the first step ----


class OfNoise(torch.nn.Module):
    """A UNet that predicts noise: a trained one that predicts velocity, converted."""

    def __init__(self, unet, scheduler):
        super().__init__()
        self.unet, self.alphas, self.config = unet, scheduler.alphas_cumprod, unet.config

    def forward(self, latents, timesteps, **told):
        (velocity,) = self.unet(latents, timesteps, **told)
        kept = self.alphas[timesteps][:, None, None, None]
        return (kept.sqrt() * velocity + (1 - kept).sqrt() * latents,)


class Negative(Diffusion):
    def target(self, latents, noise, timesteps):
        return -super().target(latents, noise, timesteps)


def first_losses(of_noise):
    """Loss of the first step of a training on birds, by what is taken for the target."""
    torch.manual_seed(0)
    loaded, model, prompts = adapted(TINY_BASE)
    family, vae, config = loaded.family, loaded.pipeline.vae, loaded.pipeline.scheduler.config
    assert config.prediction_type == "v_prediction"
    if of_noise:
        model.denoiser = OfNoise(model.denoiser, DDIMScheduler.from_config(config))
    birds = torch.from_numpy(render_world(8, 0, HELD_OUT)[..., :3]).permute(0, 3, 1, 2) / 127.5 - 1
    timesteps = torch.tensor([100, 250, 400, 500, 600, 700, 800, 900])
    losses = {}
    with torch.no_grad():
        latents = family.latents.scaled(family.latents.moments(vae, birds)[0], vae)
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
        for kind in ("epsilon", "v_prediction"):
            stated = dict(config) | {"prediction_type": kind}
            for sign, noising in (("", family.noising(stated)), ("-", Negative(stated))):
                prediction = model(
                    noising.noised(latents, noise, timesteps),
                    noising.told(timesteps),
                    [ids[[-1] * 8] for ids in prompts],
                    None,
                )
                loss = denoising_loss(prediction, latents, noise, timesteps, noising, None)
                losses[sign + kind] = loss.mean().item()
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["v_prediction", "epsilon"])
def test_what_a_trained_base_predicts_is_the_target_and_no_other_one(kind):
    losses = first_losses(of_noise=kind == "epsilon")
    right = losses.pop(kind)
    assert len(losses) == 3 and right < 0.5 * min(losses.values())
