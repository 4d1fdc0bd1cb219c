"""Batch normalisation over processes: outputs, gradients and running statistics are those that one
process computes of the whole batch.
"""

import datetime

import pytest
import torch
from forking import fork
from torch import nn

from sgdmix_hub.training.batch_norm import batch_norm_layers, share_statistics

PROCESSES = 2


def network(kind):
    torch.manual_seed(0)
    if kind == "timm":
        layers = pytest.importorskip("timm.layers")
        norms = [layers.BatchNormAct2d(4), nn.BatchNorm2d(6, momentum=None)]
    else:
        norms = [nn.BatchNorm2d(4), nn.BatchNorm2d(6, affine=False)]
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), norms[0], nn.ReLU(), nn.Conv2d(4, 6, 3), norms[1], nn.Flatten()
    ).double()


def batch():
    """Eight images, whose halves have other means."""
    torch.manual_seed(1)
    return torch.randn(8, 3, 7, 7, dtype=torch.float64) + torch.arange(8).view(8, 1, 1, 1)


def passes(model, inputs, scale):
    """Two steps of training; the last outputs, gradients and buffers."""
    for _ in range(2):
        model.zero_grad()
        outputs = model(inputs)
        (outputs.sin().sum() * scale).backward()
    gradients = [weight.grad for weight in model.parameters()]
    return outputs.detach(), gradients, [buffer.clone() for buffer in model.buffers()]


def _half(rank, kind, store, results):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=PROCESSES,
        timeout=datetime.timedelta(seconds=60),
    )
    model = share_statistics(network(kind), on_gpu=False)
    outputs, gradients, buffers = passes(model, batch()[4 * rank : 4 * rank + 4], 1.0)
    for gradient in gradients:
        torch.distributed.all_reduce(gradient)
    torch.save((outputs, gradients, buffers, model.eval()(batch())), results / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torch", "timm"])
def test_two_processes_normalise_as_one(kind, tmp_path):
    processes = [fork(_half, rank, kind, tmp_path / "store", tmp_path) for rank in range(PROCESSES)]
    expected, gradients, buffers = passes(model := network(kind), batch(), 1.0)
    in_evaluation = model.eval()(batch())
    for process in processes:
        process.join()
        assert process.exitcode == 0
    halves = [torch.load(tmp_path / f"{rank}.pt") for rank in range(PROCESSES)]
    near = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(torch.cat([half[0] for half in halves]), expected, **near)
    for half in halves:
        torch.testing.assert_close(half[1], gradients, **near)
        torch.testing.assert_close(half[2], buffers, **near)
        torch.testing.assert_close(half[3], in_evaluation, **near)


def test_weights_keep_their_names():
    model = network("torch")
    before = list(model.state_dict())
    assert len(batch_norm_layers(model)) == 2
    assert list(share_statistics(model, on_gpu=False).state_dict()) == before
    assert list(share_statistics(network("torch"), on_gpu=True).state_dict()) == before
    pytest.importorskip("timm")
    synced = share_statistics(network("timm"), on_gpu=True)
    assert list(synced.state_dict()) == list(network("timm").state_dict())
    assert len(batch_norm_layers(synced)) == 2
    assert all(isinstance(layer, nn.SyncBatchNorm) for layer in batch_norm_layers(synced))
