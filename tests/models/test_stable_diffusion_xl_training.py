"""Training adapters of SDXL: what learns, and that it learns."""

import pytest
import torch
from diffusers import (
    StableDiffusionXLPipeline,
)
from sdxl import SIZE
from trainings import adapter_settings

from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.prompts import prompt_ids
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.training.adapter.model import load_adapted


@pytest.fixture(scope="module")
def base(base_of):
    return base_of("stable-diffusion-xl")


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
