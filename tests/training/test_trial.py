"""The passes that find the largest batch that fits: what they leave as it was."""

import pytest
import torch
from tiny_classifiers import ARCHITECTURES, SIDE
from trainings import adapter_settings
from transformers import AutoModelForImageClassification

from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.settings.training import ClassifierSettings
from sgdmix_hub.training.adapter import loop
from sgdmix_hub.training.adapter.model import load_adapted
from sgdmix_hub.training.classifier import batches
from sgdmix_hub.training.dropout import use_sample_dropout

CPU = torch.device("cpu")
PRECISIONS = ("no", "bf16")


def state_of(model, optimizer):
    """Copies of all that a training continues from."""
    values = dict(model.named_parameters()) | dict(model.named_buffers())
    moments = {
        f"{number} {name}": value
        for number, group in optimizer.state_dict()["state"].items()
        for name, value in group.items()
    }
    return {name: value.detach().clone() for name, value in (values | moments).items()} | {
        "random state": torch.get_rng_state()
    }


def assert_same(model, optimizer, before):
    after = state_of(model, optimizer)
    assert after.keys() == before.keys()
    assert not [name for name, value in after.items() if not torch.equal(value, before[name])]
    assert all(parameter.grad is None for parameter in model.parameters())


def stepped(model, loss):
    """AdamW after one step, which has given it its moments."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def a_classifier(architecture):
    config, _ = ARCHITECTURES[architecture]
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        if hasattr(config, name):
            config = type(config).from_dict(config.to_dict() | {name: 0.2})
    torch.manual_seed(0)
    model = AutoModelForImageClassification.from_config(config).train()
    images = torch.randn(4, 3, SIDE, SIDE)
    return model, stepped(model, model(pixel_values=images).logits.square().mean())


def settings_with(precision):
    return ClassifierSettings(
        dataset_name="org/birds", output_dir="unused", mixed_precision=precision
    )


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("architecture", ["resnet", "vit"])
def test_a_classifier_is_as_before_its_trial(architecture, precision):
    """Batch statistics, dropout, and the moments of the optimizer."""
    model, optimizer = a_classifier(architecture)
    before = state_of(model, optimizer)
    assert any(value.is_floating_point() and value.any() for value in model.buffers()) == (
        architecture == "resnet"
    )
    passes = []
    model.register_forward_hook(lambda *_: passes.append(model.training))
    batches.attempt(settings_with(precision), model, SIDE, CPU, 3)
    assert passes == [True]
    assert_same(model, optimizer, before)


def test_statistics_are_as_before_a_trial_that_ran_out_of_memory_in_its_middle():
    """The first layers had counted its images when the last ones failed."""
    model, optimizer = a_classifier("resnet")
    before = state_of(model, optimizer)

    def full(module, inputs):
        counted = [name for name, value in model.named_buffers() if differs(name, value)]
        assert counted
        raise torch.OutOfMemoryError

    def differs(name, value):
        return not torch.equal(value, before[name])

    handle = model.classifier.register_forward_pre_hook(full)
    with pytest.raises(torch.OutOfMemoryError):
        batches.attempt(settings_with("no"), model, SIDE, CPU, 3)
    handle.remove()
    assert_same(model, optimizer, before)


@pytest.mark.parametrize(
    "more",
    [{}, {"mixed_precision": "bf16"}, {"with_prior_preservation": True}, {"num_vectors": 0}],
    ids=lambda more: ", ".join(more) or "float32",
)
def test_an_adapter_is_as_before_its_trial(tiny_base, more):
    settings = AdapterSettings(
        **adapter_settings("unused", tiny_base, "unused", lora_dropout=0.3, **more)
    )
    torch.manual_seed(0)
    names = ["heron", "kite", "tern"]
    loaded, model = load_adapted(resolve(str(tiny_base)), settings, len(names))
    prompts = loop.class_prompts(settings, names, loaded)
    dropout = use_sample_dropout(model)
    optimizer = stepped(model, sum(value.square().sum() for value in model.trained().values()))
    before = state_of(model, optimizer)
    seen = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    loop.attempt(settings, loaded, model, prompts, dropout, CPU, 2)
    assert seen == [4 if settings.with_prior_preservation else 2]
    assert_same(model, optimizer, before)
