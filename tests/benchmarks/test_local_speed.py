"""The comparison of two revisions' speed: its interval, its rule, and what is committed of it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from local_speed import BOUND, ratio, table, verdict

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def turns_of(ratios, noise=0.0, seed=0):
    """Turns on a machine that is up to twice as slow at times."""
    rng = np.random.default_rng(seed)
    old = rng.uniform(10, 20, len(ratios))
    new = old * ratios * np.exp(rng.normal(0, noise, len(ratios)))
    return [{"old": {"cpu": a}, "new": {"cpu": b}} for a, b in zip(old, new, strict=True)]


@pytest.mark.parametrize(
    "ratios, noise, told",
    [
        ([1.0] * 8, 0.005, "as fast"),
        ([1.1] * 8, 0.005, "slower"),
        ([1.0, 1.06] * 4, 0.0, "undecided"),
    ],
)
def test_a_pairs_ratio_does_not_depend_on_the_machines_mood(ratios, noise, told):
    found = ratio(turns_of(ratios, noise), "cpu")
    assert found["low"] < found["ratio"] < found["high"]
    assert found["ratio"] == pytest.approx(np.exp(np.mean(np.log(ratios))), abs=0.01)
    assert verdict(found) == told


def test_the_interval_holds_the_truth_19_times_in_20():
    held = 0
    for seed in range(400):
        found = ratio(turns_of([1.02] * 6, 0.03, seed), "cpu")
        held += found["low"] < 1.02 < found["high"]
    assert 0.92 < held / 400 < 0.98


def test_the_committed_figures_are_those_of_the_table():
    found = json.loads((RESULTS / "local_speed.json").read_text())
    assert found["cpu"] == ratio(found["turns"], "cpu")
    assert found["wall"] == ratio(found["turns"], "wall")
    assert found["verdict"] == verdict(found["cpu"])
    assert table(found) == (RESULTS / "local_speed.md").read_text()
    assert BOUND == 1.03
