"""The total batch: what was measured is what the docs show and say."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from total_batch import FINE_TUNING, TITLES, TRAININGS, table

from sgdmix_hub.settings.parsing import read_yaml

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = (ROOT / "docs" / "training.md").read_text()


def results():
    return json.loads((RESULTS / "total_batch.json").read_text())


def test_the_docs_show_the_tables_of_the_results():
    found = table(results())
    assert found == (RESULTS / "total_batch.md").read_text()
    rows = [line for line in found.splitlines() if line.startswith(("| ", "**"))]
    assert len(rows) == len(TITLES) * 2 + sum(len(each.arms) for each in TRAININGS.values())
    assert not [row for row in rows if row not in PAGE]


def test_two_processes_at_one_total_are_within_what_rounding_alone_does():
    """The docs' claim, of the trainings whose rounding is known; the batch of each is not."""
    for kind in ("fine-tuning", "classifier"):
        arms = results()["trainings"][kind]
        same, each = (arms[f"2 processes, same {what}"] for what in ("total", "batch each"))
        assert same["distance"] < each["distance"]
    tuned = results()["trainings"]["fine-tuning"]
    for arm in ("2 processes, same total", "1 process, rounded otherwise"):
        assert round(tuned[arm]["distance"], 3) == 0.003
    adapter = results()["trainings"]["adapter"]
    assert adapter["2 processes, same total"]["distance"] < 1e-6


def test_fine_tuning_is_that_of_the_recipe():
    recipe = read_yaml(ROOT / "sgdmix_hub" / "recipes" / "cub-sgdmix" / "classifier.yaml")
    for name in ("optim", "learning_rate", "weight_decay", "total_batch_size"):
        assert FINE_TUNING[name] == recipe[name]


def test_what_was_not_run_says_so():
    measured = results()
    del measured["trainings"]["fine-tuning"]
    assert f"**{TITLES['fine-tuning']}**: not measured" in table(measured)
