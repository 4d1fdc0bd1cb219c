"""The trainings' benchmark: its tables say what its JSON says, and its loops train."""

import json
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from parts.training.classifier import CUB, judging_steps, network_of, training_steps
from tiny_classifiers import ARCHITECTURES, SIDE
from training import ADAPTER, CLASSIFIER, LOOPS, NOT_MEASURED, table

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
TINY = replace(CUB, network=ARCHITECTURES["resnet"][0], size=SIDE, batch=4)


@pytest.mark.parametrize("name", ["training", "training_gpu"])
def test_the_committed_table_is_that_of_the_results(name):
    results = json.loads((RESULTS / f"{name}.json").read_text())
    shown = (RESULTS / f"{name}.md").read_text()
    assert table(results) == shown
    cells = {
        line.split(" | ")[0].removeprefix("| "): line.split(" | ")[1]
        for line in shown.splitlines()
        if line.count("|") > 3 and "---" not in line
    }
    assert list(LOOPS) == [loop for loop in cells if loop != "Loop"]
    for loop in LOOPS:
        turns = results["loops"].get(loop)
        rate = turns and np.median([turn["steps_per_second"] for turn in turns])
        assert cells[loop] == (f"{rate:.3f}" if turns else NOT_MEASURED)


def test_what_needs_a_gpu_is_not_measured_without_one():
    results = json.loads((RESULTS / "training.json").read_text())
    assert {name for name, loop in LOOPS.items() if not loop.needs_gpu} == set(results["loops"])
    assert all(loop.needs_gpu for loop in CLASSIFIER.values())
    assert [name for name, loop in ADAPTER.items() if loop.needs_gpu] == [
        "sgdmix_hub, latents cached, compiled"
    ]
    figures = {"steps_per_second": 2.0, "peak_mb": 900.4}
    results["loops"] |= {name: [figures] for name in CLASSIFIER}
    assert "| judge, float32 | 2.000 | 128 | 900 |" in table(results)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_classifiers_loop_takes_optimizer_steps(precision):
    model = network_of(TINY)
    steps = training_steps(model, replace(TINY, precision=precision))
    seen = [model.classifier[1].weight.detach().clone() for _ in islice(steps, 3)]
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])


def test_a_judges_loop_looks_with_a_saved_classifier(tmp_path):
    steps = judging_steps(TINY, tmp_path / "judge")
    assert list(islice(steps, 2)) == [None, None]
    assert (tmp_path / "judge" / "config.json").exists()
