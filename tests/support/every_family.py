"""Bases of every family: our refiner and training, and the stock pipelines beside them."""

import functools
from copy import deepcopy

import diffusers
import numpy as np
import torch
from PIL import Image
from trainings import adapter_settings

from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.adapters import read_adapter
from sgdmix_hub.models.bases.families import FAMILIES
from sgdmix_hub.models.bases.loading import load_base
from sgdmix_hub.models.prompts import RowPrompt, prompt_ids
from sgdmix_hub.models.refine import Refiner
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.settings.method import MethodSettings
from sgdmix_hub.settings.presets import apply_preset
from sgdmix_hub.training.adapter.loop import denoising_loss
from sgdmix_hub.training.adapter.model import load_adapted

CPU = torch.device("cpu")
SIZE, BATCH, STEPS = 32, 2, 4
SEEDS = [11, 2**62 + 5]
TEXT = "a photo of a bird"
PROMPTS = [RowPrompt(TEXT)] * BATCH
FLOW = [family.name for family in FAMILIES if family.denoiser == "transformer"]


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


def stock_pipeline(base, family, **parts):
    """Stock img2img with the base's own Euler."""
    stock = getattr(diffusers, family.image_to_image).from_pretrained(base, **parts)
    stock.scheduler = family.scheduler(stock.scheduler.config, "euler")
    stock.set_progress_bar_config(disable=True)
    return stock


def stock_images(stock, family, images, strength, guidance_scale=4.0):
    """What `stock_pipeline` makes of images, uint8 (B, size, size, 3)."""
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


def loaded_base(base):
    """The base, loaded: a copy that may be changed, which takes less than to load it again."""
    return deepcopy(_loaded(base))


@functools.cache
def _loaded(base):
    return load_base(resolve(str(base)), torch.float32, "text_to_image")


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


def predictions_of_both(family, base, **more):
    """What the denoiser predicts for the prompts of classes 2 and 0: `found`, by a training with
    learned tokens of any value; `expected`, by a generation that has loaded these; and `other`, by
    the training for classes 0 and 2. Also the tensors of the tokens.
    """
    loaded, model, prompts = adapted(base, num_vectors=2, **more)
    with torch.no_grad():
        for rows in model.learned().values():
            rows.normal_(generator=torch.Generator().manual_seed(3))
    latents, _, timesteps = samples(loaded)
    time = family.noising(loaded.pipeline.scheduler.config).told(timesteps)
    generating = load_base(resolve(str(base)), torch.float32, "image_to_image")
    tensors = {key: value.detach() for key, value in model.token_tensors().items()}
    family.load_tokens(generating.pipeline, family.token_file(tensors, 2), 3)
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
        found, other = (
            model(latents, time, [ids[labels] for ids in prompts], GEOMETRY)
            for labels in ([2, 0], [0, 2])
        )
    return found, expected, other, tensors
