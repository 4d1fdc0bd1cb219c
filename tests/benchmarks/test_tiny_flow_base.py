"""The tiny flow-matching base: what trains it computes what stock does, and a stopped training goes
on to the same weights and a base that loads.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from parts.tiny_flow import training
from parts.tiny_flow.batched import Batched
from parts.tiny_flow.model import build_denoiser, build_tokenizer, pipeline_of
from tiny_flow_base import export
from two_bases import INPUT, NOISE, OUTPUT, arms_of, table, verdict

from sgdmix_hub.demo.tiny_training import cached_world
from sgdmix_hub.demo.train_tiny_base import TINY_BASE
from sgdmix_hub.demo.world import random_scene, vocabulary
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.bases.loading import load_base
from sgdmix_hub.models.bases.z_image import ZImage

FAMILY = ZImage()


def captions(count):
    random = np.random.default_rng(0)
    return ["", *(random_scene(random)[2] for _ in range(count - 1))]


def test_every_word_is_one_token_and_every_caption_fits():
    tokenizer = build_tokenizer()
    for word in vocabulary():
        assert len(tokenizer.tokenize(f"a {word}")) == 2, word
    ids = training.caption_ids(tokenizer, captions(300))
    shown = (ids >= 0).sum(1)
    assert ids.shape == (300, training.TEXT_TOKENS) and shown.max() <= training.TEXT_TOKENS
    assert shown[0] == 2


@pytest.mark.slow
def test_the_batched_transformer_is_the_stock_one():
    """Prediction and gradients, with prompts of different lengths."""
    denoiser = build_denoiser(8, 0)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.05, generator=random)
    ids = training.caption_ids(build_tokenizer(), captions(4))
    latents = torch.randn(4, 8, 16, 16, generator=random)
    timesteps = torch.tensor([1000.0, 600.0, 300.0, 2.0])
    outcomes = []
    for batched in (False, True):
        network = Batched(denoiser.transformer, 16, 32) if batched else denoiser.transformer
        told = FAMILY.encode_ids([denoiser.text_encoder], [ids], None)
        predicted = FAMILY.predict(network, latents, timesteps, told)
        denoiser.zero_grad()
        predicted.square().mean().backward()
        gradients = {
            name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
            for name, parameter in denoiser.named_parameters()
        }
        outcomes.append((predicted.detach(), gradients))
    (first, first_gradients), (second, second_gradients) = outcomes
    torch.testing.assert_close(second, first, rtol=1e-4, atol=1e-5)
    assert any(gradient.any() for gradient in first_gradients.values())
    for name, gradient in first_gradients.items():
        torch.testing.assert_close(second_gradients[name], gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_stopped_training_ends_as_one_that_was_not_and_the_export_draws(tmp_path):
    vae = training.load_vae()

    def trained(folder, *stops):
        images = cached_world(folder, 24, 0)
        latents = training.cached_latents(images, vae, folder / "latents.safetensors")
        for steps in stops:
            training.train(images, latents, vae, folder, steps, 0, compiled=False)
        return load_file(folder / "transformer.safetensors")

    whole = trained(tmp_path / "whole", 2)
    stage = {name: value for name, value in whole.items() if name.startswith("average.")}
    again = trained(tmp_path / "again", 2, 2)
    assert stage and all(torch.equal(again[name], value) for name, value in whole.items())
    facts = export(tmp_path / "whole", tmp_path / "base", 0)
    assert facts["steps"] == 2 and facts["megabytes"] < 20
    loaded = load_base(resolve(str(tmp_path / "base")), torch.float32, "text_to_image")
    loaded.pipeline.set_progress_bar_config(disable=True)
    (image,) = loaded.pipeline(
        "a photo of a bird", num_inference_steps=1, height=64, width=64, output_type="np"
    ).images
    assert image.shape == (64, 64, 3) and np.isfinite(image).all()


def cell(low):
    return {"accuracy": low + 0.05, "interval": [low, low + 0.1], "images": 100}


def arm_of(*shares):
    """An arm's figures: its share of right images from noise with every seed."""
    columns = (NOISE, "0.5", "0.7", "0.9")
    noise = {str(seed): cell(share - 0.05) for seed, share in enumerate(shares)}
    return {
        "cells": {column: cell(sum(shares) / len(shares) - 0.05) for column in columns},
        "noise": noise,
    }


def figures_with(arms):
    figures = {
        "samples": 1600,
        "seeds": [0, 1],
        "mixed": cell(0.8),
        "judge": 0.9,
        "torch": "2",
        "bases": {"flow": {"arms": arms}},
    }
    return json.loads(json.dumps(figures))


def test_a_class_counts_as_learned_above_chance_alone():
    arms = {"base": arm_of(0.15), INPUT: arm_of(0.161)}
    rows = [line for line in table(figures_with(arms)).splitlines() if "| flow" in line]
    assert ["| no |" in row for row in rows] == [True, False]


@pytest.mark.parametrize(
    ("in_input", "in_output", "said"),
    [
        ((0.5, 0.6, 0.7), (0.51, 0.59, 0.7), "as well"),
        ((0.5, 0.6, 0.7), (0.7, 0.81, 0.9), "as well"),
        ((0.5, 0.6, 0.7), (0.3, 0.4, 0.5), "worse"),
        ((0.5, 0.6, 0.7), (0.47, 0.57, 0.67), "as well"),  # by .03, less than what counts
        ((0.5, 0.6, 0.7), (0.4, 0.6, 0.8), "open"),  # the seeds disagree
        ((0.6,), (0.6,), "open"),
        ((0.12, 0.13, 0.1), (0.12, 0.13, 0.1), "open"),  # the input learned nothing either
    ],
)
def test_output_tokens_learn_as_well_by_the_rule_that_was_written_down(in_input, in_output, said):
    arms = {INPUT: arm_of(*in_input), OUTPUT: arm_of(*in_output)}
    assert verdict(arms) == said
    assert f"Verdict: {said}." in table(figures_with(arms))


def test_only_language_models_have_the_arm_with_output_tokens(tmp_path):
    vae = training.load_vae()
    pipeline_of(build_denoiser(8, 0), vae).save_pretrained(tmp_path / "flow")
    assert arms_of(tmp_path / "flow")[OUTPUT] == {"token_place": "output"}
    assert OUTPUT not in arms_of(TINY_BASE)
