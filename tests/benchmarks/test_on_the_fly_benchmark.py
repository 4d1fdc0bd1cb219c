"""The benchmark of mixing on the fly: what its tables say, and what its arms train on."""

import importlib.util
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from parts.method.arms import make_domain
from parts.on_the_fly import training
from parts.on_the_fly.training import (
    ARMS,
    FLY,
    KINDS,
    LACKING,
    PUBLISHED,
    Domain,
    landscapes,
)

from sgdmix_hub.files import write_json

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def program():
    """The program, whose name is that of a page."""
    spec = importlib.util.spec_from_file_location(
        "on_the_fly_benchmark", BENCHMARKS / "on_the_fly.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_ratio_compares_passes_of_the_same_turn(program):
    """Turns of a busy and of an idle machine: each arm keeps half the loader's speed in each."""
    speeds = [
        {"size": 256, "arm": "data loader alone", "passes": [100.0, 20.0, 40.0]},
        {"size": 256, "arm": "mixed, p = 1", "passes": [50.0, 10.0, 20.0]},
    ]
    lines = program.speed_table(speeds).splitlines()
    assert lines[2] == "| 341x256 JPEG, 224 | data loader alone | 40 | 1.00 |"
    assert lines[3] == "| 341x256 JPEG, 224 | mixed, p = 1 | 20 | 0.50 |"


def test_differences_are_paired_by_seed(program):
    def accuracy(value):
        return {"all": value, "rare landscapes": value}

    seeds = {
        "1": {FLY: accuracy(0.5), PUBLISHED: accuracy(0.4)},
        "2": {FLY: accuracy(0.7), PUBLISHED: accuracy(0.6)},
        "3": {FLY: accuracy(0.9)},
    }
    text = program.accuracy_tables(seeds)
    assert f"| {FLY} - {PUBLISHED} | +0.100 | +0.100 |" in text


def test_only_seeds_with_every_arm_count(program, tmp_path):
    for seed, arms in (("1", ARMS), ("2", [FLY])):
        (tmp_path / f"seed-{seed}").mkdir()
        write_json(tmp_path / f"seed-{seed}" / "figures.json", dict.fromkeys(arms, {}))
    assert set(program.finished_seeds(tmp_path)) == {"1"}


def test_a_bank_has_landscapes_of_the_kinds_asked_for_and_no_labels():
    bank = landscapes(1, list(LACKING), 8)
    assert bank.column_names == ["image"] and len(bank) == 8
    again = landscapes(1, list(LACKING), 8)
    assert np.array_equal(bank[3]["image"], again[3]["image"])
    assert len(LACKING) == 4 and len(KINDS) == 10


@pytest.mark.slow
def test_arms_differ_by_their_images_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("parts.method.arms.JUDGE", 1)
    monkeypatch.setattr("parts.method.arms.TEST", 1)
    monkeypatch.setattr(training, "make_domain", partial(make_domain, train=1))
    monkeypatch.setattr(training, "landscapes", partial(landscapes, count=4))
    domain = Domain(tmp_path, 1)
    labels = domain.real.labels.tolist()
    assert len(labels) == 6
    for make in ARMS.values():
        images = make(domain)
        assert [images[row]["label"] for row in range(len(images))] == labels
