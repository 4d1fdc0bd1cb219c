"""Dropout whose masks belong to samples."""

import pytest
import torch
from torch import nn
from transformers import SwinConfig, SwinForImageClassification

from sgdmix_hub.training.dropout import SampleDropout, SampleSeeds, use_sample_dropout


@pytest.mark.parametrize("whole", [False, True])
def test_it_drops_the_share_and_keeps_the_mean(whole):
    seeds = SampleSeeds(list(range(4000)))
    dropped = SampleDropout(0.3, seeds, 0, whole)(torch.ones(4000, 5))
    assert set(dropped.unique().tolist()) == {0.0, torch.tensor(1.0).div(0.7).item()}
    assert (dropped == 0).float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert bool((dropped == dropped[:, :1]).all()) == whole


def test_a_mask_is_a_function_of_sample_and_layer():
    seeds = SampleSeeds([7, 8, 9])
    layer, other = (SampleDropout(0.5, seeds, number) for number in (0, 1))
    inputs = torch.ones(6, 40)  # two rows each
    together = layer(inputs)
    assert not torch.equal(together, other(inputs))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    seeds.rows = [9]
    assert torch.equal(layer(inputs[:2]), together[4:])
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(layer.eval()(inputs), inputs)


def test_a_network_with_stochastic_depth_drops_alike_however_its_batch_is_split():
    torch.manual_seed(0)
    config = SwinConfig(
        image_size=16, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[1, 2], window_size=2
    )
    config.hidden_dropout_prob, config.drop_path_rate = 0.2, 0.5
    model = SwinForImageClassification(config).train()
    seeds = use_sample_dropout(model)
    kinds = {type(module).__name__ for module in model.modules()}
    assert "SampleDropout" in kinds and not kinds & {"SwinDropPath", "Dropout"} - {"Dropout"}
    assert all(module.p == 0 for module in model.modules() if isinstance(module, nn.Dropout))
    inputs = torch.randn(4, 3, 16, 16)

    def passed(rows):
        seeds.rows = rows
        return model(pixel_values=inputs[rows]).logits

    torch.testing.assert_close(passed([0, 1, 2, 3]), torch.cat([passed([0, 1]), passed([2, 3])]))
    seeds.rows = [4, 5, 6, 7]
    assert not torch.allclose(model(pixel_values=inputs).logits, passed([0, 1, 2, 3]))
