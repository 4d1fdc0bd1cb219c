"""What CUB costs: the counts, by hand on small networks, and the table in the docs."""

import json
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from cost import GPUS, RATE, FusedAttention, forward_flops, table, training_cost

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def test_a_linear_layers_operations_and_kept_bytes():
    with torch.device("meta"):
        layers = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
        inputs = torch.empty(3, 4)
        forward = 2 * 3 * (4 * 8 + 8 * 2)
        assert forward_flops(layers, inputs) == forward
        cost = training_cost(layers, lambda: layers(inputs).sum())
    # gradients of both weights, and of the second layer's input
    assert cost["flops"] == 2 * forward + 2 * 3 * 8 * 2
    assert cost["kept_bytes"] == 4 * (3 * 4 + 3 * 8)  # the layers' inputs; no weights


def test_attention_keeps_no_weights_of_its_own():
    class Attention(nn.Module):
        def forward(self, inputs):
            return F.scaled_dot_product_attention(inputs * 2, inputs * 3, inputs * 4)

    with torch.device("meta"):
        inputs = torch.empty(1, 2, 50, 6, requires_grad=True)
        cost = training_cost(Attention(), lambda: Attention()(inputs).sum())
        with FusedAttention():
            assert Attention()(inputs).shape == inputs.shape
    assert cost["flops"] == 6 * (2 * 2 * 50 * 50 * 6)  # two products, and two for each backward
    assert cost["kept_bytes"] == 4 * 4 * inputs.numel()


def test_the_docs_show_the_table_of_the_results():
    results = json.loads((RESULTS / "cost.json").read_text())
    assert table(results) == (RESULTS / "cost.md").read_text()
    rows = [line for line in table(results).splitlines() if line.startswith("| ")]
    page = (ROOT / "docs" / "recipes.md").read_text()
    assert rows and not [row for row in rows if row not in page]
    flops = sum(stage["flops"] for stage in results["stages"])
    (total,) = (row for row in rows if row.startswith("| **all**"))
    assert [cell.strip() for cell in total.split("|")[3:5]] == [
        f"{flops / RATE / 3600 / gpus:.2f}" for gpus in GPUS
    ]
