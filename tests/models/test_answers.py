"""A training that learns no tokens asks its text encoders once and frees them: nothing else
changes.
"""

import gc
import weakref

import numpy as np
import pytest
import torch
from every_family import CPU, GEOMETRY, SIZE, samples
from generations import arguments
from launching import launch
from safetensors.torch import load_file
from trainings import ADAPTER, adapter_settings, train

from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.adapters import LORA_FILE
from sgdmix_hub.models.sampling import draw_images, drawing
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.training.adapter.answers import answer_ahead
from sgdmix_hub.training.adapter.loop import class_prompts, denoising_loss
from sgdmix_hub.training.adapter.model import load_adapted

NAMES = ["kite", "snow goose", "little tern, in winter"]
DRAWN = ["a photo of a kite bird", "a photo of a snow goose bird"]


def gradients(loaded, model, prompts, labels):
    """The loss of a sample for each of one or two labels, and the gradients of the LoRA."""
    model.train()
    rows = slice(len(labels))
    noising = loaded.family.noising(loaded.pipeline.scheduler.config)
    latents, noise, timesteps = (value[rows] for value in samples(loaded))
    prediction = model(
        noising.noised(latents, noise, timesteps),
        noising.told(timesteps),
        [ids[labels] for ids in prompts],
        GEOMETRY[rows],
    )
    loss = denoising_loss(prediction, latents, noise, timesteps, noising, None).mean()
    loss.backward()
    found = {name: value.grad.clone() for name, value in model.lora().items()}
    model.zero_grad()
    return loss.item(), found


def drawn(loaded, model):
    options = {"num_inference_steps": 2, "guidance_scale": 4.0, "batch_size": 2}
    with drawing(model, CPU, torch.float32):
        return draw_images(loaded, DRAWN, [1, 2], resolution=SIZE, **options)


@pytest.mark.slow
def test_the_weights_learn_and_the_images_show_what_they_did_with_the_encoders(family, base_of):
    """To the bit, one sample at a time: in a batch the bits of a pooled output depend on its size.
    T5's dropout, which no generation has, is in no training either.
    """
    base = base_of(family.name)
    torch.manual_seed(0)
    chosen = AdapterSettings(**adapter_settings("unused", base, "unused", num_vectors=0))
    loaded, model = load_adapted(resolve(str(base)), chosen, len(NAMES))
    for name, value in model.lora().items():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.1, generator=torch.Generator().manual_seed(1))
    prompts = class_prompts(chosen, NAMES, loaded)
    batches = [[2], [0], [3], [1], [2, 0]]
    expected = [gradients(loaded, model, prompts, labels) for labels in batches]
    images = drawn(loaded, model)
    encoders = [weakref.ref(loaded.network(encoder)) for encoder in loaded.encoders]

    answer_ahead(loaded, model, prompts, CPU, torch.float32)
    gc.collect()
    assert [encoder() for encoder in encoders] == [None] * len(encoders)
    assert not list(model.text_encoders.parameters())
    for labels, (loss, wanted) in zip(batches, expected, strict=True):
        again, found = gradients(loaded, model, prompts, labels)
        assert found.keys() == wanted.keys()
        if len(labels) == 1:
            assert again == loss
            assert all(torch.equal(found[name], wanted[name]) for name in wanted)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert np.abs(drawn(loaded, model).astype(int) - images).max() <= 1
    with pytest.raises(ValueError, match="not asked this prompt"):
        draw_images(
            loaded,
            ["a photo of a dog"],
            [1],
            resolution=SIZE,
            num_inference_steps=2,
            guidance_scale=4.0,
            batch_size=1,
        )


@pytest.mark.slow
def test_two_processes_train_as_one(few_birds, tiny_base, tmp_path):
    """Nothing of an encoder is left to be synchronised."""
    given = {"num_vectors": 0, "num_train_samples": 8, "lora_dropout": 0.2, "learning_rate": 1e-3}
    alone = train(adapter_settings(few_birds, tiny_base, tmp_path / "alone", **given))
    shared = adapter_settings(few_birds, tiny_base, tmp_path / "shared", **given)
    done = launch([ADAPTER, *arguments(shared)], 2)
    assert done.returncode == 0, done.stderr
    expected = load_file(alone / LORA_FILE)
    for name, value in load_file(tmp_path / "shared" / LORA_FILE).items():
        # sums are rounded in another order, nothing else differs
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-4)
    assert done.stdout.count("memory: ") == 1
